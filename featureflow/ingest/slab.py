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

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import NO_TIME_US
from featureflow.errors import StateError
from featureflow.ingest.arena import Arena, spans
from featureflow.ingest.roll_up import roll_up
from featureflow.ingest.slots import Id, Index, Slots
from featureflow.ingest.state_writes import StateWrites, changes
from featureflow.kernel import rollup, state
from featureflow.kernel.columns import LEVEL, START, Layout
from featureflow.kernel.events import Events
from featureflow.kernel.fold import combine, fold
from featureflow.kernel.tile import SECOND_US
from featureflow.store.keys import Keys
from featureflow.store.online.writes import Writes

EVICT_TO = 0.9                         # of the bound, so that evicting is seldom
ENTITY_OVERHEAD_BYTES = 550            # id, state key, header, dict entry, and a line in each array

# What events are sorted by: slot, level, and start in seconds, in one int64. Rows of exact windows start at a microsecond: ``_by_row``.
TIME_BITS = 35
LEVEL_BITS = 4
SLOT_SHIFT = TIME_BITS + LEVEL_BITS
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
        self._known = Slots(layout)
        self._slots: dict[int, dict[Id, int]] = {}                 # partition -> entity id -> slot
        self._writes = StateWrites(layout, self._arena, self._known)
        self._folding = -1                                         # the partition with folds to commit
        self._touched: list[tuple[Index, Index]] = []              # (slots, positions) folded into since the last commit
        self._clock = 0

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
        return plain(events.columns[self.layout.key_field])

    def key(self, partition: int, entity_id: Id) -> bytes:
        """The entity's state key."""
        layout = self.layout
        return self._names.state(layout.entity, entity_id, layout.view_id, layout.source, None if layout.keyed else partition)

    def absent(self, partition: int, ids: Iterable[Id]) -> list[Id]:
        """Those of the ids, once each, that must be loaded before events of theirs are folded."""
        known = self._slots.get(partition, {})
        return [i for i in dict.fromkeys(ids) if i not in known]

    def load(self, partition: int, ids: Sequence[Id], blobs: Sequence[bytes | None]) -> dict[Id, int]:
        """Take in entities that were absent here. A blob of None is an entity that has no state yet.

        Returns those that were not taken in, since their state is folded from another partition, with that partition. Raises
        StateError for a blob that is not a state of this layout.
        """
        if not ids:
            return {}
        states = state.parse(self.layout, [[blob] for blob in blobs])
        if (strange := states.owners != partition).any():
            if not self.layout.keyed:
                raise StateError(
                    f"{self.key(partition, ids[int(states.blob_entity[strange][0])]).decode()} holds rows of another partition than its "
                    "name says: something else writes to this database. Run `featureflow rebuild` for this view"
                )
            owners = dict(zip(states.blob_entity[strange].tolist(), states.owners[strange].tolist(), strict=True))
            mine = [place for place in range(len(ids)) if place not in owners]
            self.load(partition, [ids[place] for place in mine], [blobs[place] for place in mine])
            return {ids[place]: owner for place, owner in owners.items()}
        known = self._known
        slots = known.take(partition, ids, [self.key(partition, entity_id) for entity_id in ids])
        self._arena.reserve(len(known))
        self._slots.setdefault(partition, {}).update(zip(ids, slots.tolist(), strict=True))
        known.last_used[slots] = self._clock
        stored = slots[states.blob_entity]
        heads = b"".join(blob[: self.layout.header_bytes] for blob in blobs if blob)
        known.headers[stored] = np.frombuffer(heads, np.uint8).reshape(-1, self.layout.header_bytes)
        known.stored_rows[stored] = np.bincount(states.entity, minlength=len(ids))[states.blob_entity]
        known.horizon[stored], known.frontiers[stored] = states.horizons, states.frontiers
        full = stored[known.stored_rows[stored] > 0]
        counts = known.stored_rows[full]
        self._arena.extend(full, counts)
        self._arena.table[spans(self._arena.base[full], counts)] = self.layout.table(states.rows)
        self._find_newest(slots)
        return {}

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
        self._begin(slots[self._known.stored_rows[slots] < 0], int(events.times_us.max()))
        level, start = rollup.level_of(layout, events.times_us, self._known.frontiers[slots])
        if layout.finest < SECOND_US:
            order, first = _by_row(slots, level, start)
        else:
            ticks = np.maximum(start, EARLIEST_US) // SECOND_US + (1 << (TIME_BITS - 1))
            keys = (slots << SLOT_SHIFT) | (level << TIME_BITS) | ticks
            order = np.argsort(keys, kind="stable")
            first = np.flatnonzero(changes(keys[order]))
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
        self._known.last_used[slots] = self._clock
        self._known.dirty[slots] = True

    def writes(self, watermark_us: int) -> Writes:
        """What brings the store from the last commit to here: patches, and whole values of new and rolled-up entities.

        ``watermark_us`` is the partition's running maximum of accepted event times. Calling it again gives writes of the same
        meaning, until ``committed``.
        """
        if not self._touched:
            return Writes()
        known = self._known
        slots, positions = _distinct(self._touched)
        entities = slots[changes(slots)]
        self._find_newest(roll_up(self.layout, self._arena, known, entities, watermark_us))
        whole = known.rewrite[entities] | (known.stored_rows[entities] < 0)
        if not whole.any():
            return self._writes.patches(slots, positions)
        patched = ~(known.rewrite[slots] | (known.stored_rows[slots] < 0))
        return self._writes.patches(slots[patched], positions[patched]) + self._writes.wholes(entities[whole].tolist())

    def whole(self, writes: Writes, indices: Iterable[int]) -> Writes:
        """The writes again, those at ``indices`` as whole values of keys that expired in the store meanwhile."""
        known = self._known
        slot_of = {known.keys[slot]: slot for slot in np.flatnonzero(known.dirty).tolist()}
        out = list(writes)
        for i in indices:
            slot = slot_of[out[i].key]
            known.stored_rows[slot] = -1
            rewritten = self._writes.whole(slot)
            assert rewritten is not None, "a key that was written before has rows"
            out[i] = rewritten
        return Writes.of(out)

    def committed(self, committed_ms: int) -> None:
        """The last ``writes`` are in the store, since this moment of its clock."""
        if not self._touched:
            return
        slots, _ = _distinct(self._touched)
        self._writes.committed(slots[changes(slots)], committed_ms)
        self._touched.clear()

    def drop(self, partition: int) -> None:
        """Forget everything of the partition, committed or not."""
        self._forget(np.array(list(self._slots.pop(partition, {}).values()), np.int64))
        if partition == self._folding:
            self._touched.clear()
            self._writes.forget()

    def evict(self) -> int:
        """Forget entities with nothing to commit, the least recently used first, until the bound is kept. How many went."""
        excess = self.used_bytes - self.max_bytes
        if excess <= 0:
            return 0
        excess += int((1 - EVICT_TO) * self.max_bytes)
        idle = np.flatnonzero((self._known.partition >= 0) & ~self._known.dirty)
        idle = idle[np.argsort(self._known.last_used[idle], kind="stable")]
        arena = self._arena
        sizes = arena.capacity[idle] * self.layout.row_bytes + ENTITY_OVERHEAD_BYTES
        idle = idle[: int(np.searchsorted(np.cumsum(sizes), excess)) + 1]
        for slot, partition in zip(idle.tolist(), self._known.partition[idle].tolist(), strict=True):
            del self._slots[partition][self._known.ids[slot]]
        self._forget(idle)
        return len(idle)

    def _forget(self, slots: Index) -> None:
        self._arena.free(slots)
        self._known.release(slots)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _begin(self, slots: Index, watermark_us: int) -> None:
        """Let entities without state begin at the frontiers of now, so that what is old lands in large tiles at once."""
        slots = slots[self._arena.count[slots] == 0]
        if len(slots):
            horizon, frontiers = rollup.frontiers(self.layout, watermark_us)
            self._known.horizon[slots] = np.maximum(self._known.horizon[slots], horizon)
            self._known.frontiers[slots] = np.maximum(self._known.frontiers[slots], frontiers)

    def _find(self, slots: Index, level: Index, start: Index) -> Index:
        """Position of the row for each (slot, level, start); -1 where there is none."""
        newest = self._known.newest_start[slots]
        positions = np.where(start == newest, self._known.newest_at[slots], -1)
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
        first = np.flatnonzero(changes(slots))
        counts = np.diff(np.append(first, len(slots)))
        positions = spans(self._arena.extend(slots[first], counts), counts)
        newer = np.flatnonzero((level == 0) & (start > self._known.newest_start[slots]))
        # In order, so of several newer rows of a slot the newest is assigned last.
        self._known.newest_start[slots[newer]] = start[newer]
        self._known.newest_at[slots[newer]] = positions[newer]
        return positions

    def _find_newest(self, slots: Index) -> None:
        """Set the newest row of slots (distinct) whose rows were replaced."""
        self._known.newest_start[slots], self._known.newest_at[slots] = NO_TIME_US, -1
        rows, owner = self._arena.where(slots)
        finest = np.flatnonzero(self._arena.table[rows, LEVEL] == 0)
        rows, owner = rows[finest], slots[owner[finest]]
        start = self._arena.table[rows, START]
        order = np.lexsort((start, owner))
        self._known.newest_start[owner[order]] = start[order]
        self._known.newest_at[owner[order]] = (rows - self._arena.base[owner])[order]


def _by_row(slots: Index, level: Index, start: Index) -> tuple[Index, Index]:
    """Events in order of slot, level and start, and where in that order each row's begin."""
    order = np.lexsort((start, level, slots))
    differs = changes(slots[order]) | changes(level[order]) | changes(start[order])
    return order, np.flatnonzero(differs)


def plain(column: NDArray[np.generic]) -> list[Id]:
    """The ids of a key column: numbers are held as float64, and are whole."""
    ids: list[Id] = (column if column.dtype == object else column.astype(np.int64)).tolist()
    return ids


def _distinct(touched: list[tuple[Index, Index]]) -> tuple[Index, Index]:
    """(slots, positions) of the rows touched, once each, in order of both."""
    packed = np.concatenate([(slots << 32) | positions for slots, positions in touched])
    packed.sort()
    if len(touched) > 1:                   # one fold touches a row once
        packed = packed[np.flatnonzero(changes(packed))]
    return packed >> 32, packed & 0xFFFF_FFFF
