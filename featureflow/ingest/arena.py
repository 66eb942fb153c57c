"""Rows of many entities in one growing table, each entity's side by side."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Table = NDArray[np.int64]

LEAST_ROWS = 4                         # an entity's first place holds this many
SPARSE = 0.75                          # a full table of which less than this is in use is packed before it grows


class Arena:
    """A table of int64 rows cut into places, one per slot (a small integer that stands for an entity).

    A slot's rows are ``table[base[slot] : base[slot] + count[slot]]``: a row's position never changes while it lives, its index in the
    table does, whenever rows are added. A slot that outgrows its place moves to one twice as large at the end; the places
    left behind are closed up when the end of the table is reached.
    """

    def __init__(self, width: int, rows: int = 1_024, pack_rows: int = 65_536) -> None:
        """``rows``: to begin with. ``pack_rows``: moved at once when places are closed up, so that no second table is needed."""
        self.table: Table = np.empty((rows, width), np.int64)
        self._pack_rows = pack_rows
        self.base: Index = np.zeros(64, np.int64)
        self.count: Index = np.zeros(64, np.int64)
        self.capacity: Index = np.zeros(64, np.int64)
        self._end = 0

    @property
    def rows(self) -> int:
        """Rows of table that places take up, those half empty included."""
        return int(self.capacity.sum())

    def reserve(self, slots: int) -> None:
        """Make room for slots below this number; a new slot has no rows."""
        if slots > len(self.base):
            more = np.zeros(max(slots, 2 * len(self.base)) - len(self.base), np.int64)
            self.base = np.concatenate((self.base, more))
            self.count = np.concatenate((self.count, more))
            self.capacity = np.concatenate((self.capacity, more))

    def where(self, slots: Index) -> tuple[Index, Index]:
        """Indices into ``table`` of all rows of the slots, slot after slot, and for each the place of its slot in ``slots``."""
        counts = self.count[slots]
        return spans(self.base[slots], counts), np.repeat(np.arange(len(slots)), counts)

    def extend(self, slots: Index, more: Index) -> Index:
        """Add ``more[i]`` rows, not yet filled, to ``slots[i]`` (distinct). The positions of the first of each."""
        before = self.count[slots]
        needed = before + more
        moving = needed > self.capacity[slots]
        if moving.any():
            self._move(slots[moving], needed[moving])
        self.count[slots] = needed
        return before

    def replace(self, slots: Index, rows: Table, counts: Index) -> None:
        """Give ``slots[i]`` (distinct) the next ``counts[i]`` of ``rows`` instead of what they have, which is no fewer."""
        self.table[spans(self.base[slots], counts)] = rows
        self.count[slots] = counts

    def free(self, slots: Index) -> None:
        """Forget the rows of the slots."""
        self.count[slots] = self.capacity[slots] = 0

    def _move(self, slots: Index, needed: Index) -> None:
        sizes = np.maximum(LEAST_ROWS, 1 << np.ceil(np.log2(needed)).astype(np.int64))
        total = int(sizes.sum())
        if self._end + total > len(self.table):
            self._make_room(total)
        to = self._end + np.cumsum(sizes) - sizes
        counts = self.count[slots]
        self.table[spans(to, counts)] = self.table[spans(self.base[slots], counts)]
        self.base[slots], self.capacity[slots] = to, sizes
        self._end += total

    def _make_room(self, rows: int) -> None:
        if self.rows < SPARSE * self._end:
            self._pack()
        wanted = self._end + rows
        if wanted > SPARSE * len(self.table):
            grown = np.empty((max(2 * len(self.table), wanted), self.table.shape[1]), np.int64)
            grown[: self._end] = self.table[: self._end]
            self.table = grown

    def _pack(self) -> None:
        """Move all places down over the gaps, in order, so that none is overwritten before it has moved."""
        slots = np.flatnonzero(self.capacity)
        slots = slots[np.argsort(self.base[slots])]
        sizes = self.capacity[slots]
        ends = np.cumsum(sizes)
        cuts = np.flatnonzero(np.diff(ends // self._pack_rows, prepend=-1)).tolist()
        for first, last in pairwise([*cuts, len(slots)]):
            block = slots[first:last]
            to, counts = ends[first:last] - sizes[first:last], self.count[block]
            self.table[spans(to, counts)] = self.table[spans(self.base[block], counts)]
            self.base[block] = to
        self._end = int(ends[-1]) if len(ends) else 0


def spans(first: Index, counts: Index) -> Index:
    """``first[0], first[0] + 1, ...`` (``counts[0]`` of them), then the same for 1, 2, ...: (counts.sum(),)."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(first - ends + counts, counts)
