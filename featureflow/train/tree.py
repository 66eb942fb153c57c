"""A binary tree of merged rows over a sorted array of rows: any run of it is a few nodes, whatever is aggregated.

Only the kernel's merge is used, so a run's aggregate is the same bits that folding its events one by one would give.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.columns import Layout, Rows, Table
from featureflow.kernel.fold import combine

Int = NDArray[np.int64]


class Tree:
    """n rows in order of start within each entity. Node i of level k is rows [i * 2^k, (i + 1) * 2^k) merged.

    ``seen`` (n,): what a row becomes visible at; a reader at threshold s sees it iff seen <= s. Memory: 2 n rows.
    """

    def __init__(self, layout: Layout, rows: Rows, seen: Int) -> None:
        tables, latest, earliest = [rows], [seen], [seen]
        while len(tables[-1]) >= 2:
            pairs = len(tables[-1]) // 2 * 2       # an odd one out is in no larger node, and no run needs it there
            tables.append(combine(layout, tables[-1][0:pairs:2], tables[-1][1:pairs:2]))
            latest.append(np.maximum(latest[-1][0:pairs:2], latest[-1][1:pairs:2]))
            earliest.append(np.minimum(earliest[-1][0:pairs:2], earliest[-1][1:pairs:2]))
        self._base = np.cumsum([0, *map(len, tables)])
        self._nodes: Table = np.concatenate([layout.table(table) for table in tables])
        self._latest, self._earliest = np.concatenate(latest), np.concatenate(earliest)
        self.levels = len(tables)

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

    def take(self, nodes: Int) -> Table:
        """(k, width) rows of these nodes; ``start`` is the node's first row's."""
        return self._nodes[nodes]

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


