"""The slab of a layout of cells: an event may change several rows of a tile, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featureflow import limits
from featureflow.ingest.arena import Table
from featureflow.ingest.cuts import Changes, Whole
from featureflow.ingest.order import Index, changes
from featureflow.ingest.placed import Placed
from featureflow.ingest.slab import Slab
from featureflow.kernel import cells, state
from featureflow.kernel.columns import LEVEL, START, CellLayout, Layout
from featureflow.kernel.events import Events
from featureflow.kernel.state import States
from featureflow.store.keys import Keys


@dataclass(frozen=True)
class _PlacedCells(Placed):
    """``order`` is of the cells that events change, k of them: an event stands there once for each."""

    lifted: Table                          # (k, width) in that order
    packed: Index                          # (r,) of each row, what makes it that one


class CellSlab(Slab):
    """As any slab, but rows differ by their cell too, so that an entity's newest row does not say where a cell is."""

    layout: CellLayout

    def __init__(
        self, layout: CellLayout, keys: Keys, max_bytes: int = limits.SLAB_BYTES, *, publishes: bool = False, rows: Layout | None = None
    ) -> None:
        """``rows``: the layout that these cells are beside. Its states, given to ``load``, may be events, of which these cells are too."""
        super().__init__(layout, keys, max_bytes, publishes=publishes)
        self._beside = rows

    def _parse(self, blobs: Sequence[bytes | None], beside: Sequence[bytes | None]) -> States:
        if self._beside is None or not beside:
            return super()._parse(blobs, beside)
        return state.parse_cells(self._beside, self.layout, [[blob] for blob in blobs], beside)

    def place(self, partition: int, events: Events, chosen: Index, slots: Index, watermark_us: int) -> Placed:
        n = len(events)
        of, table = cells.lift(self.layout, events if len(chosen) == n else events.take(chosen))
        taking = np.unique(of)                                     # the events that change any
        if not len(taking):
            none = np.zeros(0, np.int64)
            lifted, whole = self._lift(none, Whole(none, none))
            return _PlacedCells(
                partition, events, none, none.astype(np.bool_), none, none, none, lifted, Changes(none, none), whole, table, none
            )  # fmt: skip
        entities, keys, whole, level, start = self._settle(events, chosen[taking], slots[taking], watermark_us)
        of = np.searchsorted(taking, of)
        table[:, START], table[:, LEVEL] = start[of], level[of]
        packed, owner, event = self.layout.packed(table), slots[taking][of], chosen[taking][of]
        by_row = np.lexsort((packed, owner))
        begins = changes(owner[by_row]) | changes(packed[by_row])
        rows = by_row[begins]
        order = event[by_row]
        entities, whole = self._lift(entities, whole)
        return _PlacedCells(
            partition, events, order, begins, owner[rows], table[rows, LEVEL], table[rows, START], entities, keys, whole, table[by_row],
            packed[rows],
        )  # fmt: skip

    def _lift(self, entities: Index, whole: Whole) -> tuple[Index, Whole]:
        """With those that are written here from this batch on, whether an event changes a cell of theirs or not."""
        if self.lifting is None or not len(self.lifting.slots):
            return entities, whole
        lifted = Whole(self.lifting.events, self.arena.count[self.lifting.slots] * self.weight)
        return np.union1d(entities, self.lifting.slots), Whole(*map(np.concatenate, zip(whole, lifted, strict=True)))

    def _folded(self, placed: Placed, first: Index) -> Table:
        assert isinstance(placed, _PlacedCells)
        return cells.merge(self.layout, placed.lifted, np.arange(len(placed.lifted)), first)

    def _find(self, placed: Placed) -> Index:
        assert isinstance(placed, _PlacedCells)
        slots, wanted = placed.slots, placed.packed
        if not len(slots):
            return np.zeros(0, np.int64)
        positions = np.full(len(slots), -1, np.int64)
        rows, owner = self.arena.where(placed.entities)
        held = self.layout.packed(self.arena.table[rows])
        # Most rows are of other tiles or cells than any that is wanted; of the others the owner decides.
        distinct, rank = np.unique(wanted, return_inverse=True)
        place = np.searchsorted(distinct, held)
        place[place == len(distinct)] = 0
        near = np.flatnonzero(distinct[place] == held)
        rows, owner, code = rows[near], owner[near], owner[near] * len(distinct) + place[near]
        # Not every entity that is written here has a cell that changes: those that become rows with this batch.
        asked = np.searchsorted(placed.entities, slots) * len(distinct) + rank
        order = np.argsort(asked)
        at = np.searchsorted(asked[order], code)
        at[at == len(asked)] = 0
        hit = order[at]
        equal = asked[hit] == code
        positions[hit[equal]] = (rows - self.arena.base[placed.entities[owner]])[equal]
        return positions

    def _append(self, placed: Placed, fresh: Index) -> Index:
        return self._extend(placed.slots[fresh])

    def _replaced(self, slots: Index) -> None:
        pass
