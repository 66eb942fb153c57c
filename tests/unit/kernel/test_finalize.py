"""What a window holds, and what a value says of itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import recompute
from unit.kernel.worlds import (
    LIFETIME,
    NOON,
    SECOND,
    WINDOWS,
    World,
    X,
    Y,
    aggregation,
    answers_of,
    applied_of,
    bits,
    exact,
    hopping,
    partitions_of,
    sliding,
    source,
    tumbling,
    view,
    worlds,
)  # fmt: skip

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Call, Literal, Window
from featureflow.kernel.finalize import Status, Values
from featureflow.kernel.plan import Plan
from featureflow.kernel.state import States
from featureflow.kernel.tile import window_start
from oracle import Record

CLICKS = source(keyed=False, disorder_s=0)


def record(t: int, x: float = 1.0, *, partition: int = 0, offset: int | None = None, **fields: object) -> Record:
    at = t - NOON if offset is None else offset
    return Record("click", partition, at, t, t, {"at": float(t), "user": "u1", "x": x, "y": None, "kind": None, **fields})


def ask(aggregations: list, records: list[Record], q: int, *, ttl_s: int | None = None) -> Values:
    ordered = sorted(records, key=lambda r: (r.partition, r.time_us))
    renumbered = [Record(r.source, r.partition, i, r.time_us, r.timestamp_us, r.fields) for i, r in enumerate(ordered)]
    world = World(view(aggregations, [CLICKS], ttl_s=ttl_s), {"click": CLICKS}, tuple(renumbered))
    return recompute(world.kernel, world.sources, partitions_of(world), ["u1"], np.array([q]), applied_of(world.records))


def counted(window: Window, times: list[int], q: int, finest: Window | None = None) -> float:
    """How many of the events the window holds at q. ``finest`` is another window that makes the head finer."""
    extra = [aggregation("count", [finest], name="other")] if finest else []
    return float(ask([aggregation("count", [window], default=0.0), *extra], [record(t) for t in times], q).values[0, 0])


@pytest.mark.parametrize(("window", "tile_s"), [(sliding(600), 10), (sliding(3600), 300)])
def test_a_sliding_windows_tail_moves_in_steps_of_its_tile(window: Window, tile_s: int) -> None:
    q = NOON + 7 * SECOND
    begin = (q - window.length_us) // (tile_s * SECOND) * tile_s * SECOND
    assert counted(window, [begin], q) == 1
    assert counted(window, [begin - 1], q) == 0
    assert counted(window, [begin], q + 1) == 1


def test_the_head_is_exact_to_the_finest_tile_of_the_view() -> None:
    q = NOON + 7 * SECOND
    assert counted(sliding(3600), [q + 1, NOON + 299 * SECOND], q) == 2        # the tile of 5 min that began before q
    assert counted(sliding(3600), [NOON + 300 * SECOND], q) == 0
    assert counted(sliding(3600), [NOON + 9 * SECOND], q, finest=sliding(600)) == 1
    assert counted(sliding(3600), [NOON + 10 * SECOND], q, finest=sliding(600)) == 0


def test_a_tumbling_window_is_the_bucket_that_is_not_complete_yet() -> None:
    hour = 3600 * SECOND
    assert counted(tumbling(3600), [NOON - 1, NOON, NOON + 5], NOON + hour - 1) == 2
    assert counted(tumbling(3600), [NOON - 1, NOON, NOON + 5], NOON + hour) == 0


def test_an_offset_moves_where_a_tumbling_window_begins() -> None:
    six = NOON - 6 * 3600 * SECOND
    for q, begin in ((six - 1, six - 86_400 * SECOND), (six, six), (NOON, six)):
        assert counted(tumbling(86_400, 21_600), [begin - 1, begin], q) == 1
        assert counted(tumbling(86_400, 21_600), [begin - 1], q) == 0


def test_a_hopping_window_is_the_one_that_closes_next() -> None:
    """Those of 10 minutes each minute that are not complete at 12:03:20 close at 12:04 ... 12:13; the first began at 11:54."""
    minute = 60 * SECOND
    q = NOON + 3 * minute + 20 * SECOND
    assert counted(hopping(600, 60), [NOON - 6 * minute - 1, NOON - 6 * minute, q], q) == 2
    assert counted(hopping(600, 60), [NOON - 6 * minute], NOON + 4 * minute - 1) == 1
    assert counted(hopping(600, 60), [NOON - 6 * minute], NOON + 4 * minute) == 0
    assert counted(hopping(600, 60, 30), [NOON - 6 * minute - 30 * SECOND - 1, NOON - 6 * minute - 30 * SECOND], q) == 1


@given(st.integers(0, 10**11), st.sampled_from([(10, 0), (3600, 0), (3600, 900), (86_400, 21_600)]))
def test_a_window_that_hops_by_its_length_tumbles(after: int, how: tuple[int, int]) -> None:
    length, offset = how
    assert window_start(hopping(length, length, offset), NOON + after) == window_start(tumbling(length, offset), NOON + after)


def test_an_exact_window_is_cut_at_the_microsecond_at_both_ends() -> None:
    q = NOON + 7 * SECOND + 123_456
    assert counted(exact(sliding(600)), [q - 600 * SECOND - 1, q - 600 * SECOND, q, q + 1], q) == 2
    assert counted(exact(tumbling(3600)), [NOON - 1, NOON, q, q + 1], q) == 2
    assert counted(exact(hopping(600, 60)), [NOON - 540 * SECOND - 1, NOON - 540 * SECOND, q, q + 1], q) == 2
    assert counted(sliding(3600), [q, q + 1], q, finest=exact(sliding(1))) == 1    # and so is the head of its view's other windows


def test_the_time_since_the_last_event_that_counts() -> None:
    positive = Call("gt", (X, Literal(value=0.0)))
    declared = [aggregation("time_since_last", [sliding(600), exact(sliding(600)), LIFETIME], where=positive)]
    records = [record(NOON, 1.0), record(NOON + SECOND, -1.0), record(NOON + 5 * SECOND + 1, 2.0)]
    assert ask(declared, records, NOON + 9 * SECOND + 250_000).values.tolist() == [[4.249999] * 3]
    assert ask(declared, records, NOON + 5 * SECOND).values.tolist() == [[5.0] * 3]
    late = ask(declared, records, NOON + 700 * SECOND)
    assert late.statuses.tolist() == [[Status.DEFAULT, Status.DEFAULT, Status.PRESENT]]
    assert late.values[0, 2] == 694.999999


def test_an_event_after_the_instant_but_of_its_tile_is_no_time_ago() -> None:
    assert ask([aggregation("time_since_last", [sliding(600)])], [record(NOON + 5)], NOON).values.tolist() == [[0.0]]


def test_a_rate_is_the_count_by_the_windows_length_in_the_unit() -> None:
    got = ask([aggregation("rate", [sliding(600), tumbling(3600)])], [record(NOON + i) for i in range(5)], NOON + 10)
    assert got.values.tolist() == [[5 / 10, 5 / 60]]               # of a minute


def test_a_lifetime_holds_all_there_ever_was() -> None:
    assert counted(LIFETIME, [NOON - 10**14, NOON], NOON) == 2


def test_windows_decay_to_their_defaults_though_no_event_arrives() -> None:
    aggregations = [aggregation(op, [sliding(600)], default=d) for op, d in (("count", 0.0), ("mean", None), ("max", -5.0))]
    before, after = (ask(aggregations, [record(NOON, 3.0)], q) for q in (NOON, NOON + 700 * SECOND))
    assert before.values.tolist() == [[1.0, 3.0, 3.0]]
    assert before.statuses.tolist() == [[Status.PRESENT] * 3]
    assert before.event_times_us.tolist() == [[NOON] * 3]
    assert after.values[0, [0, 2]].tolist() == [0.0, -5.0]
    assert math.isnan(after.values[0, 1])
    assert after.statuses.tolist() == [[Status.DEFAULT] * 3]
    assert after.event_times_us.tolist() == [[NO_TIME_US] * 3]


def test_a_feature_without_a_counted_event_still_says_when_the_last_one_was() -> None:
    got = ask([aggregation("sum", [sliding(600)], value=Y)], [record(NOON)], NOON)
    assert got.statuses.tolist() == [[Status.DEFAULT]]
    assert got.event_times_us.tolist() == [[NOON]]


def test_a_value_older_than_its_ttl_is_expired_and_its_default() -> None:
    aggregations = [aggregation("last_n", [LIFETIME], size=2, default=-1.0), aggregation("count", [sliding(86_400)], default=0.0)]
    for q, status, values in (
        (NOON + 3600 * SECOND, Status.PRESENT, [5.0, -0.0]),
        (NOON + 3600 * SECOND + 1, Status.EXPIRED, [-1.0, -1.0]),
    ):
        got = ask(aggregations, [record(NOON, 5.0)], q, ttl_s=3600)
        assert got.statuses.tolist() == [[status, Status.PRESENT]]
        assert got.values[0, 0] == values[0]
        assert math.isnan(got.values[0, 1]) if status is Status.PRESENT else got.values[0, 1] == -1.0
        assert got.event_times_us.tolist() == [[NOON, NOON]]
        assert got.values[0, 2] == 1.0


def test_the_values_of_last_n_expire_one_by_one() -> None:
    """So it makes no difference whether the store has dropped the key of an entity that was away for longer than its ttl."""
    q = NOON + 3700 * SECOND
    for records in ([record(NOON, 5.0), record(q, 6.0)], [record(q, 6.0)]):
        got = ask([aggregation("last_n", [LIFETIME], size=2)], records, q, ttl_s=3600)
        assert got.statuses.tolist() == [[Status.PRESENT]]
        assert got.values[0, 0] == 6.0
        assert math.isnan(got.values[0, 1])


def test_last_n_gives_the_newest_first_and_breaks_ties_on_partition_and_offset() -> None:
    records = [record(NOON, 1.0), record(NOON + 1, 2.0), record(NOON + 1, 3.0, partition=1), record(NOON + 1, 4.0)]
    got = ask([aggregation("last_n", [LIFETIME], size=5), aggregation("last", [LIFETIME])], records, NOON + 5)
    assert got.values[0, :4].tolist() == [3.0, 4.0, 2.0, 1.0]
    assert math.isnan(got.values[0, 4])
    assert got.values[0, 5] == 3.0


def test_each_entity_is_answered_at_its_own_instant() -> None:
    world = World(view([aggregation("count", [sliding(600), tumbling(3600)], default=0.0)], [CLICKS]), {"click": CLICKS}, (record(NOON),))
    q = np.array([NOON, NOON + 700 * SECOND, NOON - 1, NOON + 3600 * SECOND])
    got = recompute(world.kernel, world.sources, partitions_of(world), ["u1"] * 4, q, {"click": {0: 10**9}})
    assert got.values.tolist() == [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_sources_and_features_keep_the_order_of_the_definition() -> None:
    orders = source("order", keyed=False)
    declared = view(
        [
            aggregation("max", [sliding(600)], source="order", name="a"),
            aggregation("last_n", [LIFETIME], size=2, name="b"),
            aggregation("count", [sliding(600), sliding(60)], source="order", name="c"),
            aggregation("mean", [sliding(600)], name="d"),
        ],
        [CLICKS, orders],
    )
    records = (record(NOON, 7.0), Record("order", 0, 0, NOON - 100 * SECOND, NOON, {**record(NOON).fields, "x": 9.0}))
    world = World(declared, {"click": CLICKS, "order": orders}, records)
    got = recompute(world.kernel, world.sources, partitions_of(world), ["u1"], np.array([NOON]), applied_of(records))
    assert world.kernel.columns == (0, 1, 3, 4, 5)
    assert world.kernel.width == 6
    assert [None if math.isnan(v) else v for v in got.values[0].tolist()] == [9.0, 7.0, None, 1.0, None, 7.0]
    assert [Status(s).letter for s in got.statuses[0]] == ["p", "p", "p", "d", "p"]


def test_no_entities_give_no_rows() -> None:
    world = World(view([aggregation("mean", [sliding(600)])], [CLICKS]), {"click": CLICKS}, ())
    of = world.kernel.layouts["click"]
    got = world.kernel.finalize({"click": States.of_rows(of, of.empty(), np.zeros(0, np.int64), 0)}, np.zeros(0, np.int64))
    assert (got.values.shape, got.statuses.shape, got.event_times_us.shape) == ((0, 1), (0, 1), (0, 1))


@given(worlds(most=20), st.data())
@settings(max_examples=60, deadline=None)
def test_the_order_of_an_entitys_rows_and_its_company_change_nothing(world: World, data: st.DataObject) -> None:
    kernel = world.kernel
    applied = applied_of(world.records)
    q = np.array([world.now - data.draw(st.integers(0, 10**9)), world.now])
    together = recompute(kernel, world.sources, partitions_of(world), ["u1", "u2"], q, applied)
    for i, user in enumerate(("u1", "u2")):
        alone = recompute(kernel, world.sources, partitions_of(world), [user], q[i:i + 1], applied)
        assert bits(answers_of(world, alone, 0)) == bits(answers_of(world, together, i))


@given(
    st.lists(WINDOWS, min_size=1, unique=True),
    st.integers(0, 10**12),
)
def test_in_a_chain_a_wider_window_never_begins_after_a_narrower_one(windows: list[Window], after: int) -> None:
    world = World(view([aggregation("count", windows)], [CLICKS]), {"click": CLICKS}, ())
    plan = Plan.of(world.kernel.layouts["click"], world.view.features, world.kernel.columns)
    assert sorted(plan.windows, key=repr) == sorted(windows, key=repr)
    for chain in plan.chains:
        begins = [window_start(window, NOON + after) for window in plan.windows[chain]]
        assert begins == sorted(begins, reverse=True)
