"""Any run of events is a few nodes, and they merge to the same bits as folding the run's visible events."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from trips import SOURCES, VIEWS, events

from featureflow.kernel.columns import CellLayout, Layout, Rows, Table
from featureflow.kernel.fold import lift, lift_rows, merge
from featureflow.kernel.text import lengths
from featureflow.train.tree import Tree

LAYOUTS = [layout for view in VIEWS for name in view.sources for layout in Layout.of(view, SOURCES[name]).all]
EVERY = events(31, 0, 400)
EVENTS = EVERY.take(np.flatnonzero(lengths(EVERY.columns["note"]) <= 200)[:200])  # a view takes no longer ones


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    n=st.integers(1, 200),
    runs=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(-1, 60)), min_size=1, max_size=8),
    seed=st.integers(0, 1_000),
)
def test_a_cover_is_exactly_the_visible_rows_of_its_run(layout: Layout, n: int, runs: list[tuple[int, int, int]], seed: int) -> None:
    rows, of = lift_rows(layout, EVENTS.take(np.arange(n)))
    seen = np.random.default_rng(seed).integers(0, 60, n)
    tree = Tree(layout, rows, of, seen)
    first, end, threshold = (np.minimum(np.array(column), n) for column in zip(*runs, strict=True))
    owner, nodes = tree.cover(first, end, threshold)
    for i, (a, b, limit) in enumerate(zip(first, end, threshold, strict=True)):
        own = layout.rows(tree.take(nodes[owner == i])[0])
        wanted = rows[(of >= a) & (of < b) & (seen[of] <= limit)]
        assert bool(len(own)) == bool(len(wanted))
        if len(own):
            assert merged(layout, own).tobytes() == merged(layout, wanted).tobytes()


def merged(layout: Layout, rows: Rows) -> Table:
    """All of the rows as one, or one for each cell; what is behind the start."""
    cell = rows["cell"] if isinstance(layout, CellLayout) else np.zeros(len(rows), np.int64)
    order = np.argsort(cell, kind="stable")
    return layout.table(merge(layout, rows, order, np.flatnonzero(np.diff(cell[order], prepend=-1))))[:, 2:]


def test_a_run_of_all_but_the_ends_is_few_nodes() -> None:
    rows = lift(LAYOUTS[0], EVENTS)
    tree = Tree(LAYOUTS[0], rows, np.arange(200), np.zeros(200, np.int64))
    _, nodes = tree.cover(np.array([1]), np.array([199]), np.array([0]))
    assert len(nodes) <= 2 * tree.levels
