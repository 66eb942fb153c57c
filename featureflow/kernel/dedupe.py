"""Which events are duplicates: told one by one, in offset order, from the log alone.

Of a source that says ``dedupe="event_id"`` within H, an event of a view's entity is a duplicate iff an earlier event (a lower
offset of the same partition) that the view counted has the same id and the same entity, and an event time t with

    t >= M - H

M being the partition's running maximum of accepted event times with this event (``kernel.accept``). Events that the view does
not count (from the future, late, without an entity, duplicates themselves) make none. An event without an id is no duplicate.

The entity belongs to the id, so that whoever keeps one share of the entities (a bucket, a reader of a few) tells the same as
one who keeps all.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Source
from featureflow.kernel.events import Events

ID_BYTES = 16                              # of a hash: among 10^12 ids the chance of any two being equal is 10^-15


class Ids:
    """The ids that one view counted of one partition, by tiles as long as the horizon: two of them can matter, and a tile goes whole.

    ``tiles[k]``: hash -> event time (us), of event times in [k H, (k + 1) H).
    """

    def __init__(self, source: Source) -> None:
        assert source.dedupe is not None
        self.field, self.within_us = source.dedupe, source.within_us
        self.tiles: dict[int, dict[bytes, int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.tiles.values()))

    def judge(
        self, events: Events, key_field: str, takes: NDArray[np.bool_], running_max_us: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], list[tuple[int, bytes]]]:
        """Which of the events that the view would count, ``takes`` (n,), are duplicates (n,).

        And the others that have an id, as (place, hash): these are known from now on.
        """
        within_us, tiles, nothing = self.within_us, self.tiles, dict[bytes, int]()
        duplicate = np.zeros(len(events), np.bool_)
        counted = []
        chosen = np.flatnonzero(takes)
        names = hashes(events.columns[self.field][chosen], events.columns[key_field][chosen])
        for place, name, time_us, max_us in zip(
            chosen.tolist(), names, events.times_us[chosen].tolist(), running_max_us[chosen].tolist(), strict=True
        ):
            if name is None:
                continue
            newest = max_us // within_us
            known = tiles.get(newest, nothing).get(name)
            if known is None:
                known = tiles.get(newest - 1, nothing).get(name)
            if known is not None and known >= max_us - within_us:
                duplicate[place] = True
                continue
            counted.append((place, name))
            tile = time_us // within_us
            if tile >= newest - 1:                             # an older one can make no duplicate
                tiles.setdefault(tile, {})[name] = time_us
        return duplicate, counted

    def prune(self, max_time_us: int) -> list[int]:
        """Forget the tiles that no longer matter at this running maximum. Those that went."""
        gone = [tile for tile in self.tiles if tile < self.oldest(max_time_us)]
        for tile in gone:
            del self.tiles[tile]
        return gone

    def oldest(self, max_time_us: int) -> int:
        """The oldest tile that may hold an id which matters at this running maximum."""
        return max_time_us // self.within_us - 1


def hashes(ids: NDArray[Any], entities: NDArray[Any]) -> list[bytes | None]:
    """A hash of each id and its entity; None for an event without an id. Numbers are whole, and hashed as they are written."""
    numbers, whole = ids.dtype != object, entities.dtype != object
    found: list[bytes | None] = []
    for one, entity in zip(ids.tolist(), entities.tolist(), strict=True):
        if one is None or one != one:
            found.append(None)
            continue
        name = b"%d" % one if numbers else one.encode()
        about = b"%d" % entity if whole else entity.encode()
        found.append(blake2b(b"%d:%b%b" % (len(name), name, about), digest_size=ID_BYTES).digest())
    return found
