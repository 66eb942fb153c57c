"""A session is the events since the last pause of more than the gap, however they lie in rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.kernel.worlds import NOON, SECOND, World, aggregation, events_of, session, sliding, source, view

from featureflow.kernel.columns import OLDEST, START, Layout
from featureflow.kernel.finalize import Values
from featureflow.kernel.fold import fold
from featureflow.kernel.session import session_begin
from featureflow.kernel.state import States
from featureflow.kernel.tile import floor
from oracle import Record

CLICKS = source(keyed=False, disorder_s=0)
GAP = session(1800)


def record(t: int, partition: int = 0) -> Record:
    return Record("click", partition, 0, t, t, {"at": float(t), "user": "u1", "x": 1.0, "y": None, "kind": None})


def ask(times: Sequence[int], q: int, window: object = GAP, *, tiles: Sequence[int] = (), partitions: int = 1) -> Values:
    """One entity's answer from rows of a tile size per partition, the finest where none is given."""
    world = World(view([aggregation("count", [window], default=0.0), aggregation("sum", [sliding(12)])], [CLICKS]), {"click": CLICKS}, ())  # type: ignore[list-item]
    layout = world.kernel.layouts["click"]
    rows = []
    for partition in range(partitions):
        mine = [t for i, t in enumerate(times) if i % partitions == partition]
        if not mine:
            continue
        tile = tiles[partition] if tiles else layout.finest
        starts = floor(np.array(mine), tile)
        order = np.argsort(starts, kind="stable")
        first = np.flatnonzero(np.concatenate(([True], np.diff(starts[order]) > 0)))
        folded = fold(layout, events_of([record(t) for t in mine], partition), order, first)
        folded["start"] = starts[order][first]
        rows.append(folded)
    merged = np.concatenate(rows) if rows else layout.empty()
    return world.kernel.finalize({"click": States.of_rows(layout, merged, np.zeros(len(merged), np.int64), 1)}, np.array([q]))


def test_it_begins_after_the_last_pause_that_is_longer_than_the_gap_and_ends_with_it() -> None:
    minute = 60 * SECOND
    times = [NOON, NOON + 30 * minute + 1, NOON + 60 * minute + 1, NOON + 61 * minute]
    end = NOON + 91 * minute
    assert ask(times, times[-1]).values[0, 0] == 3                  # the first pause is a microsecond too long, the second is not
    assert ask(times, end).values[0, 0] == 3
    assert ask(times, end + 1).values[0, 0] == 0                    # and there is none any more
    assert ask(times, NOON + 30 * minute).values[0, 0] == 1


def test_it_reaches_back_no_further_than_longest() -> None:
    times = [NOON - i * 600 * SECOND for i in range(20)]
    q = NOON + 100 * SECOND
    assert ask(times, q, session(1800, 3600)).values[0, 0] == len([t for t in times if t >= floor(q - 3600 * SECOND, 900 * SECOND)]) == 7


def test_without_events_there_is_no_session() -> None:
    got = ask([], NOON)
    assert got.values[0, 0] == 0


@given(
    st.lists(st.integers(0, 4 * 3600).map(lambda s: NOON + s * SECOND + s % 7), min_size=1, max_size=40),
    st.integers(0, 5 * 3600),
    st.lists(st.sampled_from([1, 10, 60, 300, 900]), min_size=3, max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_it_does_not_depend_on_the_rows_and_partitions_that_the_events_lie_in(times: list[int], after: int, tiles: list[int]) -> None:
    q = floor(NOON + after * SECOND, 900 * SECOND) - 1              # an end of a tile of any size, as after a roll-up
    expected, newest = 0, q
    for t in sorted((t for t in times if t <= q), reverse=True):
        if newest - t > GAP.gap_us:
            break
        expected, newest = expected + 1, t
    sizes = [tile * SECOND for tile in tiles]
    assert ask(times, q).values[0, 0] == expected
    assert ask(times, q, tiles=sizes, partitions=3).values[0, 0] == expected


def test_rows_that_are_not_looked_at_as_one_would_give_another_session() -> None:
    """The pause is bridged by a row that began long before: what each row's neighbour says is not enough."""
    t_min = np.array([0, 100, 900])
    t_max = np.array([890, 110, 950])
    one = session_begin(t_min, t_min, t_max, np.zeros(3, np.int64), np.array([-1]), np.array([1000]), 200, 1)
    assert one.tolist() == [0]
    assert (t_min[1:] - t_max[:-1] > 200).any()


@pytest.mark.parametrize("n", [1, 3])
def test_each_entity_has_its_own(n: int) -> None:
    start = np.array([0, 50, 400, 10, 20])
    entity = np.array([0, 0, 0, n - 1, n - 1]) if n > 1 else np.zeros(5, np.int64)
    got = session_begin(start, start, start, entity, np.array([-1]), np.full(n, 420), 100, n)
    assert got.tolist() == ([400] if n == 1 else [400, 421, 421])


def test_only_a_layout_with_a_session_keeps_the_oldest_time() -> None:
    with_one = Layout.of(view([aggregation("count", [GAP])], [CLICKS]), CLICKS)
    without = Layout.of(view([aggregation("count", [sliding(1800)])], [CLICKS]), CLICKS)
    assert OLDEST in with_one.partials
    assert OLDEST not in without.partials
    assert with_one.width == without.width + 1
    assert with_one.table(with_one.empty())[:, START].size == 0
