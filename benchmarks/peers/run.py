"""Other stream engines on one topic and the windows that they have in common with FeatureFlow, each result compared with numpy's.

The engines write each window once it is closed; FeatureFlow keeps the current one readable all along, and is checked at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import numpy as np
from installation import Workers, apply
from peers import environments, truth
from peers.environments import Command
from stream import Sender, Stream

from featureflow.kernel.finalize import ViewKernel
from featureflow.kernel.state import parse
from featureflow.store.keys import Keys
from featureflow.store.log.open import open_log
from featureflow.store.online.redis import BUCKETS, RedisOnlineStore
from real_servers import Servers

ENGINES: dict[str, Callable[[], Command]] = {
    "flink": environments.flink,
    "bytewax": lambda: environments.python("bytewax"),
    "quix": lambda: environments.python("quix"),
}
USERS, SPAN_S = 10_000, 600
LONGEST_S = 1_800
Figures = dict[str, object]


def rows(servers: Servers, events: int, engines: list[str]) -> list[Figures]:
    """FeatureFlow and each engine, for each kind of window; how many times the engine's rate and CPU FeatureFlow does, beside it."""
    stream, found = Stream.of(events, USERS, span_s=SPAN_S), []
    topic, nothing = f"peers-{servers.run}", f"peers-nothing-{servers.run}"
    _produce(servers, topic, stream)
    _produce(servers, nothing, None)
    for window in (truth.TUMBLING, truth.HOPPING):
        mine = _ours(servers, stream, window)
        found.append({"row": f"featureflow {window}", **mine})
        _say(found[-1])
        for name in engines:
            command = ENGINES[name]()
            start_wall_s, start_cpu_s = _run(servers, command, window, nothing)      # what it takes for nothing is its start
            wall_s, cpu_s = _run(servers, command, window, topic)
            with servers.client() as client:
                differing, extra = truth.wrong(client, *truth.windows(window, stream.users, stream.at, stream.cents))
            per_s, cpu_us = events / max(wall_s - start_wall_s, 1e-9), (cpu_s - start_cpu_s) / events * 1e6
            found.append({
                "row": f"{name} {window}", "version": command.version, "events": events, "events_per_s": round(per_s),
                "cpu_us_per_event": round(cpu_us, 2), "start_s": round(start_wall_s, 1), "wrong": differing, "extra": extra,
                "rate_ratio": round(float(str(mine["events_per_s"])) / per_s, 2),
                "cpu_ratio": round(cpu_us / float(str(mine["cpu_us_per_event"])), 2),
            })  # fmt: skip
            _say(found[-1])
    servers.empty()
    return found


def _produce(servers: Servers, topic: str, stream: Stream | None) -> None:
    """The events, then one a day later, which closes every window."""
    open_log(f"kafka://{servers.kafka}").ensure_topic(topic, 1)
    sender = Sender(servers.kafka, topic)
    if stream is not None:
        for partition, records in stream.batches():
            sender.send(partition, records)
    closing = Stream(np.array([truth.NOBODY]), np.array([time.time_ns() // 1000 + 86_400_000_000]), np.array([1]))
    sender.send(0, next(closing.batches())[1])
    sender.close()


def _ours(servers: Servers, stream: Stream, window: str) -> Figures:
    servers.empty()
    topic = f"ours-{window}-{servers.run}"
    project = apply(servers, topic, 1, definitions=f"peers/{window}.py")
    _produce(servers, topic, stream)
    redis_before = servers.redis_cpu_s()
    with Workers(servers, 1, 1) as workers:
        workers.folded(project, len(stream))
        redis_s = servers.redis_cpu_s() - redis_before
        (report,) = workers.stop()
    view, source = project.views[0], project.sources[0]
    kernel, names, online = ViewKernel(view, {source.name: source}), Keys(project.name, BUCKETS), RedisOnlineStore(servers.redis)
    ids, q = np.unique(stream.users), int(stream.at.max())
    blobs = online.read([names.state(view.entity, f"user-{user:07d}", view.id, source.name, None) for user in ids.tolist()])
    values = kernel.finalize({source.name: parse(kernel.layouts[source.name], [[b] for b in blobs])}, np.full(len(ids), q)).values
    online.close()
    keys, expected = truth.windows(window, stream.users, stream.at, stream.cents)
    now = keys[:, 1] == q // truth.MINUTE_US - (9 if window == truth.HOPPING else 0)
    got = values[np.searchsorted(ids, keys[now, 0])]
    same = np.isclose(got[:, 1], expected["sum"][now], rtol=1e-12)
    for column, part in ((0, "count"), (2, "min"), (3, "max")):
        same &= got[:, column] == expected[part][now]
    return {
        "events": len(stream), "events_per_s": round(report.events / report.wall_s),
        "cpu_us_per_event": round(report.cpu_s / report.events * 1e6, 2),
        "redis_cpu_us_per_event": round(redis_s / len(stream) * 1e6, 2), "wrong": int((~same).sum()), "checked": int(now.sum()),
    }  # fmt: skip


def _run(servers: Servers, command: Command, window: str, topic: str) -> tuple[float, float]:
    """(wall, CPU) seconds of one run over all of the topic, on an empty database."""
    servers.empty()
    place = urlsplit(servers.redis)
    folder = tempfile.mkdtemp()
    extra = {
        "flink": [str(place.port), place.path.lstrip("/"), folder], "bytewax": [servers.redis], "quix": [servers.redis, folder],
    }[command.name]  # fmt: skip
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    began = time.monotonic()
    try:
        process = subprocess.Popen([*command.words, servers.kafka, topic, window, *extra], stdout=sys.stderr, env=own)
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > began + LONGEST_S:
                process.kill()
                raise SystemExit(f"{command.name} {window} took longer than {LONGEST_S} s")
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command.name} {window} ended with {process.returncode}")
        return time.monotonic() - began, used.ru_utime + used.ru_stime
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say(figures: Figures) -> None:
    print(json.dumps(figures), file=sys.stderr, flush=True)
