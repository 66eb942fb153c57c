"""Every sketch is an exact commutative monoid of cells; what it estimates does not depend on how its events arrived, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import recompute
from unit.kernel.keeper import Keeper
from unit.kernel.worlds import (
    EXACT,
    LIFETIME,
    NASTY,
    NOON,
    SECOND,
    SKETCHED,
    World,
    aggregation,
    events_of,
    partitions_of,
    sliding,
    source,
    tumbling,
    view,
    worlds,
)

from featureflow.errors import StateError
from featureflow.kernel import cells
from featureflow.kernel.columns import CELL, LEVEL, START, WORDS, CellLayout, Layout
from featureflow.kernel.events import Events
from featureflow.kernel.partial.sketch import INDEX_BITS, mix
from featureflow.kernel.partial.table import SKETCHES
from featureflow.kernel.state import encode, parse
from featureflow.kernel.tile import LIFETIME_START_US, LIFETIME_US
from oracle import Record

CLICKS = source()
VALUES = st.lists(NASTY | st.none() | st.integers(-3, 3).map(float), min_size=1, max_size=20)
WINDOWS = [sliding(600), sliding(86_400), tumbling(90), LIFETIME]


def layout_of(op: str, windows: object = (sliding(600),)) -> CellLayout:
    (cells,) = Layout.of(view([aggregation(op, windows)], [CLICKS]), CLICKS).cells
    return cells


def events(values: list[float | None], first: int = 0) -> Events:
    return events_of(
        [
            Record("click", 0, first + i, NOON, NOON, {"at": 0.0, "user": "u1", "x": v, "y": v, "kind": None})
            for i, v in enumerate(values)
        ],
        0,
    )


def folded(layout: CellLayout, batch: Events) -> np.ndarray:
    """All events as one table, a row for each cell, in order of the cells."""
    _, table = cells.lift(layout, batch)
    return merged(layout, table)


def merged(layout: CellLayout, *tables: np.ndarray) -> np.ndarray:
    table = np.concatenate(tables)
    order = np.argsort(table[:, CELL], kind="stable")
    starts = np.flatnonzero(np.diff(table[order, CELL], prepend=-1))
    return cells.merge(layout, table, order, starts)


def test_each_sketch_is_of_an_aggregation_and_each_such_aggregation_has_one() -> None:
    kinds = {type(layout_of(op).sketches[0]) for op in SKETCHED}
    assert kinds == set(SKETCHES)


@pytest.mark.parametrize("op", SKETCHED)
@given(a=VALUES, b=VALUES, c=VALUES)
@settings(max_examples=40, deadline=None)
def test_merging_is_associative_and_commutative(op: str, a: list[float], b: list[float], c: list[float]) -> None:
    layout = layout_of(op)
    x, y, z = folded(layout, events(a)), folded(layout, events(b, 100)), folded(layout, events(c, 200))
    one = merged(layout, merged(layout, x, y), z)
    assert one.tobytes() == merged(layout, x, merged(layout, y, z)).tobytes() == merged(layout, z, x, y).tobytes()
    assert merged(layout, x, y).tobytes() == merged(layout, y, x).tobytes()
    assert merged(layout, x, x[:0]).tobytes() == x.tobytes()


@pytest.mark.parametrize("op", SKETCHED)
@given(values=VALUES, data=st.data())
@settings(max_examples=40, deadline=None)
def test_order_and_batches_do_not_change_a_bit_of_a_cell(op: str, values: list[float], data: st.DataObject) -> None:
    layout, batch = layout_of(op), events(values)
    whole = folded(layout, batch)
    order = np.array(data.draw(st.permutations(range(len(values)))))
    assert folded(layout, batch.take(order)).tobytes() == whole.tobytes()
    cut = data.draw(st.integers(0, len(values)))
    parts = [folded(layout, batch.take(some)) for some in (order[:cut], order[cut:])]
    assert merged(layout, *parts).tobytes() == whole.tobytes()
    both = cells.combine(layout, whole, whole)
    assert both.tobytes() == merged(layout, whole, whole).tobytes()


@pytest.mark.parametrize("op", SKETCHED)
@given(values=VALUES)
@settings(max_examples=40, deadline=None)
def test_cells_survive_their_bytes_at_any_tile(op: str, values: list[float]) -> None:
    layout = layout_of(op, WINDOWS)
    table = folded(layout, events(values))
    for level, tile in enumerate(layout.levels):
        table[:, LEVEL] = level
        for start in (LIFETIME_START_US,) if tile == LIFETIME_US else (NOON, 0, -NOON, -(2**52) // SECOND * SECOND):
            table[:, START] = start
            encoded = encode(layout, 5, 17, np.zeros(len(layout.levels) - 1, np.int64), layout.rows(table))
            assert len(encoded) == layout.header_bytes + len(table) * layout.row_bytes
            assert parse(layout, [[encoded]]).rows.tobytes() == layout.rows(table).tobytes()


@pytest.mark.parametrize("op", SKETCHED)
def test_an_event_changes_few_cells_and_all_events_no_more_than_the_sketch_has(op: str) -> None:
    layout = layout_of(op)
    (sketch,) = layout.sketches
    rng = np.random.default_rng(7)
    values = [*np.round(rng.lognormal(8, 3, 20_000) * rng.choice([-1, 1], 20_000)).tolist(), 0.0]
    of, table = cells.lift(layout, events(values))
    assert np.bincount(of).max() <= sketch.per_event
    assert np.bincount(of).min() >= 1
    assert table[:, CELL].min() >= 0
    assert table[:, CELL].max() < sketch.size <= 1 << INDEX_BITS


@pytest.mark.parametrize("op", SKETCHED)
def test_an_event_that_does_not_participate_changes_no_cell(op: str) -> None:
    for outside in (None, 2.0**63, -(2.0**63)):
        assert len(folded(layout_of(op), events([outside]))) == 0


@given(worlds(ops=(*SKETCHED, "count", "last_n")), st.data())
@settings(max_examples=80, deadline=None)
def test_a_stream_in_any_batches_with_roll_ups_at_any_moment_equals_its_replay(world: World, data: st.DataObject) -> None:
    keeper, at = Keeper(world), 0
    while at < len(world.records):
        batch = [world.records[at]]
        for record in world.records[at + 1:at + data.draw(st.integers(1, 20))]:
            if (record.source, record.partition) != (batch[0].source, batch[0].partition):
                break
            batch.append(record)
        at += len(batch)
        keeper.fold(batch)
        for key in list(keeper.held):
            if data.draw(st.booleans()):
                keeper.roll_up(key)
    everything = {name: dict.fromkeys((0, 1), 10**6) for name in world.sources}
    now = max(world.now, *keeper.maximum.values(), NOON)    # a producer's first record may be ahead of now, and rolls up to itself
    for ago in (0, 5 * SECOND, -100 * SECOND, -86_400 * SECOND):
        q = np.full(2, now - ago)
        values = world.kernel.finalize(keeper.states(("u1", "u2")), q)
        again = recompute(world.kernel, world.sources, partitions_of(world), ["u1", "u2"], q, everything)
        assert values.values.tobytes() == again.values.tobytes()
        assert values.statuses.tobytes() == again.statuses.tobytes()
        assert [text.tolist() for text in values.texts.values()] == [text.tolist() for text in again.texts.values()]


def test_a_view_with_a_sketch_has_the_rows_of_one_without() -> None:
    plain = Layout.of(view([aggregation(op, WINDOWS) for op in EXACT], [CLICKS]), CLICKS)
    sketched = Layout.of(view([aggregation(op, WINDOWS) for op in (*EXACT, *SKETCHED)], [CLICKS]), CLICKS)
    assert sketched.row_bytes == plain.row_bytes
    assert plain.cells == ()
    assert plain.all == (plain,)
    assert all(one.row_bytes <= 40 for one in sketched.cells)


def test_cells_have_the_windows_of_their_sketches_and_the_finest_tile_of_the_view() -> None:
    declared = [aggregation("count", [sliding(60), LIFETIME]), aggregation("approx_distinct", [sliding(86_400)])]
    of = Layout.of(view(declared, [CLICKS]), CLICKS)
    (cells,) = of.cells
    assert cells.levels == (of.finest, 3600 * SECOND)
    assert cells.retention_us == 86_400 * SECOND
    assert cells.ttl_ms > 0 == of.ttl_ms


def test_states_without_their_cells_are_refused() -> None:
    of = view([aggregation("approx_distinct", [sliding(600)])], [CLICKS])
    world = World(of, {"click": CLICKS}, ())
    keeper = Keeper(world)
    keeper.fold([Record("click", 0, 0, NOON, NOON, {"at": 0.0, "user": "u1", "x": 1.0, "y": None, "kind": "a"})])
    states = keeper.states(["u1"])
    assert world.kernel.finalize(states, np.array([NOON])).values.tolist() == [[1.0]]
    bare = {"click": type(states["click"])(**{**vars(states["click"]), "cells": ()})}
    with pytest.raises(StateError, match="without the cells"):
        world.kernel.finalize(bare, np.array([NOON]))


def test_an_instant_behind_a_frontier_of_the_cells_is_refused_with_the_entities() -> None:
    of = view([aggregation("count", [sliding(60)]), aggregation("approx_distinct", [sliding(86_400)])], [CLICKS])
    world = World(of, {"click": CLICKS}, ())
    keeper = Keeper(world)
    keeper.fold([Record("click", 0, 0, NOON, NOON, {"at": 0.0, "user": "u2", "x": 1.0, "y": None, "kind": "a"})])
    keeper.roll_up(("click", 0, "u2"))
    states = keeper.states(("u1", "u2"))
    kernel = world.kernel
    (frontier,) = states["click"].cells[0].frontiers[0].tolist()
    assert frontier > 0
    kernel.finalize(states, np.full(2, NOON))
    held = states["click"]
    lifted = type(held)(**{**vars(held), "cells": (type(held)(**{**vars(held.cells[0]), "frontiers": np.array([[NOON + SECOND]])}),)})
    with pytest.raises(StateError, match=r"rolled up past the instant asked for, for the entities at \[1\]"):
        kernel.finalize({"click": lifted}, np.full(2, NOON))


def test_the_mix_is_one_to_one_and_always_the_same() -> None:
    bits = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(mix(bits))) == len(bits)
    assert [hex(x) for x in mix(np.array([0, 1, 2**63], np.uint64)).tolist()] == [
        "0xe220a8397b1dcdaf", "0x910a2dec89025cc1", "0x481ec0a212a9f3db"
    ]  # fmt: skip


def test_words_of_cells_are_merged_by_the_sketch_that_they_are_of() -> None:
    layouts = Layout.of(view([aggregation(op, WINDOWS) for op in SKETCHED], [CLICKS]), CLICKS).cells
    for layout in layouts:
        one, other = folded(layout, events([1.0, 5.0, 5.0])), folded(layout, events([5.0, 9.0], 50))
        together = merged(layout, one, other)
        for number, sketch in enumerate(layout.sketches):
            mine = together[together[:, CELL] >> INDEX_BITS == number]
            parts = [table[table[:, CELL] >> INDEX_BITS == number] for table in (one, other)]
            stacked = np.concatenate(parts)
            order = np.argsort(stacked[:, CELL], kind="stable")
            starts = np.flatnonzero(np.diff(stacked[order, CELL], prepend=-1))
            assert mine[:, WORDS:].tobytes() == sketch.reduce(stacked[order, WORDS:], starts).tobytes()
