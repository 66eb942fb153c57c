"""The worker's copy of one view's state from one source: every cached row of every entity in one table.

Events are folded into rows by one sort, one segmented reduction and fancy indexing; there is no Python loop over events but
the look-up of their entities. Most events belong to their entity's newest row or to one after it, which is told by one
comparison; only for the others are the entity's rows searched. What a commit must write is read off the rows that were
touched.

    absent -> load -> fold -> writes -> (commit) -> committed          drop, after any refusal

One partition at a time: what was folded is committed or dropped before another partition's events are folded.

What is here belongs to the claim under which it was read: after a refusal, or when the partition goes, ``drop`` it all.
An entity is here whole or not at all, and one that was loaded absent is known to be empty. Nothing that a commit has yet
to write is ever evicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import NO_TIME_US
from featureflow.errors import StateError
from featureflow.ingest.arena import Arena, spans
from featureflow.kernel import rollup, state
from featureflow.kernel.columns import LEVEL, START, Layout
from featureflow.kernel.events import Events
from featureflow.kernel.fold import combine, fold
from featureflow.kernel.tile import SECOND_US
from featureflow.store.keys import Keys
from featureflow.store.online.protocol import Patch, StateWrite

Id = str | int
Index = NDArray[np.int64]

ROLL_UP_SHARE = 0.5                    # of an entity's rows dead or rollable: it is rolled up and written whole
ROLL_UP_LEAST_ROWS = 16                # fewer are not looked at
ROLL_UP_ROWS = 8 * limits.COMMIT_ROWS  # looked at, and so written, in one commit: keeps a reader's wait near 1 ms
EVICT_TO = 0.9                         # of the bound, so that evicting is seldom
ENTITY_OVERHEAD_BYTES = 550            # id, state key, header, dict entry, and a line in each array

# What events are sorted by: slot, level, and start in seconds, in one int64.
TIME_BITS = 35
LEVEL_BITS = 4
SLOT_SHIFT = TIME_BITS + LEVEL_BITS
SLOTS = 1 << (63 - SLOT_SHIFT)
EARLIEST_US = -(2**53)                 # no event is earlier; the lifetime tile, which is, counts from here


class Slab:
    """All cached rows of one layout, of any number of partitions. Used from one thread.

    ``max_bytes`` bounds what ``evict`` leaves; places that are left behind are kept for the next that need them.
    """

    def __init__(self, layout: Layout, keys: Keys, max_bytes: int = limits.SLAB_BYTES) -> None:
        self.layout = layout
        self._names = keys
        self.max_bytes = max_bytes
        self._arena = Arena(layout.width, max(1, max_bytes // layout.row_bytes))
        self._slots: dict[int, dict[Id, int]] = {}                 # partition -> entity id -> slot
        self._folding = -1                                         # the partition with folds to commit
        self._touched: list[tuple[Index, Index]] = []              # (slots, positions) folded into since the last commit
        self._free: list[int] = []
        self._next_headers: dict[int, bytes] = {}                  # of what ``writes`` wrote whole
        self._last_header: tuple[object, bytes] = (None, b"")
        self._clock = 0
        coarser = len(layout.levels) - 1
        # one line per slot
        self._ids: list[Id] = []
        self._keys: list[bytes] = []
        self._headers: list[bytes] = []                            # as stored
        self._partition = np.zeros(0, np.int64)                    # -1: a free slot
        self._stored_rows = np.zeros(0, np.int64)                  # -1: the key is absent in the store
        self._rewrite = np.zeros(0, np.bool_)                      # to be written whole
        self._dirty = np.zeros(0, np.bool_)
        self._last_used = np.zeros(0, np.int64)
        self._newest_start = np.zeros(0, np.int64)                 # the latest start of rows of the finest level
        self._newest_at = np.zeros(0, np.int64)                    # and the position of that row
        self._look_at = np.zeros(0, np.int64)                      # rows at which a roll-up is considered again,
        self._look_after_us = np.zeros(0, np.int64)                # and the horizon after which it is
        self._horizon = np.zeros(0, np.int64)
        self._frontiers = np.zeros((0, coarser), np.int64)

    # -- what it holds -------------------------------------------------------------------------------------------------

    @property
    def entities(self) -> int:
        return sum(map(len, self._slots.values()))

    @property
    def used_bytes(self) -> int:
        """Estimated memory in use: rows, with the room that their entities keep to grow, and what finds them."""
        return self._arena.rows * self.layout.row_bytes + self.entities * ENTITY_OVERHEAD_BYTES

    @property
    def rows_touched(self) -> int:
        """Rows folded into since the last commit; one that two folds touched counts twice."""
        return sum(len(slots) for slots, _ in self._touched)

    def ids(self, events: Events) -> list[Id]:
        """Each event's entity id."""
        return _plain(events.columns[self.layout.key_field])

    def key(self, partition: int, entity_id: Id) -> bytes:
        """The entity's state key."""
        layout = self.layout
        return self._names.state(layout.entity, entity_id, layout.view_id, layout.source, None if layout.keyed else partition)

    def absent(self, partition: int, ids: Iterable[Id]) -> list[Id]:
        """Those of the ids, once each, that must be loaded before events of theirs are folded."""
        known = self._slots.get(partition, {})
        return [i for i in dict.fromkeys(ids) if i not in known]

    def load(self, partition: int, ids: Sequence[Id], blobs: Sequence[bytes | None]) -> None:
        """Take in entities that were absent here. A blob of None is an entity that has no state yet.

        Raises StateError for a blob that is not a state of this layout.
        """
        if not ids:
            return
        states = state.parse(self.layout, [[blob] for blob in blobs])
        for place in states.blob_entity[states.owners != partition].tolist():
            raise StateError(
                f"{self.key(partition, ids[place]).decode()} holds rows of another partition than {partition}, whose events are read: "
                f"the topic's partitions were changed, or a producer does not partition by {self.layout.key_field!r}. "
                "Run `featureflow rebuild` for this view"
            )
        slots = self._take_slots(len(ids))
        self._arena.reserve(len(self._ids))
        listed = slots.tolist()
        for slot, entity_id, blob in zip(listed, ids, blobs, strict=True):
            self._ids[slot] = entity_id
            self._keys[slot] = self.key(partition, entity_id)
            self._headers[slot] = b"" if blob is None else bytes(blob[: self.layout.header_bytes])
        self._slots.setdefault(partition, {}).update(zip(ids, listed, strict=True))
        self._partition[slots] = partition
        self._last_used[slots] = self._clock
        self._stored_rows[slots] = -1
        self._look_at[slots] = ROLL_UP_LEAST_ROWS
        self._look_after_us[slots] = NO_TIME_US
        self._horizon[slots] = NO_TIME_US
        self._frontiers[slots] = NO_TIME_US
        stored = slots[states.blob_entity]
        self._stored_rows[stored] = np.bincount(states.entity, minlength=len(ids))[states.blob_entity]
        self._horizon[stored], self._frontiers[stored] = states.horizons, states.frontiers
        full = stored[self._stored_rows[stored] > 0]
        counts = self._stored_rows[full]
        self._arena.extend(full, counts)
        self._arena.table[spans(self._arena.base[full], counts)] = self.layout.table(states.rows)
        self._find_newest(slots)

    # -- what changes it -----------------------------------------------------------------------------------------------

    def fold(self, partition: int, events: Events) -> None:
        """Fold events that are accepted, not late, and have a key; every entity must have been loaded.

        Each event changes one row: that of the finest tile which its entity has not rolled up.
        """
        if len(events) == 0:
            return
        if self._touched and partition != self._folding:
            raise RuntimeError(f"partition {self._folding} has folds to commit or drop before partition {partition} is folded")
        self._folding = partition
        layout, arena = self.layout, self._arena
        slots = np.array(list(map(self._slots[partition].__getitem__, self.ids(events))), np.int64)
        self._begin(slots[self._stored_rows[slots] < 0], int(events.times_us.max()))
        level, start = rollup.level_of(layout, events.times_us, self._frontiers[slots])
        ticks = np.maximum(start, EARLIEST_US) // SECOND_US + (1 << (TIME_BITS - 1))
        keys = (slots << SLOT_SHIFT) | (level << TIME_BITS) | ticks
        order = np.argsort(keys, kind="stable")
        first = np.flatnonzero(_changes(keys[order]))
        rows_of = order[first]
        folded = fold(layout, events, order, first)
        folded["start"], folded["level"] = start[rows_of], level[rows_of]
        slots, level, start = slots[rows_of], level[rows_of], start[rows_of]
        positions = self._find(slots, level, start)
        absent = positions < 0
        fresh, known = np.flatnonzero(absent), np.flatnonzero(~absent)
        if len(fresh):
            positions[fresh] = self._append(slots[fresh], level[fresh], start[fresh])
        rows = arena.base[slots] + positions
        new = layout.table(folded)
        if len(known):
            old = layout.rows(arena.table[rows[known]])
            new[known] = layout.table(combine(layout, old, layout.rows(new[known])))
        arena.table[rows] = new
        self._touched.append((slots, positions))
        self._clock += 1
        self._last_used[slots] = self._clock
        self._dirty[slots] = True

    def writes(self, watermark_us: int) -> tuple[StateWrite, ...]:
        """What brings the store from the last commit to here: patches, and whole values of new and rolled-up entities.

        ``watermark_us`` is the partition's running maximum of accepted event times. Calling it again gives writes of the same
        meaning, until ``committed``.
        """
        if not self._touched:
            return ()
        slots, positions = _distinct(self._touched)
        entities = slots[_changes(slots)]
        self._roll_up(entities, watermark_us)
        whole = self._rewrite[entities] | (self._stored_rows[entities] < 0)
        patched = ~(self._rewrite[slots] | (self._stored_rows[slots] < 0))
        writes = self._patches(slots[patched], positions[patched])
        writes += [write for slot in entities[whole].tolist() if (write := self._whole(slot)) is not None]
        return tuple(writes)

    def whole(self, writes: Sequence[StateWrite], indices: Iterable[int]) -> tuple[StateWrite, ...]:
        """The writes again, those at ``indices`` as whole values of keys that expired in the store meanwhile."""
        slot_of = {self._keys[slot]: slot for slot in np.flatnonzero(self._dirty).tolist()}
        out = list(writes)
        for i in indices:
            slot = slot_of[out[i].key]
            self._stored_rows[slot] = -1
            rewritten = self._whole(slot)
            assert rewritten is not None, "a key that was written before has rows"
            out[i] = rewritten
        return tuple(out)

    def committed(self) -> None:
        """The last ``writes`` are in the store."""
        if not self._touched:
            return
        slots, _ = _distinct(self._touched)
        slots = slots[_changes(slots)]
        for slot, header in self._next_headers.items():
            self._headers[slot] = header
        self._next_headers.clear()
        counts = self._arena.count[slots]
        self._stored_rows[slots] = np.where(counts > 0, counts, -1)
        self._rewrite[slots] = self._dirty[slots] = False
        self._touched.clear()

    def drop(self, partition: int) -> None:
        """Forget everything of the partition, committed or not."""
        self._release(np.array(list(self._slots.pop(partition, {}).values()), np.int64))
        if partition == self._folding:
            self._touched.clear()
            self._next_headers.clear()

    def evict(self) -> int:
        """Forget entities with nothing to commit, the least recently used first, until the bound is kept. How many went."""
        excess = self.used_bytes - self.max_bytes
        if excess <= 0:
            return 0
        excess += int((1 - EVICT_TO) * self.max_bytes)
        idle = np.flatnonzero((self._partition >= 0) & ~self._dirty)
        idle = idle[np.argsort(self._last_used[idle], kind="stable")]
        arena = self._arena
        sizes = arena.capacity[idle] * self.layout.row_bytes + ENTITY_OVERHEAD_BYTES
        idle = idle[: int(np.searchsorted(np.cumsum(sizes), excess)) + 1]
        for slot, partition in zip(idle.tolist(), self._partition[idle].tolist(), strict=True):
            del self._slots[partition][self._ids[slot]]
        self._release(idle)
        return len(idle)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _begin(self, slots: Index, watermark_us: int) -> None:
        """Let entities without state begin at the frontiers of now, so that what is old lands in large tiles at once."""
        slots = slots[self._arena.count[slots] == 0]
        if len(slots):
            horizon, frontiers = rollup.frontiers(self.layout, watermark_us)
            self._horizon[slots] = np.maximum(self._horizon[slots], horizon)
            self._frontiers[slots] = np.maximum(self._frontiers[slots], frontiers)

    def _find(self, slots: Index, level: Index, start: Index) -> Index:
        """Position of the row for each (slot, level, start); -1 where there is none."""
        newest = self._newest_start[slots]
        positions = np.where(start == newest, self._newest_at[slots], -1)
        elsewhere = np.flatnonzero((start < newest) | (level > 0))
        if len(elsewhere):
            rows, owner = self._arena.where(slots[elsewhere])
            wanted = elsewhere[owner]
            table = self._arena.table
            found = np.flatnonzero((table[rows, START] == start[wanted]) & (table[rows, LEVEL] == level[wanted]))
            positions[elsewhere] = -1
            positions[wanted[found]] = rows[found] - self._arena.base[slots[wanted[found]]]
        return positions

    def _append(self, slots: Index, level: Index, start: Index) -> Index:
        """Positions of new rows, which are in order of slot, level and start."""
        first = np.flatnonzero(_changes(slots))
        counts = np.diff(np.append(first, len(slots)))
        positions = spans(self._arena.extend(slots[first], counts), counts)
        newer = np.flatnonzero((level == 0) & (start > self._newest_start[slots]))
        # In order, so of several newer rows of a slot the newest is assigned last.
        self._newest_start[slots[newer]] = start[newer]
        self._newest_at[slots[newer]] = positions[newer]
        return positions

    def _find_newest(self, slots: Index) -> None:
        """Set the newest row of slots (distinct) whose rows were replaced."""
        self._newest_start[slots], self._newest_at[slots] = NO_TIME_US, -1
        rows, owner = self._arena.where(slots)
        finest = np.flatnonzero(self._arena.table[rows, LEVEL] == 0)
        rows, owner = rows[finest], slots[owner[finest]]
        start = self._arena.table[rows, START]
        order = np.lexsort((start, owner))
        self._newest_start[owner[order]] = start[order]
        self._newest_at[owner[order]] = (rows - self._arena.base[owner])[order]

    def _roll_up(self, entities: Index, watermark_us: int) -> None:
        """Drop dead rows and merge rollable ones of those of the entities where they have become a large share.

        An entity is looked at when its rows have grown by half since it last was, or all that it had then are dead.
        """
        layout, arena = self.layout, self._arena
        now_horizon, now_frontiers = rollup.frontiers(layout, watermark_us)
        counts = arena.count[entities]
        slots = entities[
            (counts >= ROLL_UP_LEAST_ROWS) & ((counts >= self._look_at[entities]) | (now_horizon > self._look_after_us[entities]))
        ]
        if len(slots) == 0:
            return
        slots = slots[np.argsort(-arena.count[slots], kind="stable")]
        slots = slots[: max(1, int(np.searchsorted(np.cumsum(arena.count[slots]), ROLL_UP_ROWS)))]
        horizon = np.maximum(self._horizon[slots], now_horizon)
        frontiers = np.maximum(self._frontiers[slots], now_frontiers)
        where, owner = arena.where(slots)
        rows = layout.rows(arena.table[where])
        counts = arena.count[slots]
        idle = rollup.rollable(layout, rows, horizon[owner], frontiers[owner])
        due = np.bincount(owner, idle, len(slots)) >= ROLL_UP_SHARE * counts
        self._look_after_us[slots] = watermark_us
        self._look_at[slots[~due]] = counts[~due] + np.maximum(counts[~due] // 2, ROLL_UP_LEAST_ROWS)
        if not due.any():
            return
        among = due[owner]
        rows, owner = rollup.roll_up_all(layout, rows[among], owner[among], horizon[owner[among]], frontiers[owner[among]])
        counts = np.bincount(owner, minlength=len(slots))[due]
        slots = slots[due]
        arena.replace(slots, layout.table(rows), counts)
        self._find_newest(slots)
        self._horizon[slots] = np.maximum(self._horizon[slots], now_horizon)
        self._frontiers[slots] = np.maximum(self._frontiers[slots], now_frontiers)
        self._look_at[slots] = np.maximum(2 * counts, ROLL_UP_LEAST_ROWS)
        self._rewrite[slots] = True

    # -- writes --------------------------------------------------------------------------------------------------------

    def _patches(self, slots: Index, positions: Index) -> list[StateWrite]:
        """One write per entity of these rows, which are in order and distinct; rows that adjoin share a patch."""
        if len(slots) == 0:
            return []
        size, header = self.layout.row_bytes, self.layout.header_bytes
        data = self._arena.table[self._arena.base[slots] + positions].tobytes()
        first = np.flatnonzero(_changes(slots) | _changes(positions - np.arange(len(positions))))
        ends = (np.append(first[1:], len(slots)) * size).tolist()
        patches = [
            Patch(at, data[begin:end])
            for at, begin, end in zip((header + positions[first] * size).tolist(), (first * size).tolist(), ends, strict=True)
        ]
        owners = slots[first]
        begins = np.flatnonzero(_changes(owners))
        entities = owners[begins]
        expected = header + self._stored_rows[entities] * size
        keys, headers, ttl_ms = self._keys, self._headers, self.layout.ttl_ms
        groups: list[tuple[Patch, ...]]
        if len(entities) == len(patches):
            groups = [(patch,) for patch in patches]
        else:
            groups = [tuple(patches[begin:end]) for begin, end in pairwise([*begins.tolist(), len(patches)])]
        return [
            StateWrite(keys[slot], length, headers[slot], ttl_ms, group)
            for slot, length, group in zip(entities.tolist(), expected.tolist(), groups, strict=True)
        ]

    def _whole(self, slot: int) -> StateWrite | None:
        """The entity written whole; None where it neither has rows nor had any in the store."""
        count, stored = int(self._arena.count[slot]), int(self._stored_rows[slot])
        value = b""
        if count:
            base = self._arena.base[slot]
            self._next_headers[slot] = header = self._header(slot)
            value = header + self._arena.table[base:base + count].tobytes()
        elif stored < 0:
            return None
        expected = 0 if stored < 0 else self.layout.header_bytes + stored * self.layout.row_bytes
        return StateWrite(self._keys[slot], expected, b"" if stored < 0 else self._headers[slot], self.layout.ttl_ms, whole=value)

    def _header(self, slot: int) -> bytes:
        """The slot's header as it would be written now; most of those written together are equal."""
        meaning = (self._partition[slot], self._horizon[slot], self._frontiers[slot].tobytes())
        if meaning != self._last_header[0]:
            header = state.header(self.layout, int(self._partition[slot]), int(self._horizon[slot]), self._frontiers[slot])
            self._last_header = (meaning, header)
        return self._last_header[1]

    # -- slots ---------------------------------------------------------------------------------------------------------

    def _take_slots(self, n: int) -> Index:
        missing = n - len(self._free)
        if missing > 0:
            self._grow(max(missing, len(self._ids) // 2, 64))
        taken = self._free[-n:]
        del self._free[-n:]
        return np.array(taken, np.int64)

    def _grow(self, more: int) -> None:
        old, new = len(self._ids), len(self._ids) + more
        if new > SLOTS:
            raise MemoryError(f"a slab holds at most {SLOTS} entities; add partitions and workers")
        self._ids += [""] * more
        self._keys += [b""] * more
        self._headers += [b""] * more
        self._free += range(new - 1, old - 1, -1)

        def longer(array: NDArray[np.int64], fill: int) -> NDArray[np.int64]:
            return np.concatenate((array, np.full((more, *array.shape[1:]), fill, array.dtype)))

        self._partition = longer(self._partition, -1)
        self._stored_rows = longer(self._stored_rows, -1)
        self._last_used = longer(self._last_used, 0)
        self._newest_start = longer(self._newest_start, NO_TIME_US)
        self._newest_at = longer(self._newest_at, -1)
        self._look_at = longer(self._look_at, 0)
        self._look_after_us = longer(self._look_after_us, 0)
        self._horizon = longer(self._horizon, 0)
        self._frontiers = longer(self._frontiers, 0)
        self._rewrite = np.concatenate((self._rewrite, np.zeros(more, np.bool_)))
        self._dirty = np.concatenate((self._dirty, np.zeros(more, np.bool_)))

    def _release(self, slots: Index) -> None:
        self._arena.free(slots)
        self._partition[slots] = -1
        self._rewrite[slots] = self._dirty[slots] = False
        listed = slots.tolist()
        for slot in listed:
            self._ids[slot], self._keys[slot], self._headers[slot] = "", b"", b""
        self._free += listed


def _plain(column: NDArray[np.generic]) -> list[Id]:
    """The ids of a key column: numbers are held as float64, and are whole."""
    ids: list[Id] = (column if column.dtype == object else column.astype(np.int64)).tolist()
    return ids


def _distinct(touched: list[tuple[Index, Index]]) -> tuple[Index, Index]:
    """(slots, positions) of the rows touched, once each, in order of both."""
    packed = np.concatenate([(slots << 32) | positions for slots, positions in touched])
    packed.sort()
    if len(touched) > 1:                   # one fold touches a row once
        packed = packed[np.flatnonzero(_changes(packed))]
    return packed >> 32, packed & 0xFFFF_FFFF


def _changes(ordered: Index) -> NDArray[np.bool_]:
    """(n,) where a value differs from the one before it; the first does."""
    changes = np.empty(len(ordered), np.bool_)
    changes[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=changes[1:])
    return changes
