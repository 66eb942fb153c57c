"""The ids by which a track tells duplicates: read under its claim, kept beside its slab, written in the atom of its commits.

A track is a view's entities of one bucket. It keeps the ids that ``kernel.dedupe`` needs in state values of their own, a run of them
for each tile of the horizon, since a tile is deleted whole once the running maximum has left it behind: no id has a time to live.
A value is a header, then rows in order of the log: hash, event time, offset. A full one is followed by the next.

Rows are moved by the same call as the offset, so a row's offset is below the track's. What is not counts for nothing: an event is a
duplicate of one with a *lower* offset, and a track that was put back meets its own ids again.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.define.spec import Source
from featureflow.errors import StateError
from featureflow.kernel.dedupe import ID_BYTES, Ids
from featureflow.kernel.events import Events
from featureflow.store.keys import Keys
from featureflow.store.online.protocol import OnlineStore, Track
from featureflow.store.online.writes import Patch, StateWrite, Writes

HEADER = struct.Struct("<4s4xqq")          # magic, horizon (us), tile
ROW = struct.Struct(f"<{ID_BYTES}sqq")     # hash, event time (us), offset
MAGIC = b"FFi1"
VALUE_ROWS = 16_384                        # of one value: half a megabyte
VALUES_READ = 4                            # in one read


@dataclass
class _Held:
    """One track's ids of one partition. ``rows``: tile -> rows in the store; ``sent``: once all commits that were sent are applied."""

    ids: Ids
    rows: dict[int, int] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    sent_to: int = -1
    pending: list[tuple[int, int, bytes]] = field(default_factory=list)   # offset, tile, row: of no commit that was applied

    def ready(self, from_offset: int, to_offset: int, max_time_us: int) -> dict[int, list[bytes]]:
        """Tile -> rows that a commit from there to there adds."""
        oldest = self.ids.oldest(max_time_us)
        found: dict[int, list[bytes]] = {}
        for offset, tile, row in self.pending:
            if offset >= to_offset:
                break
            if tile >= oldest and offset >= from_offset:
                found.setdefault(tile, []).append(row)
        return found


class KeptIds:
    """The ids of all tracks of one source, of any number of partitions. Used from one thread.

    What is here belongs to the claim under which it was read, as in the slab: ``drop`` it after any refusal that lasts.
    """

    def __init__(self, source: Source, keys: Keys) -> None:
        self._source, self._keys = source, keys
        self._held: dict[int, dict[Track, _Held]] = {}     # by partition
        self._kept: Counter[tuple[int, str]] = Counter()   # of all buckets of a view, once all commits that were sent are applied

    def load(self, online: OnlineStore, partition: int, track: Track, offset: int, max_time_us: int) -> None:
        """Read the track's ids, where they are not here. ``offset`` and ``max_time_us``: where it stands, as committed."""
        if track in self._held.setdefault(partition, {}):
            return
        held = self._held[partition][track] = _Held(Ids(self._source))
        oldest = held.ids.oldest(max_time_us)
        for tile in (oldest, oldest + 1):
            rows = 0
            for value in self._values(online, partition, track, tile):
                data = self._checked(value, track, partition, tile)
                for name, time_us, at in ROW.iter_unpack(data):
                    if counts(at, offset):
                        held.ids.tiles.setdefault(tile, {})[name] = time_us
                rows += len(data) // ROW.size
            if rows:
                held.rows[tile] = rows

    def judge(
        self, partition: int, track: Track, events: Events, key_field: str, takes: NDArray[np.bool_], running_max_us: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which of the events that the track would fold are duplicates (n,). The others' ids go with their commit."""
        held = self._held[partition][track]
        duplicate, counted = held.ids.judge(events, key_field, takes, running_max_us)
        within_us = self._source.within_us
        for place, name in counted:
            time_us, offset = int(events.times_us[place]), int(events.offsets[place])
            held.pending.append((offset, time_us // within_us, ROW.pack(name, time_us, offset)))
        return duplicate

    def begin(self, partition: int) -> None:
        """What is written from now on follows what was applied: nothing else is on its way."""
        self._forget_kept(partition)
        for track, held in self._held.get(partition, {}).items():
            held.sent, held.sent_to = dict(held.rows), -1
            self._kept[partition, track.view_id] += sum(held.sent.values())

    def writes(self, partition: int, track: Track, to_offset: int, max_time_us: int) -> Writes:
        """What a commit to this offset and running maximum adds and deletes, behind those that were asked for since ``begin``.

        Raises StateError where that keeps too many.
        """
        held = self._held.get(partition, {}).get(track)
        if held is None:
            return Writes()
        before = sum(held.sent.values())
        oldest, ready = held.ids.oldest(max_time_us), held.ready(held.sent_to, to_offset, max_time_us)
        gone = [tile for tile in sorted(held.sent) if tile < oldest]
        written = [write for tile in gone for write in self._gone(partition, track, tile, held.sent.pop(tile))]
        for tile, rows in ready.items():
            stored = held.sent.get(tile, 0)
            written += self._added(partition, track, tile, stored, rows)
            held.sent[tile] = stored + len(rows)
        held.sent_to = to_offset
        self._kept[partition, track.view_id] += sum(held.sent.values()) - before
        if (kept := self._kept[partition, track.view_id]) > limits.IDS:
            raise StateError(
                f"view {track.view_id} would keep {kept} ids of {self._source.name}/{partition} to tell duplicates by, and at most "
                f"{limits.IDS} are kept: shorten within= of the event, or give its topic more partitions"
            )
        return Writes.of(written)

    def moved(self, partition: int, track: Track, to_offset: int, max_time_us: int) -> None:
        """Such a commit was applied."""
        held = self._held.get(partition, {}).get(track)
        if held is None:
            return
        for tile, rows in held.ready(-1, to_offset, max_time_us).items():
            held.rows[tile] = held.rows.get(tile, 0) + len(rows)
        held.pending = [entry for entry in held.pending if entry[0] >= to_offset]
        oldest = held.ids.oldest(max_time_us)
        held.rows = {tile: rows for tile, rows in held.rows.items() if tile >= oldest}
        held.ids.prune(max_time_us)

    def drop(self, partition: int) -> None:
        """Forget everything of the partition, committed or not."""
        self._held.pop(partition, None)
        self._forget_kept(partition)

    def _forget_kept(self, partition: int) -> None:
        for key in [key for key in self._kept if key[0] == partition]:
            del self._kept[key]

    def _added(self, partition: int, track: Track, tile: int, stored: int, rows: list[bytes]) -> Iterator[StateWrite]:
        header, at = self._header(tile), 0
        while at < len(rows):
            value, before = divmod(stored + at, VALUE_ROWS)
            some = rows[at : at + VALUE_ROWS - before]
            key, data = self._key(partition, track, tile, value), b"".join(some)
            if before:
                size = HEADER.size + before * ROW.size
                yield StateWrite(key, size, header, 0, patches=(Patch(size, data),))
            else:
                yield StateWrite(key, 0, b"", 0, whole=header + data)
            at += len(some)

    def _gone(self, partition: int, track: Track, tile: int, rows: int) -> Iterator[StateWrite]:
        for value, first in enumerate(range(0, rows, VALUE_ROWS)):
            size = HEADER.size + min(VALUE_ROWS, rows - first) * ROW.size
            yield StateWrite(self._key(partition, track, tile, value), size, self._header(tile), 0, whole=b"")

    def _values(self, online: OnlineStore, partition: int, track: Track, tile: int) -> Iterator[bytes]:
        value = 0
        while True:
            for data in online.read([self._key(partition, track, tile, value + i) for i in range(VALUES_READ)]):
                if data is None:
                    return
                yield data
            value += VALUES_READ

    def _checked(self, value: bytes, track: Track, partition: int, tile: int) -> bytes:
        """A value's rows. Raises StateError where it is none of this track's."""
        if value[: HEADER.size] != self._header(tile) or (len(value) - HEADER.size) % ROW.size:
            raise StateError(
                f"the ids of view {track.view_id} in {self._source.name}/{partition} are not what this version of FeatureFlow writes: "
                f"something else writes to its keys. Run `featureflow rebuild {track.view_id.partition('@')[0]}`"
            )
        return value[HEADER.size :]

    def _header(self, tile: int) -> bytes:
        return HEADER.pack(MAGIC, self._source.within_us, tile)

    def _key(self, partition: int, track: Track, tile: int, value: int) -> bytes:
        return self._keys.ids(track.view_id, self._source.name, partition, tile, value, track.bucket)


def counts(at: int, offset: int) -> bool:
    """Whether an id that was stored of the event ``at`` an offset counts for a track that stands at ``offset``."""
    return at < offset
