"""The point-in-time join: what each row's features were, from history, by the kernel that serves them.

For each view: events are judged in offset order and lifted to rows (``gather``), sorted by entity and time; the rows of one
entity that one window boundary after the other cuts off are runs of that order; a run's visible part is a few nodes of a
tree of merged rows; the kernel finalizes those. Every step is the kernel's exact arithmetic, so that a value
here is the value there, to the bit. Works through groups of entities and chunks of rows, so memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.columns import CellLayout, Layout, Rows
from featureflow.kernel.finalize import Values, ViewKernel
from featureflow.kernel.fold import lift_rows
from featureflow.kernel.state import States
from featureflow.kernel.tile import LIFETIME_US, floor, window_start
from featureflow.train.gather import NOBODY, Entities, Gathered
from featureflow.train.tree import Tree

Int = NDArray[np.int64]
TREE_BYTES = 128 * 1024 * 1024             # of one group's trees; one entity's own may be larger
CHUNK_BYTES = 64 * 1024 * 1024             # of the nodes that are merged at once


@dataclass(frozen=True)
class Part:
    """Partitions of one source that are seen by the same rule. ``thresholds`` (rows,): each row sees events with seen <= its threshold."""

    source: str
    gathered: Sequence[Gathered]
    thresholds: Int


def join(kernel: ViewKernel, entities: Entities, instants_us: Int, parts: Sequence[Part], *, cut: bool = False) -> Values:
    """One view's values for every row. ``entities.codes`` and ``instants_us`` are (n,), values come in that order.

    Of a source of which the view has no window but ``lifetime`` all that is seen counts, events that are newer than a row's instant too,
    as they did for whoever was served then. ``cut`` leaves these out.
    """
    n = len(instants_us)
    collected: list[Values] = []
    order = np.argsort(entities.codes, kind="stable")      # rows without an id come first, and have no events
    for group in _groups(kernel.layouts, entities, parts):
        first, end = np.searchsorted(entities.codes[order], group)
        rows = order[first:end]
        if len(rows):
            collected.extend(_join_group(kernel, entities.codes, instants_us, rows, group, parts, cut))
    if not collected:
        return kernel.finalize({name: _states(layout, [], 0) for name, layout in kernel.layouts.items()}, instants_us)
    back = np.empty(n, np.intp)
    back[order] = np.arange(n)
    return Values.concat(collected).take(back)


def _groups(layouts: Mapping[str, Layout], entities: Entities, parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
    """Ranges of entity codes whose trees fit the bound together."""
    size = np.zeros(len(entities) + 1, np.int64)           # bytes of each code's trees, from NOBODY on
    for part in parts:
        for gathered in part.gathered:
            events = np.bincount(gathered.codes + 1, minlength=len(size))
            for layout in layouts[part.source].all:
                levels = 1 + np.ceil(np.log2(np.maximum(events, 1))).astype(np.int64) if isinstance(layout, CellLayout) else 2
                size += 8 * layout.width * layout.rows_per_event * events * levels
    total, first = 0, NOBODY
    for code, own in enumerate(size.tolist(), start=NOBODY):
        if total and total + own > TREE_BYTES:
            yield first, code
            total, first = 0, code
        total += own
    yield first, len(entities)


def _join_group(
    kernel: ViewKernel, codes: Int, instants_us: Int, rows: NDArray[np.intp], group: tuple[int, int], parts: Sequence[Part], cut: bool
) -> Iterator[Values]:
    runs = [[_Runs(layout, part, group, cut) for layout in kernel.layouts[part.source].all] for part in parts]
    chunk = max(1, min(CHUNK_BYTES // max(1, run.bytes_per_row) for each in runs for run in each)) if runs else len(rows)
    for start in range(0, len(rows), chunk):
        some = rows[start:start + chunk]
        found: dict[str, list[list[tuple[Rows, Int]]]] = {name: [] for name in kernel.layouts}
        for part, each in zip(parts, runs, strict=True):
            found[part.source].append([run.rows(codes[some], instants_us[some], part.thresholds[some]) for run in each])
        states = {name: _states(kernel.layouts[name], several, len(some)) for name, several in found.items()}
        yield kernel.finalize(states, instants_us[some])


def _states(layout: Layout, several: Sequence[Sequence[tuple[Rows, Int]]], n: int) -> States:
    """``several`` are parts, each with the rows of the layout and of its cells."""
    rows, *cells = (_merged(one, [part[k] for part in several], n) for k, one in enumerate(layout.all))
    return replace(rows, cells=tuple(cells))


def _merged(layout: Layout, several: Sequence[tuple[Rows, Int]], n: int) -> States:
    if len(several) == 1:
        rows, owner = several[0]
    else:
        rows = np.concatenate([layout.empty(), *(rows for rows, _ in several)])
        owner = np.concatenate([np.zeros(0, np.int64), *(owner for _, owner in several)])
        order = np.argsort(owner, kind="stable")
        rows, owner = rows.take(order), owner[order]
    return States.of_rows(layout, rows, owner, n)


class _Runs:
    """The events of a group of entities, as a tree over (entity, time)."""

    def __init__(self, layout: Layout, part: Part, group: tuple[int, int], cut: bool) -> None:
        self._layout, self._cut = layout, cut
        lifted, owners, codes, times, seen = [layout.empty()], [], [], [], []
        total = 0
        for gathered in part.gathered:
            first, end = np.searchsorted(gathered.codes, group)
            events = gathered.events.take(np.arange(first, end))
            rows, of = lift_rows(layout, events)
            lifted.append(rows)
            owners.append(of + total)
            total += len(events)
            codes.append(gathered.codes[first:end])
            times.append(events.times_us)
            seen.append(gathered.seen[first:end])
        none = np.zeros(0, np.int64)
        code, time, visible = np.concatenate([none, *codes]), np.concatenate([none, *times]), np.concatenate([none, *seen])
        order = np.lexsort((time, code))
        self._instants, rank = np.unique(time, return_inverse=True)
        self._keys = code[order] * (len(self._instants) + 1) + rank[order]
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        of = rank[np.concatenate([none, *owners])]
        by = np.argsort(of, kind="stable")
        self._tree = Tree(layout, np.concatenate(lifted).take(by), of[by], visible[order])
        pieces = len(layout.windows)
        if layout.apart_us is not None:
            whose, tile = code[order], floor(time[order], layout.apart_us)
            self._apart = np.flatnonzero((np.diff(whose) != 0) | (np.diff(tile) != 0)) + 1     # another tile or entity begins
            pieces += int(np.bincount(whose[self._apart] - NOBODY).max(initial=0))
        self.bytes_per_row = 8 * layout.width * self._tree.rows_per_run * pieces

    def rows(self, codes: Int, instants_us: Int, thresholds: Int) -> tuple[Rows, Int]:
        """(rows, the asking row of each, nondecreasing). No row reaches across the beginning of a window."""
        n, layout = len(codes), self._layout
        bounds = np.stack([window_start(window, instants_us) for window in layout.windows])
        bounds.sort(axis=0)
        cuts = np.empty((len(bounds) + 1, n), np.int64)
        for i, bound in enumerate(bounds):
            cuts[i] = self._before(codes, bound)
        if layout.finest == LIFETIME_US and self._cut:
            cuts[-1] = self._before(codes, instants_us + 1)
        elif layout.finest == LIFETIME_US:
            cuts[-1] = np.searchsorted(self._keys, (codes + 1) * (len(self._instants) + 1))
        else:
            cuts[-1] = self._before(codes, floor(instants_us, layout.finest) + layout.finest)
        asking = np.repeat(np.arange(n), len(bounds))
        first, end = cuts[:-1].T.ravel(), cuts[1:].T.ravel()
        if layout.apart_us is not None:
            first, end, run = _cut(first, end, self._apart)
            asking = asking[run]
        runs, nodes = self._tree.cover(first, end, thresholds[asking])
        if not len(runs):
            return layout.empty(), np.zeros(0, np.int64)
        order = np.argsort(runs, kind="stable")
        table, counts = self._tree.take(nodes[order])
        return layout.rows(table), np.repeat(asking[runs[order]], counts)

    def _before(self, codes: Int, bound: Int) -> Int:
        """How many events, in order, are of an earlier entity, or of this one and older than ``bound``."""
        rank = np.searchsorted(self._instants, bound)
        return np.searchsorted(self._keys, codes * (len(self._instants) + 1) + rank).astype(np.int64)


def _cut(first: Int, end: Int, places: Int) -> tuple[Int, Int, Int]:
    """The runs [first, end), cut at each of the ascending ``places`` inside: the pieces' first and end, and which run each is of."""
    low = np.searchsorted(places, first, side="right")
    pieces = np.maximum(np.searchsorted(places, end, side="left") - low, 0) + 1
    run = np.repeat(np.arange(len(first)), pieces)
    begins = np.cumsum(pieces) - pieces
    nth = np.arange(len(run)) - begins[run]                # of the run's pieces
    starts = np.where(nth == 0, first[run], places[np.minimum(low[run] + nth - 1, len(places) - 1)] if len(places) else first[run])
    ends = np.where(nth == pieces[run] - 1, end[run], np.append(starts[1:], 0))
    return starts, ends, run
