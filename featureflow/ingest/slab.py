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
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.errors import StateError
from featureflow.ingest.arena import SPARE, Arena, Table, spans
from featureflow.ingest.course import Course
from featureflow.ingest.cuts import Changes, Whole, weight
from featureflow.ingest.lifting import Lifting
from featureflow.ingest.newest import Newest
from featureflow.ingest.order import Index, changes, in_order
from featureflow.ingest.pending import OUTSTANDING, Pending
from featureflow.ingest.placed import Placed, in_order_of_row, previous
from featureflow.ingest.roll_up import roll_up
from featureflow.ingest.slots import Id, Slots, ids_in
from featureflow.ingest.state_writes import Entities, StateWrites, Touched
from featureflow.kernel import event_form, rollup, state
from featureflow.kernel.columns import LEVEL, START, Layout, Rows
from featureflow.kernel.events import Events
from featureflow.kernel.fold import combine, fold
from featureflow.kernel.state import States
from featureflow.store.keys import Keys
from featureflow.store.online.writes import Writes

EVICT_TO = 0.9                         # of the bound, so that evicting is seldom
ENTITY_OVERHEAD_BYTES = 570            # id, state key, header, dict entry, an object for its events, and a line in each array


class Slab:
    """All cached rows of one layout, of any number of partitions. Used from one thread.

    ``max_bytes`` bounds what ``evict`` leaves; places that are left behind take a quarter more at most. Where a slab ``publishes``,
    ``touched`` and ``states`` tell of each commit of the last fold, and an entity that a commit changes is one row more.
    """

    def __init__(self, layout: Layout, keys: Keys, max_bytes: int = limits.SLAB_BYTES, *, publishes: bool = False) -> None:
        self.layout = layout
        self.publishes = publishes
        self.weight = weight(layout.row_bytes)                     # as how many rows one counts in a commit
        self._course: Course | None = None
        self._names = keys
        self.max_bytes = max_bytes
        self.arena = Arena(layout.width, max(1, int(max_bytes * (1 + SPARE)) // (8 * layout.width)))
        self.known = Slots(layout)
        self.lifting: Lifting | None = None
        self._slots: dict[int, dict[Id, int]] = {}                 # partition -> entity id -> slot
        self._newest = Newest(self.arena, self.known)
        self._writes = StateWrites(layout, self.known)
        self._pending: list[Pending] = []
        self._clock = 0
        self._several = len(keys.buckets) > 1

    # -- what it holds -------------------------------------------------------------------------------------------------

    @property
    def entities(self) -> int:
        """How many entities are here, those that have no state yet included."""
        return sum(map(len, self._slots.values()))

    @property
    def used_bytes(self) -> int:
        """Estimated memory in use: rows, with the room that their entities keep to grow, and what finds them."""
        return 8 * self.arena.rows * self.layout.width + self.entities * ENTITY_OVERHEAD_BYTES + self.known.events_bytes

    def ids(self, events: Events, chosen: Index | None = None) -> list[Id]:
        """The entity id of each of the events at the places ``chosen``, or of all."""
        column = events.columns[self.layout.key_field]
        return ids_in(column if chosen is None or len(chosen) == len(column) else column[chosen])

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
        return self.known.bucket[slots]

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
        held = [place for place, blob in enumerate(blobs) if blob or (beside and beside[place])]
        states = self._parsed(partition, [ids[p] for p in held], [blobs[p] for p in held], [beside[p] for p in held if beside])
        if (strange := states.owners != partition).any():
            places = [held[blob] for blob in states.blob_entity[strange].tolist()]
            if not self.layout.keyed:
                raise StateError(
                    f"{self.key(partition, ids[places[0]]).decode()} holds rows of another partition than its "
                    f"name says: something else writes to this database. Run `featureflow rebuild {self.layout.view_id.partition('@')[0]}`"
                )
            owners = dict(zip(places, states.owners[strange].tolist(), strict=True))
            mine = [place for place in range(len(ids)) if place not in owners]
            self.load(
                partition, [ids[place] for place in mine], [blobs[place] for place in mine], [beside[place] for place in mine if beside],
                [keys[place] for place in mine if keys],
            )
            return {ids[place]: owner for place, owner in owners.items()}
        slots = self.known.take(partition, ids, keys or [self.key(partition, entity_id) for entity_id in ids])
        self._slots.setdefault(partition, {}).update(zip(ids, slots.tolist(), strict=True))
        self.known.bucket[slots] = [self._names.number(entity_id) for entity_id in ids] if self._several else 0
        self.known.last_used[slots] = self._clock
        self.arena.reserve(len(self.known))
        self._take_in(slots[held], [blob for blob in blobs if blob], states)
        self._replaced(slots)
        return {}

    def _take_in(self, slots: Index, blobs: Sequence[bytes], states: States) -> None:
        """What the store holds of the slots, which are new: ``blobs`` are those of ``states.blob_entity``."""
        known, stored, counts = self.known, slots[states.blob_entity], np.bincount(states.entity, minlength=len(slots))
        known.horizon[stored], known.frontiers[stored] = states.horizons, states.frontiers
        few = np.array([blob[0] == event_form.FORMAT for blob in blobs], np.bool_)
        known.hold_rows(stored[~few], [blob for blob in blobs if blob[0] != event_form.FORMAT], counts[states.blob_entity[~few]])
        if few.any():
            known.hold_events(stored[few], [blob for blob in blobs if blob[0] == event_form.FORMAT])
        full = np.flatnonzero(counts)
        counts = counts[full]
        self.arena.extend(slots[full], counts)
        self.arena.table[spans(self.arena.base[slots[full]], counts)] = self.layout.table(states.rows)

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
        layout, known = self.layout, self.known
        times_us = events.times_us if len(chosen) == len(events) else events.times_us[chosen]
        by_entity = in_order(slots)
        entities = slots[by_entity]
        begins = changes(entities)
        entities, places = entities[begins], chosen[by_entity]
        # The first commits of a batch publish values of instants that frontiers of its last events would lie beyond.
        begin_us = watermark_us if self.publishes else int(times_us.max())
        self._begin(entities[known.stored_rows[entities] < 0], begin_us)
        rolled = roll_up(layout, self.arena, known, entities, watermark_us)
        if len(rolled):
            self._replaced(rolled)
        heavy = known.rewrite[entities].nonzero()[0]
        whole = Whole(places[begins][heavy], self.arena.count[entities[heavy]] * self.weight)
        return entities, Changes(places, previous(places, begins)), whole, *rollup.level_of(layout, times_us, known.frontiers[slots])

    def fold(self, placed: Placed, commit_of: Index, commits: int) -> list[tuple[Writes, int]]:
        """Fold what was placed: what each of so many commits writes, and of how many rows. ``commit_of`` (n,) is the commit of each event.

        For two events of one entity, the earlier one's commit is the same or comes before.
        """
        arena, known = self.arena, self.known
        number = commit_of[placed.order]
        cut = placed.begins.copy()
        cut[1:] |= number[1:] != number[:-1]
        first = np.flatnonzero(cut)
        number = number[first]
        table = self._folded(placed, first)
        row_at = np.flatnonzero(placed.begins[first])              # where each row's states begin
        times = np.diff(row_at, append=len(first))                 # how many commits change it
        slots, entities = placed.slots, placed.entities
        table[:, START], table[:, LEVEL] = np.repeat(placed.start, times), np.repeat(placed.level, times)
        held = arena.count[entities]
        positions, absent = self._positions(placed, number[row_at])
        rows = arena.base[slots] + positions
        apart = known.as_events[entities]                          # what is written of them is not written here
        whole = (known.rewrite[entities] | (known.stored_rows[entities] < 0)) & ~apart
        before = Entities(entities, held, whole, arena.table.take(spans(arena.base[entities[whole]], held[whole]), axis=0))
        earlier = arena.table.take(rows, axis=0) if self.publishes else None
        lifted = None if self.lifting is None else self.lifting.lifted(commit_of, arena)
        self._merge(table, row_at, times, rows, absent)
        if earlier is not None:
            self._course = Course(slots, positions, earlier, absent, row_at, number, table)
        made = np.zeros(len(first), np.bool_)
        made[row_at] = absent
        touched = Touched(number, np.repeat(slots, times), np.repeat(positions, times), made, table)
        if apart.any() or lifted is not None:
            writes, last = self._writes.of_some(touched, before, apart, lifted, commits)
        else:
            writes, last = self._writes.of(touched, before, commits)
        self._pending.append(Pending(placed.partition, entities, last, whole | (apart & known.events_whole[entities])))
        self._clock += 1
        known.last_used[entities], known.dirty[entities] = self._clock, True
        known.stored_rows[entities[~apart]], known.rewrite[entities] = arena.count[entities[~apart]], False      # for the next one
        return writes

    def _positions(self, placed: Placed, number: Index) -> tuple[Index, NDArray[np.bool_]]:
        """(r,) the position of each row among its entity's, and whether it was absent and is not yet filled. Those of an entity that were
        are in order of ``number``, the first commit that each is of, since a commit may append rows only behind those of the ones before.
        """
        positions = self._find(placed)
        absent = positions < 0
        fresh = np.flatnonzero(absent)
        if len(fresh):
            fresh = fresh[np.argsort((placed.slots[fresh] << 32) | number[fresh], kind="stable")]
            positions[fresh] = self._append(placed, fresh)
        return positions, absent

    def _merge(self, table: Table, row_at: Index, times: Index, rows: Index, absent: NDArray[np.bool_]) -> None:
        """Make of what each commit adds what it leaves, commit after commit of each row, and put the last into the arena at ``rows``.

        A row's commits are ``times`` places of ``table`` from ``row_at`` on. What was ``absent`` was nothing before.
        """
        arena, there = self.arena, np.flatnonzero(~absent)
        if len(there):
            self._combine(table, row_at[there], self.layout.rows(arena.table.take(rows[there], axis=0)))
        several, rank = np.flatnonzero(times > 1), 1
        while len(several):
            at = row_at[several] + rank
            self._combine(table, at, self.layout.rows(table.take(at - 1, axis=0)))
            rank += 1
            several = several[times[several] > rank]
        arena.table[rows] = table if len(table) == len(rows) else table.take(row_at + times - 1, axis=0)

    @property
    def pending(self) -> Pending | None:
        """What the last ``fold`` made so."""
        return self._pending[-1] if self._pending else None

    def published(self) -> None:
        """What ``touched`` and ``states`` tell of is needed no more."""
        self._course = None

    def _folded(self, placed: Placed, first: Index) -> Table:
        """A row for each segment of the placed events, the segments beginning at ``first``; start and level are set by the caller."""
        return self.layout.table(fold(self.layout, placed.events, placed.order, first))

    def touched(self, commit: int) -> Index:
        """The entities that this commit of the last ``fold`` changes: distinct slots, in order."""
        return np.zeros(0, np.int64) if self._course is None else self._course.touched(commit)

    def states(self, commit: int, slots: Index) -> States:
        """The states of entities (distinct slots) as they are once this commit of the last ``fold`` is applied."""
        known, counts = self.known, self.arena.count[slots]
        rows, owner = self.arena.where(slots)
        table = self.arena.table.take(rows, axis=0)
        if self._course is not None:
            there = self._course.rewind(commit, slots, counts, table)
            table, owner = table[there], owner[there]
        return States(
            self.layout.rows(table), owner, len(slots), np.arange(len(slots)),
            known.partition[slots], known.horizon[slots], known.frontiers[slots],
        )  # fmt: skip

    def entity_ids(self, slots: Index) -> list[Id]:
        """The id of the entity that each slot stands for."""
        return list(map(self.known.ids.__getitem__, slots.tolist()))

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
        pending, known = pending or self._pending[0], self.known
        self._pending.remove(pending)
        at_ms = pending.committed_ms(times_ms)
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
        idle = np.flatnonzero((self.known.partition >= 0) & ~self.known.dirty)
        idle = idle[np.argsort(self.known.last_used[idle], kind="stable")]
        arena = self.arena
        sizes = 8 * arena.capacity[idle] * self.layout.width + ENTITY_OVERHEAD_BYTES + self.known.body_bytes[idle]
        idle = idle[: int(np.searchsorted(np.cumsum(sizes), excess)) + 1]
        self._forget_ids(idle)
        self._forget(idle)
        return len(idle)

    def _forget_ids(self, slots: Index) -> None:
        for slot, partition in zip(slots.tolist(), self.known.partition[slots].tolist(), strict=True):
            del self._slots[partition][self.known.ids[slot]]

    def _forget(self, slots: Index) -> None:
        self.arena.free(slots)
        self.known.release(slots)

    def _parse(self, blobs: Sequence[bytes | None], beside: Sequence[bytes | None]) -> States:
        return state.parse_rows(self.layout, [[blob] for blob in blobs])

    def _parsed(self, partition: int, ids: Sequence[Id], blobs: Sequence[bytes | None], beside: Sequence[bytes | None]) -> States:
        """Raises StateError that names the first of these that is no state."""
        try:
            return self._parse(blobs, beside)
        except StateError as error:
            for i, entity_id in enumerate(ids):
                try:
                    self._parse(blobs[i : i + 1], beside[i : i + 1])
                except StateError as cause:
                    raise StateError(f"entity {entity_id!r}, key {self.key(partition, entity_id).decode()}: {cause}") from error
            raise

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _begin(self, slots: Index, watermark_us: int) -> None:
        """Let entities without state begin at the frontiers of now, so that what is old lands in large tiles at once."""
        slots = slots[self.arena.count[slots] == 0]
        if len(slots):
            horizon, frontiers = rollup.frontiers(self.layout, watermark_us)
            self.known.horizon[slots] = np.maximum(self.known.horizon[slots], horizon)
            self.known.frontiers[slots] = np.maximum(self.known.frontiers[slots], frontiers)

    def _find(self, placed: Placed) -> Index:
        """(r,) position of each of the rows; -1 where it is not there."""
        return self._newest.find(placed.slots, placed.level, placed.start)

    def _append(self, placed: Placed, fresh: Index) -> Index:
        """Positions of new ones of the rows, side by side in the order given, which is by slot."""
        slots = placed.slots[fresh]
        positions = self._extend(slots)
        self._newest.added(slots, placed.level[fresh], placed.start[fresh], positions)
        return positions

    def _extend(self, slots: Index) -> Index:
        """Positions of one more row of a slot for each time that it stands here, in order."""
        first = np.flatnonzero(changes(slots))
        counts = np.diff(first, append=len(slots))
        return spans(self.arena.extend(slots[first], counts), counts)

    def _combine(self, table: Table, at: Index, earlier: Rows) -> None:
        """Merge the rows at these places of the table into what they were before."""
        table[at] = self.layout.table(combine(self.layout, earlier, self.layout.rows(table.take(at, axis=0))))

    def _replaced(self, slots: Index) -> None:
        """The rows of the slots (distinct) are others than they were."""
        self._newest.replaced(slots)
