"""Folding events into the cells of sketches, and merging cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.columns import CELL, WORDS, CellLayout, Table
from featureflow.kernel.events import Events
from featureflow.kernel.expression import evaluate, is_null, is_true
from featureflow.kernel.partial.sketch import INDEX_BITS
from featureflow.limits import NUMBER_ABS

Index = NDArray[np.intp]
Int = NDArray[np.int64]


def lift(layout: CellLayout, events: Events) -> tuple[Index, Table]:
    """The cells that each event changes: (r,) its place among the events, nondecreasing, and (r, width) its rows.

    ``start`` and ``level`` are left 0 for the caller to set.
    """
    n = len(events)
    columns = {name: events.columns[name] for name in layout.value_fields}
    of: list[Index] = []
    tables: list[Table] = []
    for number, sketch in enumerate(layout.sketches):
        assert sketch.value is not None, "a sketch is of values"
        values = evaluate(sketch.value, columns, n)
        values = values.astype(np.float64) if values.dtype == np.bool_ else values
        participates = ~is_null(values) if values.dtype == object else np.abs(values) < NUMBER_ABS
        if sketch.where is not None:
            participates &= is_true(evaluate(sketch.where, columns, n))
        mine = np.flatnonzero(participates)
        whose, cells, words = sketch.cells(values[mine], events.positions(mine))
        table = np.zeros((len(cells), layout.width), np.int64)
        table[:, CELL] = (number << INDEX_BITS) | cells
        table[:, WORDS:] = words
        of.append(mine[whose])
        tables.append(table)
    if len(tables) == 1:
        return of[0], tables[0]
    owners = np.concatenate(of)
    order = np.argsort(owners, kind="stable")
    return owners[order], np.concatenate(tables).take(order, axis=0)


def merge(layout: CellLayout, table: Table, order: Index, starts: Index) -> Table:
    """One row per segment of rows that are of one cell; ``start`` and ``level`` are those of the segment's first row."""
    table = table.take(order, axis=0)
    merged = table.take(starts, axis=0)
    if len(starts) < len(table):
        merged[:, WORDS:] = reduce(layout, table[:, CELL], table[:, WORDS:], starts)
    return merged


def reduce(layout: CellLayout, cells: Int, words: Int, starts: Index) -> Int:
    """(m, words) of segments (r,) of cells that are equal within each."""
    kinds = [type(sketch) for sketch in layout.sketches]
    if len(set(kinds)) == 1:
        return kinds[0].reduce(words, starts)
    segment = np.zeros(len(words), np.int64)
    segment[starts[1:]] = 1
    segment = np.cumsum(segment)
    number = cells >> INDEX_BITS
    out = np.empty((len(starts), words.shape[1]), np.int64)
    for kind in dict.fromkeys(kinds):
        mine = np.flatnonzero(np.isin(number, [i for i, other in enumerate(kinds) if other is kind]))
        if len(mine):
            first = np.flatnonzero(np.diff(segment[mine], prepend=-1))
            out[segment[mine[first]]] = kind.reduce(words[mine], first)
    return out


def combine(layout: CellLayout, a: Table, b: Table) -> Table:
    """Row i of ``a`` merged with row i of ``b``, which is of the same cell."""
    both = np.stack((a, b), axis=1).reshape(2 * len(a), layout.width)
    return merge(layout, both, np.arange(len(both)), np.arange(0, len(both), 2))

