"""The worker's copy of one view's state from one source: every cached row of every entity in one table.

A batch of events is folded into rows at once, by one sort, one segmented reduction and fancy indexing; there is no Python loop over
events but the look-up of their entities. Most events belong to their entity's newest row or to one after it, which is told by
one comparison; only for the others are the entity's rows searched. A batch is committed in parts: what a row is after each part
comes of the same reduction, and so does what the part's commit must write.

    find -> load -> place -> fold -> (commits) -> committed          drop, after any refusal

A second batch may be placed and folded before the first is answered, as if all of that were committed. Where some of it was not,
the second batch is forgotten, and only then what of the first was not committed.

What is here belongs to the claim under which it was read: after a refusal, or when the partition goes, ``drop`` it all.
An entity is here whole or not at all, and one that was loaded absent is known to be empty. Nothing that a commit has yet
to write is ever evicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import NO_TIME_US
from featureflow.errors import StateError
from featureflow.ingest.arena import SPARE, Arena, Table, spans
from featureflow.ingest.course import Course
from featureflow.ingest.cuts import Changes, Whole
from featureflow.ingest.order import Index, changes, in_order
from featureflow.ingest.placed import Placed, in_order_of_row, previous
from featureflow.ingest.roll_up import roll_up
from featureflow.ingest.slots import Id, Slots
from featureflow.ingest.state_writes import Entities, StateWrites, Touched
from featureflow.kernel import event_form, rollup, state
from featureflow.kernel.columns import LEVEL, START, Layout, Rows
from featureflow.kernel.events import Events
from featureflow.kernel.fold import combine, fold
from featureflow.kernel.state import States
from featureflow.store.keys import Keys
from featureflow.store.online.writes import Writes

OUTSTANDING = 2                        # batches that are folded and not known to be in the store
EVICT_TO = 0.9                         # of the bound, so that evicting is seldom
ENTITY_OVERHEAD_BYTES = 570            # id, state key, header, dict entry, an object for its events, and a line in each array


@dataclass(frozen=True, eq=False)
class Pending:
    """A batch that was folded and is not known to be in the store."""

    partition: int
    slots: Index                           # (e,) distinct, in order
    last: Index                            # (e,) the last commit that touches each
    whole: NDArray[np.bool_]               # (e,) written whole by the first


@dataclass(frozen=True)
class Lifting:
    """Entities with rows here that the store has as events: with a batch's first event of theirs all that is here of them is written."""

    slots: Index                           # (l,) distinct, in order
    events: Index                          # (l,) places in the batch


class Slab:
    """All cached rows of one layout, of any number of partitions. Used from one thread.

    ``max_bytes`` bounds what ``evict`` leaves; places that are left behind take a quarter more at most. Where a slab ``publishes``,
    ``touched`` and ``states`` tell of each commit of the last fold, and an entity that a commit changes is one row more.
    """

    def __init__(self, layout: Layout, keys: Keys, max_bytes: int = limits.SLAB_BYTES, *, publishes: bool = False) -> None:
        self.layout = layout
        self.publishes = publishes
        self._course: Course | None = None
        self._names = keys
        self.max_bytes = max_bytes
        self._arena = self.arena = Arena(layout.width, max(1, int(max_bytes * (1 + SPARE)) // (8 * layout.width)))
        self._known = self.known = Slots(layout)
        self.lifting: Lifting | None = None
        self._slots: dict[int, dict[Id, int]] = {}                 # partition -> entity id -> slot
        self._writes = StateWrites(layout, self._known)
        self._pending: list[Pending] = []
        self._clock = 0
        self._several = len(keys.buckets) > 1

    # -- what it holds -------------------------------------------------------------------------------------------------

    @property
    def entities(self) -> int:
        return sum(map(len, self._slots.values()))

    @property
    def used_bytes(self) -> int:
        """Estimated memory in use: rows, with the room that their entities keep to grow, and what finds them."""
        return 8 * self._arena.rows * self.layout.width + self.entities * ENTITY_OVERHEAD_BYTES + self._known.events_bytes

    def ids(self, events: Events) -> list[Id]:
        """Each event's entity id."""
        return ids_in(events.columns[self.layout.key_field])

    def key(self, partition: int, entity_id: Id) -> bytes:
        """The entity's state key."""
        layout = self.layout
        owner = None if layout.keyed else partition
        return self._names.state(layout.entity, entity_id, layout.view_id, layout.source, owner, layout.part)

    def find(self, partition: int, ids: Sequence[Id]) -> Index:
        """(n,) slots of the ids; -1 for those that must be loaded before events of theirs are placed."""
        known = self._slots.setdefault(partition, {})
        return np.fromiter(map(known.get, ids, repeat(-1)), np.int64, len(ids))

    def buckets(self, slots: Index) -> Index:
        """The number of each slot's bucket."""
        return self._known.bucket[slots]

    def load(
        self, partition: int, ids: Sequence[Id], blobs: Sequence[bytes | None], beside: Sequence[bytes | None] = (),
        keys: Sequence[bytes] = (),
    ) -> dict[Id, int]:
        """Take in entities that were absent here. A blob of None is an entity that has no state yet. ``beside``: see ``CellSlab``.
        ``keys``: the entities', where the caller has them.

        Returns those that were not taken in, since their state is folded from another partition, with that partition. Raises
        StateError naming the first blob that is not a state of this layout.
        """
        if not ids:
            return {}
        try:
            states = self._parse(blobs, beside)
        except StateError as error:
            raise self._damaged(partition, ids, blobs, beside) or error from error
        if (strange := states.owners != partition).any():
            if not self.layout.keyed:
                raise StateError(
                    f"{self.key(partition, ids[int(states.blob_entity[strange][0])]).decode()} holds rows of another partition than its "
                    f"name says: something else writes to this database. Run `featureflow rebuild {self.layout.view_id.partition('@')[0]}`"
                )
            owners = dict(zip(states.blob_entity[strange].tolist(), states.owners[strange].tolist(), strict=True))
            mine = [place for place in range(len(ids)) if place not in owners]
            self.load(
                partition, [ids[place] for place in mine], [blobs[place] for place in mine], [beside[place] for place in mine if beside],
                [keys[place] for place in mine if keys],
            )
            return {ids[place]: owner for place, owner in owners.items()}
        known = self._known
        slots = known.take(partition, ids, keys or [self.key(partition, entity_id) for entity_id in ids])
        known.bucket[slots] = [self._names.number(entity_id) for entity_id in ids] if self._several else 0
        self._arena.reserve(len(known))
        self._slots.setdefault(partition, {}).update(zip(ids, slots.tolist(), strict=True))
        known.last_used[slots] = self._clock
        stored, size = slots[states.blob_entity], self.layout.header_bytes
        counts = np.bincount(states.entity, minlength=len(ids))
        known.horizon[stored], known.frontiers[stored] = states.horizons, states.frontiers
        held = [blob for blob in blobs if blob and blob[0] != event_form.FORMAT]
        known.headers[stored[: len(held)], :size] = np.frombuffer(b"".join([blob[:size] for blob in held]), np.uint8).reshape(-1, size)
        known.stored_rows[stored[: len(held)]] = counts[states.blob_entity[: len(held)]]
        if len(held) < len(stored):
            known.hold(stored[len(held) :], [blob for blob in blobs if blob and blob[0] == event_form.FORMAT])
        full = np.flatnonzero(counts)
        counts = counts[full]
        self._arena.extend(slots[full], counts)
        self._arena.table[spans(self._arena.base[slots[full]], counts)] = self.layout.table(states.rows)
        self._find_newest(slots)
        return {}

    # -- what changes it -----------------------------------------------------------------------------------------------

    def place(self, partition: int, events: Events, chosen: Index, slots: Index, watermark_us: int) -> Placed:
        """Find the rows that events change: those at the places ``chosen``, which are accepted, not late, and of the entities ``slots``.

        Each changes one row: that of the finest tile which its entity has not rolled up. Entities of which much can be rolled up are so
        before. ``watermark_us`` is the partition's running maximum of accepted event times before the batch.
        """
        entities, keys, whole, level, start = self._settle(events, chosen, slots, watermark_us)
        by_row, begins = in_order_of_row(self.layout, slots, level, start)
        rows = by_row[begins]
        return Placed(partition, events, chosen[by_row], begins, slots[rows], level[rows], start[rows], entities, keys, whole)

    def _settle(self, events: Events, chosen: Index, slots: Index, watermark_us: int) -> tuple[Index, Changes, Whole, Index, Index]:
        """The distinct slots, rolled up where that is due; which events change each, and with which they are written whole; each event's
        level and start."""
        if len(self._pending) == OUTSTANDING:
            raise RuntimeError(f"partition {self._pending[0].partition} has folds to commit or drop before more is folded")
        layout, known = self.layout, self._known
        times_us = events.times_us if len(chosen) == len(events) else events.times_us[chosen]
        by_entity = in_order(slots)
        entities = slots[by_entity]
        begins = changes(entities)
        entities, places = entities[begins], chosen[by_entity]
        # The first commits of a batch publish values of instants that frontiers of its last events would lie beyond.
        begin_us = watermark_us if self.publishes else int(times_us.max())
        self._begin(entities[known.stored_rows[entities] < 0], begin_us)
        rolled = roll_up(layout, self._arena, known, entities, watermark_us)
        if len(rolled):
            self._find_newest(rolled)
        heavy = known.rewrite[entities].nonzero()[0]
        whole = Whole(places[begins][heavy], self._arena.count[entities[heavy]])
        return entities, Changes(places, previous(places, begins)), whole, *rollup.level_of(layout, times_us, known.frontiers[slots])

    def fold(self, placed: Placed, commit_of: Index, commits: int) -> list[tuple[Writes, int]]:
        """Fold what was placed: what each of so many commits writes, and of how many rows. ``commit_of`` (n,) is the commit of each event.

        For two events of one entity, the earlier one's commit is the same or comes before.
        """
        layout, arena, known = self.layout, self._arena, self._known
        number = commit_of[placed.order]
        cut = placed.begins.copy()
        cut[1:] |= number[1:] != number[:-1]
        first = np.flatnonzero(cut)
        number = number[first]
        table = self._folded(placed, first)
        row_at = np.flatnonzero(placed.begins[first])              # where each row's states begin
        times = np.diff(row_at, append=len(first))                 # how many commits change it
        slots, level, start, entities = placed.slots, placed.level, placed.start, placed.entities
        table[:, START], table[:, LEVEL] = np.repeat(start, times), np.repeat(level, times)
        held = arena.count[entities]
        positions = self._find(placed)
        absent = positions < 0
        fresh, there = np.flatnonzero(absent), np.flatnonzero(~absent)
        if len(fresh):
            fresh = fresh[np.argsort((slots[fresh] << 32) | number[row_at[fresh]], kind="stable")]
            positions[fresh] = self._append(placed, fresh)
        rows = arena.base[slots] + positions
        apart = known.as_events[entities]                          # what is written of them is not written here
        whole = (known.rewrite[entities] | (known.stored_rows[entities] < 0)) & ~apart
        kept = arena.table[spans(arena.base[entities[whole]], held[whole])]
        earlier = arena.table[rows] if self.publishes else None
        lifted = None if self.lifting is None else arena.table[arena.base[self.lifting.slots]]
        if len(there):
            self._combine(table, row_at[there], layout.rows(arena.table[rows[there]]))
        several, rank = np.flatnonzero(times > 1), 1
        while len(several):
            at = row_at[several] + rank
            self._combine(table, at, layout.rows(table[at - 1]))
            rank += 1
            several = several[times[several] > rank]
        arena.table[rows] = table if len(table) == len(rows) else table[row_at + times - 1]
        if earlier is not None:
            self._course = Course(slots, positions, earlier, absent, row_at, number, table)
        made = np.zeros(len(first), np.bool_)
        made[row_at] = absent
        touched = Touched(number, np.repeat(slots, times), np.repeat(positions, times), made, table)
        before = Entities(entities, held, whole, kept)
        if apart.any() or lifted is not None:
            writes, last = self._write_some(touched, before, apart, lifted, commit_of, commits)
        else:
            writes, last = self._writes.of(touched, before, commits)
        self._pending.append(Pending(placed.partition, entities, last, whole | (apart & known.events_whole[entities])))
        self._clock += 1
        known.last_used[entities], known.dirty[entities] = self._clock, True
        known.stored_rows[entities[~apart]], known.rewrite[entities] = arena.count[entities[~apart]], False      # for the next one
        return writes

    @property
    def pending(self) -> Pending | None:
        """What the last ``fold`` made so."""
        return self._pending[-1] if self._pending else None

    def published(self) -> None:
        """What ``touched`` and ``states`` tell of is needed no more."""
        self._course = None

    def _write_some(
        self, touched: Touched, before: Entities, apart: NDArray[np.bool_], lifted: Table | None, commit_of: Index, commits: int
    ) -> tuple[list[tuple[Writes, int]], Index]:
        """As ``StateWrites.of``, but nothing of the entities that are written as events, and all of those that no longer are.

        ``lifted`` is the first row of each of those as it was before.
        """
        last = np.zeros(len(before.slots), np.int64)
        np.maximum.at(last, np.searchsorted(before.slots, touched.slots), touched.commits)
        if self.lifting is not None and lifted is not None:
            number = commit_of[self.lifting.events]
            first = np.full(len(before.slots), commits)
            np.minimum.at(first, np.searchsorted(before.slots, touched.slots), touched.commits)
            at = np.searchsorted(before.slots, self.lifting.slots)
            last[at] = np.maximum(last[at], number)
            alone = (first[at] != number) & (before.held[at] > 0)  # rows of which no event of that commit changes one
            touched = Touched(
                np.concatenate((touched.commits, number[alone])),
                np.concatenate((touched.slots, self.lifting.slots[alone])),
                np.concatenate((touched.positions, np.zeros(int(alone.sum()), np.int64))),
                np.concatenate((touched.fresh, np.zeros(int(alone.sum()), np.bool_))),
                np.concatenate((touched.table, lifted[alone])),
            )
        mine = np.flatnonzero(~self._known.as_events[touched.slots])
        if not len(mine):
            return [(Writes(), 0)] * commits, last
        touched = Touched(touched.commits[mine], touched.slots[mine], touched.positions[mine], touched.fresh[mine], touched.table[mine])
        writes, last[~apart] = self._writes.of(
            touched, Entities(before.slots[~apart], before.held[~apart], before.whole[~apart], before.rows), commits
        )
        return writes, last

    def _folded(self, placed: Placed, first: Index) -> Table:
        """A row for each segment of the placed events, the segments beginning at ``first``; start and level are set by the caller."""
        return self.layout.table(fold(self.layout, placed.events, placed.order, first))

    def touched(self, commit: int) -> Index:
        """The entities that this commit of the last ``fold`` changes: distinct slots, in order."""
        return np.zeros(0, np.int64) if self._course is None else self._course.touched(commit)

    def states(self, commit: int, slots: Index) -> States:
        """The states of entities (distinct slots) as they are once this commit of the last ``fold`` is applied."""
        known, counts = self._known, self._arena.count[slots]
        rows, owner = self._arena.where(slots)
        table = self._arena.table[rows]
        if self._course is not None:
            there = self._course.rewind(commit, slots, counts, table)
            table, owner = table[there], owner[there]
        return States(
            self.layout.rows(table), owner, len(slots), np.arange(len(slots)),
            known.partition[slots], known.horizon[slots], known.frontiers[slots],
        )  # fmt: skip

    def entity_ids(self, slots: Index) -> list[Id]:
        return list(map(self._known.ids.__getitem__, slots.tolist()))

    @property
    def life_ms(self) -> int:
        """What a key is given at each renewal."""
        return self._writes.life_ms

    def committed(self, times_ms: Sequence[int], pending: Pending | None = None) -> None:
        """Commits of a batch, the oldest unless said, are in the store, each since that moment of its clock; those of -1 are not.

        What these touch is forgotten: it is to be read again.
        """
        self._course = None
        if not self._pending or (pending is not None and pending not in self._pending):
            return                                                 # it was dropped
        pending, known = pending or self._pending[0], self._known
        self._pending.remove(pending)
        at_ms = np.array(times_ms, np.int64)[pending.last]         # a commit is not applied unless those before it were
        done = at_ms >= 0
        slots = pending.slots
        if not done.all():
            lost = slots[~done]
            lost = lost[known.partition[lost] >= 0]                # what a batch behind it touches as well went with that
            self._forget_ids(lost)
            self._forget(lost)
            slots = slots[done]
            if len(slots) == 0:
                return
        at_ms = at_ms[done]
        renewed = pending.whole[done] | (at_ms >= known.renew_ms[slots])
        known.renew_ms[slots[renewed]] = at_ms[renewed] + self._writes.slack_ms
        known.dirty[slots] = False
        for other in self._pending:
            known.dirty[other.slots] = True

    def forget(self, partition: int, ids: Sequence[Id]) -> None:
        """Forget those of these entities that are here, of which nothing is to be committed."""
        slots = self.find(partition, ids)
        slots = slots[slots >= 0]
        self._forget_ids(slots)
        self._forget(slots)

    def drop(self, partition: int) -> None:
        """Forget everything of the partition, committed or not."""
        self._forget(np.array(list(self._slots.pop(partition, {}).values()), np.int64))
        self._pending, self._course = [pending for pending in self._pending if pending.partition != partition], None

    def evict(self) -> int:
        """Forget entities with nothing to commit, the least recently used first, until the bound is kept. How many went."""
        excess = self.used_bytes - self.max_bytes
        if excess <= 0:
            return 0
        excess += int((1 - EVICT_TO) * self.max_bytes)
        idle = np.flatnonzero((self._known.partition >= 0) & ~self._known.dirty)
        idle = idle[np.argsort(self._known.last_used[idle], kind="stable")]
        arena = self._arena
        sizes = 8 * arena.capacity[idle] * self.layout.width + ENTITY_OVERHEAD_BYTES + self._known.body_bytes[idle]
        idle = idle[: int(np.searchsorted(np.cumsum(sizes), excess)) + 1]
        self._forget_ids(idle)
        self._forget(idle)
        return len(idle)

    def _forget_ids(self, slots: Index) -> None:
        for slot, partition in zip(slots.tolist(), self._known.partition[slots].tolist(), strict=True):
            del self._slots[partition][self._known.ids[slot]]

    def _forget(self, slots: Index) -> None:
        self._arena.free(slots)
        self._known.release(slots)

    def _parse(self, blobs: Sequence[bytes | None], beside: Sequence[bytes | None]) -> States:
        return state.parse_rows(self.layout, [[blob] for blob in blobs])

    def _damaged(
        self, partition: int, ids: Sequence[Id], blobs: Sequence[bytes | None], beside: Sequence[bytes | None]
    ) -> StateError | None:
        """What is wrong with the first of these that is no state, and where it is."""
        for i, entity_id in enumerate(ids):
            try:
                self._parse(blobs[i : i + 1], beside[i : i + 1])
            except StateError as error:
                return StateError(f"entity {entity_id!r}, key {self.key(partition, entity_id).decode()}: {error}")
        return None

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _begin(self, slots: Index, watermark_us: int) -> None:
        """Let entities without state begin at the frontiers of now, so that what is old lands in large tiles at once."""
        slots = slots[self._arena.count[slots] == 0]
        if len(slots):
            horizon, frontiers = rollup.frontiers(self.layout, watermark_us)
            self._known.horizon[slots] = np.maximum(self._known.horizon[slots], horizon)
            self._known.frontiers[slots] = np.maximum(self._known.frontiers[slots], frontiers)

    def _find(self, placed: Placed) -> Index:
        """(r,) position of each of the rows; -1 where it is not there."""
        slots, level, start = placed.slots, placed.level, placed.start
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

    def _append(self, placed: Placed, fresh: Index) -> Index:
        """Positions of new ones of the rows, side by side in the order given, which is by slot."""
        slots, level, start = placed.slots[fresh], placed.level[fresh], placed.start[fresh]
        positions = self._extend(slots)
        newer = np.flatnonzero((level == 0) & (start > self._known.newest_start[slots]))
        newer = newer[np.argsort(start[newer], kind="stable")]     # so of several of a slot the newest is assigned last
        self._known.newest_start[slots[newer]] = start[newer]
        self._known.newest_at[slots[newer]] = positions[newer]
        return positions

    def _extend(self, slots: Index) -> Index:
        """Positions of one more row of a slot for each time that it stands here, in order."""
        first = np.flatnonzero(changes(slots))
        counts = np.diff(first, append=len(slots))
        return spans(self._arena.extend(slots[first], counts), counts)

    def _combine(self, table: Table, at: Index, earlier: Rows) -> None:
        """Merge the rows at these places of the table into what they were before."""
        table[at] = self.layout.table(combine(self.layout, earlier, self.layout.rows(table[at])))

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


def ids_in(column: NDArray[np.generic]) -> list[Id]:
    """The ids of a key column: numbers are held as float64, and are whole."""
    ids: list[Id] = (column if column.dtype == object else column.astype(np.int64)).tolist()
    return ids

