"""What each commit of a fold leaves of the rows that it changes: states between commits, though the batch was folded at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from featureflow.ingest.arena import Table, spans
from featureflow.ingest.order import Index, changes


@dataclass(frozen=True)
class Course:
    """r rows in order of slot, and k (row, commit) pairs in order of row, then commit."""

    slots: Index                           # (r,)
    positions: Index                       # (r,) of the row among its entity's
    earlier: Table                         # (r, width) as it was before all commits; of one that is fresh, anything
    fresh: NDArray[np.bool_]               # (r,) there was none before
    first: Index                           # (r,) where the row's pairs begin
    commits: Index                         # (k,)
    table: Table                           # (k, width) what the commit leaves

    def touched(self, commit: int) -> Index:
        """The slots of which the commit changes rows, distinct, in order."""
        ordered, order = self._by_commit
        begin, end = np.searchsorted(ordered, (commit, commit + 1))
        slots = self.slots[self._row[order[begin:end]]]
        return slots[changes(slots)]

    def rewind(self, commit: int, slots: Index, counts: Index, table: Table) -> NDArray[np.bool_]:
        """Turn rows that all commits have changed into what they are once this one is applied. Which of them there are then.

        ``table`` holds all rows of the ``slots`` (distinct), ``counts`` each, slot after slot.
        """
        begin = np.searchsorted(self.slots, slots)
        number = np.searchsorted(self.slots, slots, side="right") - begin
        rows = spans(begin, number)
        at = np.repeat(np.cumsum(counts) - counts, number) + self.positions[rows]
        last = min(commit, self._ends - 1)                         # behind the last of these, the next row's pairs would follow
        newest = np.searchsorted(self._keys, rows * self._ends + last, side="right") - 1
        changed = newest >= self.first[rows]
        table[at[changed]] = self.table[newest[changed]]
        there = np.ones(len(table), np.bool_)
        there[at[~changed & self.fresh[rows]]] = False
        before = ~changed & ~self.fresh[rows]
        table[at[before]] = self.earlier[rows[before]]
        return there

    @cached_property
    def _row(self) -> Index:
        """(k,) of each pair."""
        return np.repeat(np.arange(len(self.first)), np.diff(self.first, append=len(self.commits)))

    @cached_property
    def _ends(self) -> int:
        """Above every commit."""
        return int(self.commits.max()) + 1 if len(self.commits) else 1

    @cached_property
    def _keys(self) -> Index:
        """(k,) the pairs as one number each, ascending."""
        return self._row * self._ends + self.commits

    @cached_property
    def _by_commit(self) -> tuple[Index, Index]:
        """The commits in order, and the pair of each: those of one commit in order of row."""
        order = np.argsort(self.commits, kind="stable")
        return self.commits[order], order
