"""Rolling up changes no answer, and what could change is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import recompute
from unit.kernel.keeper import Held, Keeper
from unit.kernel.worlds import (
    LIFETIME,
    NOON,
    SECOND,
    World,
    aggregation,
    answers_of,
    applied_of,
    exact,
    hopping,
    partitions_of,
    same,
    session,
    sliding,
    source,
    tumbling,
    view,
    worlds,
)

import oracle
from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Window
from featureflow.errors import StateError
from featureflow.kernel import rollup
from featureflow.kernel.columns import Layout
from featureflow.kernel.fold import merge
from featureflow.kernel.tile import LIFETIME_US, floor
from oracle import Record

USERS = ("u1", "u2")


@given(worlds(), st.data())
@settings(max_examples=80, deadline=None)
def test_a_stream_in_any_batches_with_roll_ups_at_any_moment_equals_the_oracle(world: World, data: st.DataObject) -> None:
    keeper = Keeper(world)
    seen: list[Record] = []
    at = 0
    while at < len(world.records):
        batch = [world.records[at]]
        for record in world.records[at + 1:at + data.draw(st.integers(1, 20))]:
            if (record.source, record.partition) != (batch[0].source, batch[0].partition):
                break
            batch.append(record)
        at += len(batch)
        keeper.fold(batch)
        seen += batch
        for key in list(keeper.held):
            if data.draw(st.booleans()):
                keeper.roll_up(key)
    now = max((r.timestamp_us for r in seen), default=NOON)
    if not all(r.append_time for r in seen):   # a partition's first event may lie far ahead: what was rolled up by it answers from there on
        now = max(now, *keeper.maximum.values())
    for ago in (0, 5 * SECOND, -100 * SECOND, -86_400 * SECOND):
        q = np.full(2, now - ago)
        values = world.kernel.finalize(keeper.states(USERS), q)
        at_once = recompute(world.kernel, world.sources, partitions_of(world, seen), USERS, q, applied_of(seen))
        assert values.values.tobytes() == at_once.values.tobytes()  # decayed ones too, whose oracle has an error
        for row, user in enumerate(USERS):
            expected = oracle.answers(world.view, world.sources, seen, user, now - ago)
            assert same(answers_of(world, values, row), expected)


# -- long runs of one entity, and the rules that look as good --------------------------------------------------------

RUNS: dict[str, list[list[Window]]] = {
    "sliding": [
        [sliding(600), sliding(86_400)], [sliding(3600), sliding(86_400 * 7)], [sliding(600), sliding(21_600)],
        [sliding(3600), sliding(86_400 * 30)], [sliding(120), sliding(3600), sliding(86_400)],
    ],
    "hopping": [
        [hopping(600, 60), sliding(86_400)], [hopping(3600, 300, 60), sliding(86_400 * 7)], [hopping(90, 30), hopping(21_600, 3600)],
        [hopping(600, 120, 20), hopping(86_400 * 7, 86_400, 21_600)], [tumbling(3600, 900), tumbling(86_400, 21_600), sliding(86_400 * 7)],
    ],
    "session": [
        [session(1800), sliding(86_400 * 7)], [session(60, 3600), sliding(86_400)],
        [session(5, 120), session(3000, 20_000), sliding(86_400)],
        [session(400, 3600), hopping(86_400 * 7, 86_400)], [exact(session(1800, 7200)), sliding(86_400 * 7)],
    ],
    "decay": [[sliding(86_400 * 7)], [sliding(600), sliding(86_400 * 30)], [hopping(86_400 * 7, 86_400)]],
    "exact": [
        [exact(sliding(600)), sliding(86_400)], [exact(sliding(3600)), hopping(86_400 * 7, 86_400)],
        [exact(sliding(600)), sliding(600), sliding(21_600)], [exact(tumbling(3600)), sliding(86_400 * 7)],
        [exact(sliding(1)), exact(sliding(86_400)), sliding(86_400 * 30)],
    ],
}  # fmt: skip


class NaiveKeeper(Keeper):
    """Rolls up by age alone, and puts a late event into whatever row covers it; its answers are not checked."""

    def roll_up(self, key: tuple[str, int, str]) -> None:
        layout, held = self.layouts[key[0]], self.held[key]
        table = layout.table(held.rows).copy()
        for i, tile in enumerate(layout.levels[1:], 1):
            longest = max(w.length_us for w in layout.windows if rollup.tile_for(w) < tile)
            old = table[:, 0] < self.maximum[key[:2]] - longest - layout.disorder_us
            moving = old & (table[:, 1] < i)
            table[moving, 0], table[moving, 1] = floor(table[moving, 0], tile), i
        order = np.lexsort((table[:, 1], table[:, 0]))
        starts = np.flatnonzero(np.concatenate(([True], (table[order][1:, :2] != table[order][:-1, :2]).any(axis=1))))
        held.rows = merge(layout, layout.rows(table), order, starts)

    def place(self, layout: Layout, times: np.ndarray, held: Held) -> tuple[np.ndarray, np.ndarray]:
        level, start = super().place(layout, times, held)
        for row in layout.table(held.rows):
            covered = (row[0] <= times) & (times < row[0] + layout.levels[row[1]])
            level[covered], start[covered] = row[1], row[0]
        return level, start


def wrong_answers(keeper: type[Keeper], seed: int, kind: str, *, lifetime: bool = False) -> int:
    """How many of one run's answers differ from the oracle's: random arrivals, lateness, roll-ups and questions."""
    rng = random.Random(seed)
    windows = rng.choice(RUNS[kind])
    declared = [*windows, *([tumbling(3600), LIFETIME] if lifetime else [])]
    clicks = source(disorder_s=rng.choice([0, 5, 60, 300]), future_s=rng.choice([0, 120]))
    ops = [aggregation("sum", declared)]
    if kind == "decay":
        ops.append(aggregation("decayed_sum", [], half_life_s=rng.choice([50, 300, 3600])))
    world = World(view(ops, [clicks]), {"click": clicks}, ())
    kept, seen, now, wrong = keeper(world), [], NOON + rng.randrange(86_400) * SECOND, 0
    for step in range(60):
        now += rng.choice([1, 7, 60, 400, 3000]) * SECOND + rng.choice([0, 1, 999_999])
        batch = []
        for _ in range(rng.randrange(1, 4)):
            late = rng.choice([0, 0, 0, clicks.disorder_us // 2, clicks.disorder_us, rng.randrange(windows[-1].length_us)])
            fields = {"at": 0.0, "user": "u1", "x": rng.uniform(-1e3, 1e3), "y": None, "kind": None}
            batch.append(Record("click", 0, len(seen) + len(batch), now - late, now, fields))
        kept.fold(batch)
        seen += batch
        if rng.random() < 0.5:
            for key in kept.held:
                kept.roll_up(key)
        if step % 6 == 5:
            q = now - rng.randrange(30) * SECOND
            values = world.kernel.finalize(kept.states(["u1"]), np.array([q]))
            wrong += not same(answers_of(world, values, 0), oracle.answers(world.view, world.sources, seen, "u1", q))
    return wrong


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("lifetime", [False, True])
def test_aligned_frontiers_keep_every_answer_of_long_runs(kind: str, lifetime: bool) -> None:
    assert [wrong_answers(Keeper, seed, kind, lifetime=lifetime) for seed in range(25)] == [0] * 25


@pytest.mark.parametrize("kind", RUNS)
def test_the_same_runs_catch_the_naive_rule(kind: str) -> None:
    assert sum(wrong_answers(NaiveKeeper, seed, kind) > 0 for seed in range(10)) >= 5


# -- the rule itself -------------------------------------------------------------------------------------------------

CLICKS = source(disorder_s=60, future_s=30)


def layout(*windows: object) -> Layout:
    return Layout.of(view([aggregation("count", windows)], [CLICKS]), CLICKS)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_frontiers_are_aligned_fall_with_the_tile_and_rise_with_the_watermark(a: int, b: int) -> None:
    of = layout(sliding(600), sliding(3600), sliding(86_400), tumbling(86_400, 21_600), hopping(86_400, 3600, 900), LIFETIME)
    horizon, low = rollup.frontiers(of, NOON + min(a, b) * SECOND)
    _, high = rollup.frontiers(of, NOON + max(a, b) * SECOND)
    assert horizon == NO_TIME_US                               # a lifetime is rolled up, never dropped
    assert (high >= low).all()
    assert (np.diff(low) <= 0).all()
    for frontier, tile, below in zip(low.tolist(), of.levels[1:], of.levels[:-1], strict=True):
        assert frontier % (below if tile == LIFETIME_US else tile) == 0


def test_before_the_first_event_there_is_no_frontier() -> None:
    horizon, frontiers = rollup.frontiers(layout(sliding(600), sliding(3600)), NO_TIME_US)
    assert (horizon, frontiers.tolist()) == (NO_TIME_US, [NO_TIME_US])


def test_an_event_goes_to_the_largest_level_whose_frontier_is_above_it() -> None:
    of = layout(sliding(600), sliding(3600), sliding(86_400))
    frontiers = np.array([NOON, NOON - 7200 * SECOND])
    times = np.array([NOON + 15 * SECOND, NOON, NOON - 1, NOON - 7200 * SECOND, NOON - 7200 * SECOND - 1])
    level, start = rollup.level_of(of, times, frontiers)
    assert level.tolist() == [0, 0, 1, 1, 2]
    assert start.tolist() == [floor(t, of.levels[i]) for t, i in zip(times.tolist(), level.tolist(), strict=True)]


def test_dead_rows_are_dropped_and_the_rest_come_by_start() -> None:
    of = layout(sliding(600))
    table = np.tile(of.identity, (3, 1))
    table[:, 0] = [NOON + 20 * SECOND, NOON, NOON - 10 * SECOND]
    rolled = rollup.roll_up(of, of.rows(table), NOON, np.zeros(0, np.int64))
    assert rolled["start"].tolist() == [NOON, NOON + 20 * SECOND]
    assert len(rollup.roll_up(of, rolled, NOON + 30 * SECOND, np.zeros(0, np.int64))) == 0


def test_rolling_up_twice_is_rolling_up_once() -> None:
    world = World(view([aggregation("sum", [sliding(600), sliding(86_400)])], [CLICKS]), {"click": CLICKS}, ())
    keeper = Keeper(world)
    keeper.fold([
        Record("click", 0, i, t, t, {"at": 0.0, "user": "u1", "x": 1.5 * i, "y": None, "kind": "a"})
        for i, t in enumerate(range(NOON, NOON + 28_000 * SECOND, 700 * SECOND))
    ])
    keeper.roll_up(("click", 0, "u1"))
    once = keeper.held["click", 0, "u1"].rows.copy()
    assert 1 < len(once) < 40
    keeper.roll_up(("click", 0, "u1"))
    assert keeper.held["click", 0, "u1"].rows.tobytes() == once.tobytes()


def test_an_instant_behind_a_frontier_is_refused_with_the_entities() -> None:
    world = World(view([aggregation("sum", [sliding(600), sliding(86_400)])], [CLICKS]), {"click": CLICKS}, ())
    keeper = Keeper(world)
    keeper.fold([Record("click", 0, 0, NOON, NOON, {"at": 0.0, "user": "u2", "x": 1.0, "y": None, "kind": "a"})])
    keeper.roll_up(("click", 0, "u2"))
    states = keeper.states(USERS)
    edge = NOON - (30 + 60) * SECOND - rollup.SKEW_US
    assert len(world.kernel.finalize(states, np.array([0, edge])).values) == 2
    for behind in (edge - 3600 * SECOND, edge - 86_400 * SECOND):
        with pytest.raises(StateError, match=r"rolled up past the instant asked for, for the entities at \[1\]"):
            world.kernel.finalize(states, np.array([NOON, behind]))


def test_an_instant_before_a_horizon_is_refused() -> None:
    world = World(view([aggregation("sum", [sliding(600)])], [CLICKS]), {"click": CLICKS}, ())
    keeper = Keeper(world)
    keeper.fold([Record("click", 0, 0, NOON, NOON, {"at": 0.0, "user": "u1", "x": 1.0, "y": None, "kind": "a"})])
    keeper.roll_up(("click", 0, "u1"))
    with pytest.raises(StateError, match=r"\[0\]"):
        world.kernel.finalize(keeper.states(USERS), np.array([NOON - 200 * SECOND, NOON]))
