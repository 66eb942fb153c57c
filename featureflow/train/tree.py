"""A binary tree of merged rows over a sorted array of rows: any run of it is a few nodes, whatever is aggregated.

Only the kernel's merge is used, so a run's aggregate is the same bits that folding its events one by one would give.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.columns import CELL, CellLayout, Layout, Rows, Table
from featureflow.kernel.fold import combine, merge

Int = NDArray[np.int64]


class Tree:
    """n events in order of start within each entity. Node i of level k is events [i * 2^k, (i + 1) * 2^k) merged: one row, or
    where the rows are cells one for each cell.

    ``of`` (r,): whose each row is, nondecreasing. ``seen`` (n,): what an event becomes visible at; a reader at threshold s sees it iff
    seen <= s. Memory: 2 n rows, of cells at most that for each level.
    """

    def __init__(self, layout: Layout, rows: Rows, of: Int, seen: Int) -> None:
        tables, latest, earliest = [layout.table(rows)], [seen], [seen]
        counts = [np.bincount(of, minlength=len(seen))]
        while len(latest[-1]) >= 2:
            pairs = len(latest[-1]) // 2 * 2       # an odd one out is in no larger node, and no run needs it there
            above, count = _pairs(layout, tables[-1], counts[-1], pairs)
            tables.append(above)
            counts.append(count)
            latest.append(np.maximum(latest[-1][0:pairs:2], latest[-1][1:pairs:2]))
            earliest.append(np.minimum(earliest[-1][0:pairs:2], earliest[-1][1:pairs:2]))
        self._base = np.cumsum([0, *map(len, latest)])
        self._rows: Table = np.concatenate(tables)
        self._counts = np.concatenate(counts)
        self._first = np.cumsum(self._counts) - self._counts
        self._latest, self._earliest = np.concatenate(latest), np.concatenate(earliest)
        self.levels = len(tables)
        self.rows_per_run = 2 * sum(int(count.max(initial=0)) for count in counts)   # at most

    def cover(self, first: Int, end: Int, threshold: Int) -> tuple[Int, Int]:
        """(run, node) pairs: which nodes make up the visible rows of each run [first, end), at its threshold."""
        runs, levels, places = self._decompose(first, end)
        found_runs, found_nodes = [], []
        while len(runs):
            nodes = self._base[levels] + places
            whole = self._latest[nodes] <= threshold[runs]
            found_runs.append(runs[whole])
            found_nodes.append(nodes[whole])
            partly = ~whole & (self._earliest[nodes] <= threshold[runs])
            runs, levels, places = np.repeat(runs[partly], 2), np.repeat(levels[partly] - 1, 2), np.repeat(2 * places[partly], 2)
            places[1::2] += 1
        return (np.concatenate(found_runs), np.concatenate(found_nodes)) if found_runs else (np.zeros(0, np.int64), np.zeros(0, np.int64))

    def take(self, nodes: Int) -> tuple[Table, Int]:
        """(r, width) rows of these nodes, and of each how many they are. ``start`` is that of an event of the node's."""
        counts = self._counts[nodes]
        ends = np.cumsum(counts)
        place = np.arange(counts.sum()) + np.repeat(self._first[nodes] - ends + counts, counts)
        return self._rows.take(place, axis=0), counts

    def _decompose(self, first: Int, end: Int) -> tuple[Int, Int, Int]:
        """The largest nodes that lie inside each run, bottom up."""
        run = np.flatnonzero(first < end)
        lo, hi = first[run], end[run]
        runs, levels, places = [], [], []
        for level in range(self.levels):
            left = (lo & 1) == 1
            right = (hi & 1) == 1
            runs += [run[left], run[right]]
            places += [lo[left], hi[right] - 1]
            levels.append(np.full(int(left.sum()) + int(right.sum()), level, np.int64))
            lo, hi = (lo + left) >> 1, (hi - right) >> 1
            on = lo < hi
            run, lo, hi = run[on], lo[on], hi[on]
            if not len(run):
                break
        if not runs:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(runs), np.concatenate(levels), np.concatenate(places)


def _pairs(layout: Layout, table: Table, counts: Int, nodes: int) -> tuple[Table, Int]:
    """The rows of nodes 0 and 1, 2 and 3, ... merged, and how many they are of each pair. ``nodes`` is even."""
    if not isinstance(layout, CellLayout):
        rows = layout.rows(table)
        return layout.table(combine(layout, rows[0:nodes:2], rows[1:nodes:2])), np.ones(nodes // 2, np.int64)
    pair = np.repeat(np.arange(nodes) // 2, counts[:nodes])
    table = table[: len(pair)]
    order = np.lexsort((table[:, CELL], pair))
    keys = np.stack((pair, table[:, CELL]))[:, order]
    starts = np.flatnonzero(np.concatenate(([True], (keys[:, 1:] != keys[:, :-1]).any(axis=0)))[: len(order)])
    merged = merge(layout, layout.rows(table), order, starts)
    return layout.table(merged), np.bincount(keys[0, starts], minlength=nodes // 2)
