"""Folding events into rows, and merging rows.

A segment is a run of a sorted order: segment i is ``order[starts[i]:starts[i + 1]]``, never empty. Every function here is exact, so
it does not matter how a set of events is cut into calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import columns_of
from featureflow.kernel import cells as of_cells
from featureflow.kernel.columns import FIRST, LEVEL, START, CellLayout, Layout, Rows, Table
from featureflow.kernel.events import Events
from featureflow.kernel.exact import ADDITIONS, LIMB_BITS, LIMB_MASK, Float, Int
from featureflow.kernel.expression import evaluate, is_null, is_true
from featureflow.kernel.partial.entries import Entries
from featureflow.kernel.tile import floor
from featureflow.limits import NUMBER_ABS

Index = NDArray[np.intp]


def fold(layout: Layout, events: Events, order: Index, starts: Index) -> Rows:
    """One row per segment of events. ``start`` and ``level`` are left 0 for the caller to set."""
    lifted, entries = _lift(layout, events, order)
    m = len(starts)
    reduced = np.zeros((layout.width, m), np.int64)
    _reduce(layout, lifted, starts, reduced)
    table = np.ascontiguousarray(reduced.T)
    if layout.entries:
        segment = np.repeat(np.arange(m), np.diff(np.append(starts, len(order))))
        for partial, (participating, entry) in entries.items():
            places = layout.positions[partial]
            table[:, places[0]:places[-1] + 1] = partial.best(segment[participating], entry, m)
    return layout.rows(table)


def lift(layout: Layout, events: Events) -> Rows:
    """One row per event, with ``start`` = its finest tile and ``level`` 0."""
    n = len(events)
    rows = fold(layout, events, np.arange(n), np.arange(n))
    rows["start"] = floor(events.times_us, layout.finest)
    return rows


def lift_rows(layout: Layout, events: Events) -> tuple[Rows, Index]:
    """The rows that the events are, as ``lift``, and for each the place of its event; one event may change several cells, or none."""
    if not isinstance(layout, CellLayout):
        return lift(layout, events), np.arange(len(events))
    of, table = of_cells.lift(layout, events)
    table[:, START] = floor(events.times_us[of], layout.finest)
    return layout.rows(table), of


def merge(layout: Layout, rows: Rows, order: Index, starts: Index) -> Rows:
    """One row per segment of rows; ``start`` and ``level`` are those of the segment's first row.

    Where the rows are cells, those of a segment are of one cell.
    """
    if isinstance(layout, CellLayout):
        return layout.rows(of_cells.merge(layout, layout.table(rows), order, starts))
    table = layout.table(rows).take(order, axis=0)
    m = len(starts)
    merged = np.empty((m, layout.width), np.int64)
    _reduce(layout, table.T, starts, merged.T)
    merged[:, :FIRST] = table[starts, :FIRST]
    if layout.entries:
        segment = np.repeat(np.arange(m), np.diff(np.append(starts, len(order))))
        _merge_entries(layout, table, segment, merged)
    return layout.rows(merged)


def combine(layout: Layout, a: Rows, b: Rows) -> Rows:
    """Row i of ``a`` merged with row i of ``b``; ``start`` and ``level`` are ``a``'s."""
    left, right = layout.table(a), layout.table(b)
    if isinstance(layout, CellLayout):
        return layout.rows(of_cells.combine(layout, left, right))
    table = left + right
    table[:, START], table[:, LEVEL] = left[:, START], left[:, LEVEL]
    maxima = slice(layout.t_max, layout.max_end)
    np.maximum(left[:, maxima], right[:, maxima], out=table[:, maxima])
    carry(layout, table.T[FIRST:])
    if layout.entries:
        segment = np.arange(len(left))
        _merge_entries(layout, np.concatenate((left, right)), np.concatenate((segment, segment)), table)
    return layout.rows(table)


def carry(layout: Layout, columns: Table) -> None:
    """Bring the limbs of the added columns (FIRST .. t_max, ...), in place, to canonical form."""
    for low, high in layout.carries:
        block = columns[low]
        columns[high] += block >> LIMB_BITS
        block &= LIMB_MASK


def _reduce(layout: Layout, columns: Table, starts: Index, out: Table) -> None:
    """Reduce (width, n) columns by segments into (width, m), all but the entries."""
    if columns.shape[1] > ADDITIONS and len(starts):
        # Cut long segments, so that limbs cannot overflow, and reduce the pieces.
        cuts = np.union1d(starts, np.arange(0, columns.shape[1], ADDITIONS))
        pieces = np.empty((len(columns), len(cuts)), np.int64)
        _reduce_blocks(layout, columns, cuts, pieces)
        columns, starts = pieces, np.searchsorted(cuts, starts)
    _reduce_blocks(layout, columns, starts, out)


def _reduce_blocks(layout: Layout, columns: Table, starts: Index, out: Table) -> None:
    added, maxima = slice(FIRST, layout.t_max), slice(layout.t_max, layout.max_end)
    if len(starts) == columns.shape[1]:
        out[added], out[maxima] = columns[added], columns[maxima]
    else:
        out[added] = np.add.reduceat(columns[added], starts, axis=1)
        out[maxima] = np.maximum.reduceat(columns[maxima], starts, axis=1)
    carry(layout, out[FIRST:])


def _merge_entries(layout: Layout, table: Table, segment: Int, out: Table) -> None:
    for partial in layout.entries:
        places = layout.positions[partial]
        block = slice(places[0], places[-1] + 1)
        entries = table[:, block].reshape(-1, partial.width)
        out[:, block] = partial.best(np.repeat(segment, partial.size), entries, len(out))


def _lift(layout: Layout, events: Events, order: Index) -> tuple[Table, dict[Entries, tuple[Index, Int]]]:
    """(width, n) columns of the ordered events, and for each partial of entries (participating, (k, width) entries)."""
    n = len(order)
    lifted = np.zeros((layout.max_end, n), np.int64)
    times = events.times_us[order]
    lifted[layout.t_max] = times
    columns = {name: events.columns[name][order] for name in layout.value_fields}
    entries: dict[Entries, tuple[Index, Int]] = {}
    for (value, where), partials in layout.inputs:
        values, participates = _participating(value, where, columns, n)
        for partial in partials:
            places = layout.positions[partial]
            if isinstance(partial, Entries):
                kept = np.arange(n) if participates is None else np.flatnonzero(participates)
                positions = events.positions(order)
                some = {name: columns[name][kept] for expr in partial.exprs for name in columns_of(expr)}
                entries[partial] = kept, partial.entries(times[kept], positions[kept], values[kept], some)
                continue
            cells = partial.lift(values, times)
            if participates is not None:
                cells = np.where(participates, cells, np.array(partial.identity)[:, np.newaxis])
            for place, cell in zip(places, cells, strict=True):
                lifted[place] = cell
    return lifted, entries


def _participating(
    value: Any, where: Any, columns: Mapping[str, NDArray[Any]], n: int
) -> tuple[Float, NDArray[np.bool_] | None]:
    """Values with 0 where the event does not participate, and which do (None: all of them)."""
    participates = None if where is None else is_true(evaluate(where, columns, n))
    if value is None:
        return np.zeros(n), participates
    found = evaluate(value, columns, n)
    if found.dtype == object:  # strings: what is there counts
        there = ~is_null(found)
        return np.zeros(n), there if participates is None else participates & there
    values = np.asarray(found, np.float64)
    if values.ndim == 2:  # vectors: as a whole or not at all
        whole: NDArray[np.bool_] = np.logical_and.reduce(np.abs(values) < NUMBER_ABS, axis=1)
        return np.zeros(n), whole if participates is None else participates & whole
    numbers = np.abs(values) < NUMBER_ABS  # False for NaN
    if not numbers.all():
        participates = numbers if participates is None else participates & numbers
        values = np.where(numbers, values, 0.0)
    return values, participates


