"""What features must be, from the events' own columns by numpy: apart from the code that is measured, but for reading the answer."""

from __future__ import annotations

from math import fsum

import numpy as np
from stream import Stream

from featureflow.define import spec
from featureflow.kernel.finalize import ViewKernel
from featureflow.kernel.state import parse
from featureflow.store.keys import Keys
from featureflow.store.online.redis import BUCKETS, RedisOnlineStore
from real_servers import Servers

LADDER_US = [seconds * 1_000_000 for seconds in (1, 10, 60, 300, 900, 3_600, 21_600, 86_400)]
CHECKED = 300


def tile_us(length_us: int) -> int:
    """The largest step of which a sliding window holds at least twelve."""
    return max(step for step in LADDER_US if length_us >= 12 * step)


def verify(servers: Servers, project: spec.Project, stream: Stream, buckets: int = BUCKETS) -> dict[str, object]:
    """Compare every feature of 300 users, spread over all that have events, with a replay; raises where one differs."""
    view, source = project.views[0], project.sources[0]
    kernel = ViewKernel(view, {source.name: source})
    online, names = RedisOnlineStore(servers.redis), Keys(project.name, buckets)
    everyone = np.unique(stream.users)
    sample = everyone[:: max(1, len(everyone) // CHECKED)]
    q = int(stream.at.max())
    layout = kernel.layouts[source.name]
    owners = [None] if layout.keyed else list(range(stream.partitions))
    blobs = [
        online.read([names.state(view.entity, f"user-{u:07d}", view.id, source.name, owner) for owner in owners]) for u in sample.tolist()
    ]
    values = kernel.finalize({source.name: parse(layout, blobs)}, np.full(len(sample), q)).values
    order = np.argsort(stream.users, kind="stable")
    begins = np.searchsorted(stream.users[order], sample)
    ends = np.searchsorted(stream.users[order], sample, side="right")
    for row, user in enumerate(sample.tolist()):
        mine = order[begins[row] : ends[row]]
        times, amounts = stream.at[mine], stream.cents[mine] / 100
        for column, feature in enumerate(view.features):
            length = feature.window.length_us
            tile = tile_us(length)
            above = int(feature.name.split("_")[1]) if "_" in feature.name and feature.name.split("_")[1].isdigit() else 0
            amount = amounts[(times // tile * tile >= (q - length) // tile * tile) & (amounts > above)]
            exact = {
                "count": len(amount), "min": amount.min(initial=np.inf), "max": amount.max(initial=-np.inf),
                "sum": fsum(amount.tolist()), "mean": fsum(amount.tolist()) / max(len(amount), 1),
            }[feature.aggregation.op]  # fmt: skip
            if len(amount) and values[row, column] != exact:
                raise SystemExit(f"wrong: user {user} {feature.name} is {values[row, column]}, must be {exact}")
    online.close()
    sizes = [len(blob) for parts in blobs for blob in parts if blob]
    return {
        "checked": f"every feature of {len(sample)} of {len(everyone)} users, to the bit",
        "checked_users": len(sample),
        "state_bytes_per_entity": round(float(np.sum(sizes)) / len(sample)),
    }
