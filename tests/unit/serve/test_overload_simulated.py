"""Overload in made-up time: what is let in is answered in time, and nearly as much of it as can be.

The world of the figures: a turn of n rows takes 0.8 + 0.05 n ms, and an answer may take 10 ms. No more than 16,000 a second can be had, in
turns that fit into the budget twice.
"""

from __future__ import annotations

import numpy as np
import pytest
from overload_world import Beside, Outcome, Stream, Watch, World, a_request

from featureflow.serve import admission as rules
from featureflow.serve import durations
from featureflow.serve.admission import Admission
from featureflow.serve.answer import Shed
from featureflow.serve.lanes import UNDER_WAY
from featureflow.serve.priority import Priority
from featureflow.serve.request import Request

BUDGET_S = 0.010
BEST = 16_000.0


class Anybody(Admission):
    """Lets everybody in and drops nobody: what the world looks like without admission."""

    def _refusal(self, *asked: object) -> str:
        return ""

    def _can_finish(self, *asked: object) -> bool:
        return True

    def take(self) -> tuple[list[Request], list[Request]]:
        return [self.waiting.take() for _ in range(min(len(self.waiting), self.turn_rows))], []


@pytest.mark.parametrize(("overload", "inline"), [(1, False), (2, False), (2, True), (5, False), (5, True)])
def test_overload_leaves_goodput_near_its_peak_and_nothing_is_late(overload: int, inline: bool) -> None:
    (outcome,) = World(BUDGET_S, inline=inline).run([Stream(BEST * overload)], 0.8)
    assert outcome.rate(0.3, 0.8) > 0.9 * BEST
    assert outcome.late == 0
    assert outcome.p99_s <= BUDGET_S
    assert outcome.shed.get("late", 0) < 0.01 * len(outcome.good)


@pytest.mark.parametrize(("read_us", "came", "least"), [(10, 20_000, 11_000), (20, 20_000, 7_500), (28, 24_000, 3_000)])
def test_what_is_read_and_refused_meanwhile_makes_no_turn_small(read_us: float, came: float, least: float) -> None:
    """That takes 20 %, 40 % or 67 % of the time, and some turns stall. Turns of 64 rows that take so much longer do 13,100, 9,800 and 5,200
    a second; at 67 % two of them do not fit into 20 ms.
    """
    chance = np.random.default_rng(5)

    def stalls(turn_s: float, now_s: float) -> float:
        return turn_s + chance.exponential(0.0005) + 0.008 * (chance.random() < 0.02)

    (outcome,) = World(0.020, 0.001, {"light": 0.00004}, happens=stalls, read_s=read_us * 1e-6).run([Stream(came)], 3)
    assert outcome.rate(1, 3) > least
    assert outcome.late == 0
    assert outcome.p99_s <= 0.020


def test_without_admission_the_same_overload_leaves_nearly_nothing() -> None:
    world = World(BUDGET_S, admission_of=lambda watch: Anybody(now_s=watch))
    (outcome,) = world.run([Stream(2 * BEST)], 0.8)
    assert outcome.rate(0.3, 0.8) < 0.7 * BEST


@pytest.mark.parametrize("overload", [0.5, 1, 2, 10])
def test_a_heavy_model_is_as_good_at_every_level(overload: float) -> None:
    """1.2 ms a row, 20 ms: eight rows a turn, at most 750 a second."""
    (outcome,) = World(0.020, 0.001, {"light": 0.0012}).run([Stream(750 * overload)], 4)
    assert outcome.rate(1, 4) > 0.88 * min(750, 750 * overload)
    assert outcome.late == 0
    assert outcome.p99_s <= 0.020
    assert outcome.shed.get("late", 0) < 0.02 * len(outcome.good)


def heavy_beside(overload: float, under_way: int) -> Outcome:
    """1.25 ms a row, computed beside the loop: 800 a second, if it never waits for what 1 ms is read for."""

    def admission(watch: Watch) -> Admission:
        made = Admission(now_s=watch)
        made.under_way = under_way
        return made

    (outcome,) = Beside(0.020, 0.001, {"light": 0.00125}, admission_of=admission).run([Stream(800 * overload)], 4)
    assert outcome.p99_s <= 0.020
    assert outcome.shed.get("late", 0) < 0.02 * len(outcome.good)
    return outcome


@pytest.mark.parametrize("overload", [0.5, 1, 2, 10])
def test_what_computes_beside_the_loop_never_waits_for_what_the_next_turn_reads(overload: float) -> None:
    assert heavy_beside(overload, UNDER_WAY).rate(1, 4) > 0.94 * min(800, 800 * overload)


def test_with_one_turn_under_way_it_waits_after_each() -> None:
    assert heavy_beside(10, 1).rate(1, 4) < 0.90 * 800


@pytest.mark.parametrize("overload", [0.7, 2])
def test_a_stall_of_180_ms_is_over_within_a_second(overload: float) -> None:
    stalled: list[float] = []

    def once(turn_s: float, now_s: float) -> float:
        if now_s > 0.5 and not stalled:
            stalled.append(now_s)
            return 0.180
        return turn_s

    (outcome,) = World(BUDGET_S, happens=once).run([Stream(BEST * overload)], 1.8)
    before, after = outcome.rate(0.2, 0.5), outcome.rate(1.4, 1.8)
    assert stalled
    assert after > 0.97 * before
    assert outcome.late == 0


def slow_for_a_while(turn_s: float, now_s: float) -> float:
    """At first every turn takes forty times as long: even one row is later than it may be, and nothing else is known."""
    return turn_s * (40 if now_s < 0.8 else 1)


def test_a_spell_in_which_nobody_could_be_answered_is_forgotten_within_a_second() -> None:
    (outcome,) = World(BUDGET_S, happens=slow_for_a_while).run([Stream(0.7 * BEST)], 2)
    assert outcome.rate(0.4, 0.8) < 0.1 * BEST
    assert outcome.rate(1.7, 2) > 0.97 * 0.7 * BEST


def test_without_ageing_that_spell_keeps_everybody_out_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "MEMORY_S", 1e9)
    (outcome,) = World(BUDGET_S, happens=slow_for_a_while).run([Stream(0.7 * BEST)], 2)
    assert outcome.rate(1.7, 2) < 0.5 * BEST


def preempted(budget_s: float) -> tuple[int, int]:
    """(came, refused) where one turn in a hundred is preempted for 5 ms, on a load that is served without that."""
    chance = np.random.default_rng(3)
    world = World(budget_s, happens=lambda turn_s, now_s: turn_s + 0.005 * (chance.random() < 0.01))
    (outcome,) = world.run([Stream(0.7 * BEST)], 1.5)
    return outcome.came, outcome.came - len(outcome.good)


@pytest.mark.parametrize("budget_s", [0.010, 0.020])
def test_random_preemptions_do_not_refuse_many(budget_s: float) -> None:
    came, refused = preempted(budget_s)
    assert refused < 0.02 * came


def test_the_sum_of_slow_ends_would_refuse_many_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the median and one bounded tail are for: a turn that is taken to be as long as the slowest of late refuses a tenth and more."""
    monkeypatch.setattr(durations, "_of", lambda ring, now_s: (slow := max(s for _, s in list(ring)[-durations.REMEMBERED:]), slow))
    came, refused = preempted(BUDGET_S)
    assert refused > 0.1 * came


def test_priorities_are_shed_in_order() -> None:
    streams = [Stream(0.4 * BEST, priority=Priority.CRITICAL), Stream(0.8 * BEST), Stream(0.8 * BEST, priority=Priority.BATCH)]
    critical, normal, batch = World(BUDGET_S).run(streams, 1.0)
    assert critical.rate(0.4, 1.0) > 0.97 * 0.4 * BEST
    assert normal.rate(0.4, 1.0) > 0.5 * 0.8 * BEST
    assert batch.rate(0.4, 1.0) < 0.15 * 0.8 * BEST
    assert critical.rate(0.4, 1.0) + normal.rate(0.4, 1.0) + batch.rate(0.4, 1.0) > 0.85 * BEST


def test_a_caller_who_asks_for_everything_leaves_the_others_their_share() -> None:
    streams = [Stream(3 * BEST, client="greedy"), *(Stream(0.1 * BEST, client=f"modest {i}") for i in range(4))]
    greedy, *modest = World(BUDGET_S).run(streams, 1.0)
    assert all(one.rate(0.4, 1.0) > 0.95 * 0.1 * BEST for one in modest)
    assert greedy.rate(0.4, 1.0) > 0.3 * BEST


def test_a_heavy_model_leaves_a_light_one_its_share() -> None:
    heavy, light = World(0.020, row_s={"heavy": 0.001, "light": 0.00005}).run([Stream(5_000, kind="heavy"), Stream(5_000, kind="light")], 2)
    assert light.rate(0.5, 2) > 0.9 * 5_000
    assert heavy.rate(0.5, 2) > 100


def test_a_request_alone_is_let_in_however_slow_turns_were_a_while_ago() -> None:
    watch = Watch()
    door = Admission(now_s=watch)
    for _ in range(20):
        door.admit(a_request(watch))
        door.take()
        watch.s += 0.050
        door.ended(0.050, [rules.Took("light", 1, 0.050)], answered=1)
    refused, _ = door.admit(a_request(watch, budget_s=0.020))
    assert isinstance(refused, Shed)
    watch.s += 3 * durations.MEMORY_S
    assert door.admit(a_request(watch, budget_s=0.020))[0] is None
