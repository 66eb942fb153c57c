"""The newest row of each entity: most events belong to it or to one after it, which is told by one comparison."""

from __future__ import annotations

import numpy as np

from featureflow.clock import NO_TIME_US
from featureflow.ingest.arena import Arena
from featureflow.ingest.order import Index
from featureflow.ingest.slots import Slots
from featureflow.kernel.columns import LEVEL, START


class Newest:
    """Of each slot, the row of the finest level that starts last: where it starts, and its position, kept beside what else is known."""

    def __init__(self, arena: Arena, known: Slots) -> None:
        self._arena, self._known = arena, known

    def find(self, slots: Index, level: Index, start: Index) -> Index:
        """(r,) the position among its slot's of each row, by slot, level and start (us); -1 where it is not there."""
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

    def added(self, slots: Index, level: Index, start: Index, positions: Index) -> None:
        """The slots have these rows more, at these positions (r,)."""
        newer = np.flatnonzero((level == 0) & (start > self._known.newest_start[slots]))
        newer = newer[np.argsort(start[newer], kind="stable")]     # so of several of a slot the newest is assigned last
        self._known.newest_start[slots[newer]] = start[newer]
        self._known.newest_at[slots[newer]] = positions[newer]

    def replaced(self, slots: Index) -> None:
        """The rows of the slots (distinct) are others than they were."""
        self._known.newest_start[slots], self._known.newest_at[slots] = NO_TIME_US, -1
        rows, owner = self._arena.where(slots)
        finest = np.flatnonzero(self._arena.table[rows, LEVEL] == 0)
        rows, owner = rows[finest], slots[owner[finest]]
        start = self._arena.table[rows, START]
        order = np.lexsort((start, owner))
        self._known.newest_start[owner[order]] = start[order]
        self._known.newest_at[owner[order]] = (rows - self._arena.base[owner])[order]
