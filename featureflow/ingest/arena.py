"""Rows of many entities in one growing table, each entity's side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.ingest.order import Index

Table = NDArray[np.int64]

LEAST_ROWS = 4                         # an entity's first place holds this many, or one that is wide,
WIDE_BYTES = 1_024                     # which is so much
SPARE = 1 / 4                          # of what places take up, that a table has besides: so much is used before they are moved again
MOVED_BYTES = 8 * 1024 * 1024          # at once, when places are moved together


class Arena:
    """A table of rows of numbers cut into places, one per slot (a small integer that stands for an entity).

    A slot's rows are ``table[base[slot] : base[slot] + count[slot]]``: a row's position never changes while it lives, its index in the
    table does, whenever rows are added. A slot that outgrows its place moves to one of the next power of two; the place left
    behind is given to the next slot that needs its size. Where slots come to need other sizes than were left behind, the table
    ends before there is room: then the places are moved together, so that those left behind never add up.
    """

    def __init__(self, width: int, rows: int = 1_024, dtype: type[np.integer[Any]] = np.int64) -> None:
        """``rows``: room to begin with. Give the bound that is kept anyway, and ``SPARE`` of it: the system hands out memory as it is
        first touched, and a table that need not grow is never copied."""
        self.table: NDArray[Any] = np.empty((rows, width), dtype)
        self.base: Index = np.zeros(64, np.int64)
        self.count: Index = np.zeros(64, np.int64)
        self.capacity: Index = np.zeros(64, np.int64)
        self._least = LEAST_ROWS if self.table.itemsize * width < WIDE_BYTES else 1
        self._vacant: dict[int, Stack] = {}         # size -> bases of places left behind
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
        """Forget the rows of the slots (distinct)."""
        self._vacate(self.base[slots], self.capacity[slots])
        self.count[slots] = self.capacity[slots] = 0

    def _move(self, slots: Index, needed: Index) -> None:
        sizes = np.maximum(self._least, 1 << np.frexp(needed - 1)[1].astype(np.int64))     # the next power of two
        if self._end + int(sizes.sum()) > len(self.table):         # seldom in vain: most tables begin with all the room they need
            self._make_room(sizes)
        to = np.empty(len(slots), np.int64)
        for size in distinct(sizes):
            wanting = np.flatnonzero(sizes == size)
            to[wanting] = self._places(size, len(wanting))
        counts = self.count[slots]
        self.table[spans(to, counts)] = self.table.take(spans(self.base[slots], counts), axis=0)
        self._vacate(self.base[slots], self.capacity[slots])
        self.base[slots], self.capacity[slots] = to, sizes

    def _places(self, size: int, number: int) -> Index:
        """Bases of places of this size: those left behind first, then new ones at the end of the table."""
        again = self._vacant[size].pop(number) if size in self._vacant else np.zeros(0, np.int64)
        first, self._end = self._end, self._end + size * (number - len(again))
        return np.concatenate((again, np.arange(first, self._end, size)))

    def _make_room(self, sizes: Index) -> None:
        """See to it that there is a place of each of these sizes: left behind, or at the end of the table."""
        new = sum(size * max(0, int((sizes == size).sum()) - len(self._vacant.get(size, ()))) for size in distinct(sizes))
        if self._end + new <= len(self.table):
            return
        needed = self.rows + int(sizes.sum())
        enough = len(self.table) >= needed + int(needed * SPARE / 2)      # so that it is not all moved again at once
        self._together(self.table if enough else np.empty((needed + int(needed * SPARE), self.table.shape[1]), self.table.dtype))

    def _together(self, to: Table) -> None:
        """Move all places to the beginning of ``to``, which may be the same table: in order, a part at a time, so that none is
        overwritten before it was moved."""
        slots = np.flatnonzero(self.capacity)
        slots = slots[np.argsort(self.base[slots])]
        capacity, counts, old = self.capacity[slots], self.count[slots], self.base[slots]
        ends = np.cumsum(capacity)
        base, most = ends - capacity, max(1, MOVED_BYTES // (to.itemsize * to.shape[1]))
        for part in np.split(np.arange(len(slots)), np.flatnonzero(np.diff(np.cumsum(counts) // most)) + 1):
            to[spans(base[part], counts[part])] = self.table.take(spans(old[part], counts[part]), axis=0)
        self.table, self.base[slots] = to, base
        self._vacant.clear()
        self._end = int(ends[-1]) if len(ends) else 0

    def _vacate(self, bases: Index, sizes: Index) -> None:
        for size in distinct(sizes):
            self._vacant.setdefault(size, Stack()).push(bases[sizes == size])


class Stack:
    """int64 numbers, of which the last to come are the first to go."""

    def __init__(self) -> None:
        self._numbers: Index = np.zeros(16, np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, numbers: Index) -> None:
        """Put these on top, in order: the last is the first to go."""
        needed = self._count + len(numbers)
        if needed > len(self._numbers):
            self._numbers = np.concatenate((self._numbers[: self._count], np.zeros(2 * needed - self._count, np.int64)))
        self._numbers[self._count : needed] = numbers
        self._count = needed

    def pop(self, most: int) -> Index:
        """The last so many, or as many as there are."""
        first = max(0, self._count - most)
        out, self._count = self._numbers[first : self._count].copy(), first
        return out


def distinct(sizes: Index) -> list[int]:
    """The powers of two that are among the sizes, smallest first; a size is one, or 0."""
    found = int(np.bitwise_or.reduce(sizes)) if len(sizes) else 0
    return [1 << bit for bit in range(found.bit_length()) if found >> bit & 1]


def spans(first: Index, counts: Index) -> Index:
    """``first[0], first[0] + 1, ...`` (``counts[0]`` of them), then the same for 1, 2, ...: (counts.sum(),)."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(first - ends + counts, counts)
