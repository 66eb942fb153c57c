"""From cells to feature values: which cells a window holds is told as of any row; of what it holds, equal cells are merged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.errors import StateError
from featureflow.kernel import cells as of_cells
from featureflow.kernel.columns import CELL, START, WORDS, CellLayout
from featureflow.kernel.partial.sketch import INDEX_BITS
from featureflow.kernel.plan import Estimate, Plan
from featureflow.kernel.state import States, rolled_up_past
from featureflow.kernel.tile import tile_for, window_start

Int = NDArray[np.int64]

_INDEX = (1 << INDEX_BITS) - 1


def estimate(plan: Plan, states: States, q_us: Int) -> list[NDArray[Any]]:
    """(n, size) values of each of the plan's estimates; undefined where no event counts. ``q_us`` (n,) or one for all.

    Raises StateError where states come without their cells, or an instant is behind what the cells can still answer exactly.
    """
    layout = plan.layout
    if len(states.cells) != len(layout.cells):
        raise StateError(f"the states of {layout.view_id} from {layout.source} were read without the cells of its sketches")
    found: dict[int, NDArray[Any]] = {}
    for k, (cells, mine) in enumerate(zip(layout.cells, states.cells, strict=True)):
        wanted = [(i, one) for i, one in enumerate(plan.estimates) if one.layout == k]
        _refuse_what_was_rolled_up(cells, mine, q_us)
        found |= _estimates(cells, mine, q_us, wanted)
    return [found[i] for i in range(len(plan.estimates))]


def _estimates(layout: CellLayout, states: States, q_us: Int, wanted: list[tuple[int, Estimate]]) -> dict[int, NDArray[Any]]:
    table, n = layout.table(states.rows), states.count
    order = np.lexsort((table[:, CELL], states.entity))        # once: what a window leaves out does not change it
    table, entity = table.take(order, axis=0), states.entity[order]
    q = q_us if len(q_us) == 1 else q_us[entity]
    reached = table[:, START] <= q
    found: dict[int, NDArray[Any]] = {}
    for window in dict.fromkeys(one.window for _, one in wanted):
        inside = np.flatnonzero(reached & (table[:, START] >= window_start(window, q)))
        cell, owner, words = table[inside, CELL], entity[inside], table[inside, WORDS:]
        starts = np.flatnonzero(np.concatenate(([True], (np.diff(owner) != 0) | (np.diff(cell) != 0)))[: len(inside)])
        if len(starts) < len(inside):
            words = of_cells.reduce(layout, cell, words, starts)
            cell, owner = cell[starts], owner[starts]
        number = cell >> INDEX_BITS
        here = [(i, one) for i, one in wanted if one.window == window]
        for sketch in dict.fromkeys(one.number for _, one in here):
            its = slice(None) if len(layout.sketches) == 1 else np.flatnonzero(number == sketch)
            asked = [(i, one.asked) for i, one in here if one.number == sketch]
            values = layout.sketches[sketch].estimates(owner[its], cell[its] & _INDEX, words[its], n, [a for _, a in asked])
            found |= {i: value for (i, _), value in zip(asked, values, strict=True)}
    return found


def _refuse_what_was_rolled_up(layout: CellLayout, states: States, q_us: Int) -> None:
    """No row that was rolled up may reach past an instant, or across the beginning of a window."""
    if not len(states.blob_entity):
        return
    q = q_us if len(q_us) == 1 else q_us[states.blob_entity]
    wrong = (states.frontiers > q[:, np.newaxis]).any(axis=1)
    for window in layout.windows:
        begin = window_start(window, q)
        larger = np.array(layout.levels[1:]) > tile_for(window)
        wrong |= (states.frontiers[:, larger] > begin[:, np.newaxis]).any(axis=1) | (states.horizons > begin)
    if wrong.any():
        raise rolled_up_past(layout, states.blob_entity[wrong])
