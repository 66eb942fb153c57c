"""Who is let in, and who goes when there is no room. Time is told by the test."""

from __future__ import annotations

import pytest
from overload_world import Watch, a_request

from featureflow.serve.admission import FIRST_ROWS, HELD_S, MARGIN_MOST, QUEUE_TURNS, REFUSING_S, Admission, Took
from featureflow.serve.answer import Shed
from featureflow.serve.deadline import fetch_budget_s
from featureflow.serve.priority import Priority


def turns(admission: Admission, watch: Watch, *seconds: float, rows: int = 1, kind: str = "light", held: float = 0.0) -> None:
    """Turns of one request each, that took so long, and held the loop up for such a part of it."""
    for one in seconds:
        assert admission.admit(a_request(watch, rows=rows, kind=kind))[0] is None
        assert len(admission.take()[0]) == 1
        watch.s += one
        admission.ended(one, [Took(kind, rows, one, held * one)], answered=1)


def refused(admission: Admission, watch: Watch, budget_s: float, **more: object) -> Shed | None:
    return admission.admit(a_request(watch, budget_s=budget_s, **more))[0]  # type: ignore[arg-type]  # as the test says


def test_with_nothing_known_whatever_has_time_left_is_let_in() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    assert refused(admission, watch, 0.001) is None
    shed = refused(admission, watch, -0.001)
    assert shed is not None
    assert shed.reason == "predicted_late"


def test_the_first_turn_of_an_unknown_kind_is_small_and_who_waits_is_priced_by_it() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    for _ in range(100):
        assert refused(admission, watch, 0.020) is None
    batch, hopeless = admission.take()
    assert (len(batch), hopeless) == (FIRST_ROWS, [])
    watch.s += 0.008
    admission.ended(0.008, [Took("light", FIRST_ROWS, 0.008)], answered=FIRST_ROWS)
    assert admission.waiting.work_s == pytest.approx(84 * 0.0005)
    assert refused(admission, watch, 0.020) is not None


def test_a_request_that_would_be_late_is_refused_and_told_when_to_come_back() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, *[0.008] * 10)
    assert refused(admission, watch, 0.011) is None
    admission.take()
    shed = refused(admission, watch, 0.011)
    assert shed is not None
    assert shed.retry_after_s >= 1


def test_a_turn_under_way_counts_for_what_is_left_of_it_and_for_more_when_it_takes_longer_than_expected() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, *[0.008] * 10)
    admission.admit(a_request(watch))
    admission.take()
    assert admission.residual_s() == pytest.approx(0.008)
    watch.s += 0.006
    assert admission.residual_s() == pytest.approx(0.002)
    watch.s += 0.006
    assert admission.residual_s() == pytest.approx(0.004)
    watch.s += 0.100
    assert admission.residual_s() == pytest.approx(0.008)


def test_of_two_turns_under_way_the_second_counts_whole_and_begins_when_the_first_has_ended() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    admission.under_way = 2
    turns(admission, watch, *[0.008] * 10)
    for _ in range(2):
        admission.admit(a_request(watch))
        assert len(admission.take()[0]) == 1
        watch.s += 0.006
    assert admission.residual_s() == pytest.approx(0.004 + 0.008)  # the first is over its time by 4 ms
    assert refused(admission, watch, 0.015) is not None
    admission.ended(0.012, [Took("light", 1, 0.012)], answered=1)
    assert admission.residual_s() == pytest.approx(0.008)
    watch.s += 0.005
    assert admission.residual_s() == pytest.approx(0.003)
    assert refused(admission, watch, 0.015) is None


def test_a_turn_fits_as_often_into_the_budget_as_there_may_be_before_an_answer() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    for rows in (1, 2, 3, 4, 6, 8):
        turns(admission, watch, *[0.001 * rows] * 10, rows=rows)
    assert admission.cost("light", 0.020).turn_s == pytest.approx(0.008)
    admission.under_way = 2
    watch.s += 0.1
    assert admission.cost("light", 0.020).turn_s == pytest.approx(0.006)


def test_the_wait_counts_the_work_of_every_model() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, *[0.010] * 10, kind="heavy")
    turns(admission, watch, *[0.001] * 10, kind="light")
    alone = admission.predicted_s("light", 1, 0.1)
    for _ in range(4):
        assert refused(admission, watch, 0.1, kind="heavy") is None
    assert 0.030 < admission.predicted_s("light", 1, 0.1) - alone < 0.045


def test_what_is_hopeless_is_dropped_when_its_turn_comes_and_what_is_behind_it_goes_on() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, *[0.002] * 10)
    old, young = a_request(watch, budget_s=0.010), a_request(watch, budget_s=0.050)
    assert admission.admit(old)[0] is None
    assert admission.admit(young)[0] is None
    watch.s += 0.009
    assert admission.take() == ([young], [old])


def test_a_turn_takes_no_more_than_fits_twice_into_the_budget_of_the_most_hurried() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    for rows in (1, 8, 12, 16, 64):
        turns(admission, watch, *[0.001 * rows] * 10, rows=rows)
    for _ in range(30):
        assert refused(admission, watch, 1.0) is None
    assert len(admission.take()[0]) == 30
    watch.s += 0.030
    admission.ended(0.030, [Took("light", 30, 0.030)], answered=30)
    for _ in range(8):
        assert refused(admission, watch, 0.020) is None
    for _ in range(8):
        assert refused(admission, watch, 0.050) is None
    assert len(admission.take()[0]) == 8


def test_who_has_more_time_than_most_takes_no_longer_turn_of_theirs() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    for rows in (1, 2, 4, 8, 12, 16, 64):
        turns(admission, watch, *[0.001 * rows] * 10, rows=rows)
    patient = [a_request(watch, budget_s=5.0) for _ in range(40)]
    for one in patient:
        one.usual_s = 0.020
        assert admission.admit(one)[0] is None
    assert admission.rows_of_a_turn(patient[0]) == 8
    assert len(admission.take()[0]) == 8


def test_what_is_asked_whole_is_let_in_by_parts_without_being_asked_again() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, *[0.010] * 10)
    admission.admit(a_request(watch))
    admission.take()
    one = a_request(watch, budget_s=0.012)
    assert admission.refused(one) is not None
    assert admission.admit(one)[0] is not None
    assert admission.admit(one, let_in=True)[0] is None
    assert admission.waiting.requests == 1


def test_a_model_that_holds_the_loop_up_has_shorter_turns() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    for rows in (1, 2, 3, 4, 6, 8):
        turns(admission, watch, *[0.001 * rows] * 10, rows=rows, held=1.0)
    assert admission.cost("light", 0.020).turn_s <= HELD_S
    beside = Admission(now_s=watch)
    for rows in (1, 2, 3, 4, 6, 8):
        turns(beside, watch, *[0.001 * rows] * 10, rows=rows, held=0.0)
    assert beside.cost("light", 0.020).turn_s >= 0.008


def test_where_no_turn_fits_twice_one_that_takes_hardly_longer_than_a_single_row_is_taken() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    for rows, seconds in ((1, 0.0120), (16, 0.0125), (48, 0.0130), (64, 0.0180)):
        turns(admission, watch, *[seconds] * 3, rows=rows)
    cost = admission.cost("light", 0.020)
    assert round(cost.turn_s / cost.unit_s) == 48


def test_one_slow_turn_among_many_does_not_refuse_everybody() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, *[0.001] * 20, 0.050, *[0.001] * 20)
    assert refused(admission, watch, 0.005) is None


def test_the_margin_widens_while_answers_are_late_and_narrows_again() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    for _ in range(100):
        watch.s += 0.1
        admission.outcome(90, 10)
    assert admission.margin == MARGIN_MOST
    for _ in range(100):
        watch.s += 0.1
        admission.outcome(1_000, 1)
    assert admission.margin == 1.0


def test_a_lagging_loop_refuses_the_hurried_first() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    admission.lags(0.005)
    shed = refused(admission, watch, 0.020)
    assert shed is not None
    assert shed.reason == "lag"
    assert refused(admission, watch, 0.100) is None
    admission.lags(0.0)
    assert refused(admission, watch, 0.020) is None


@pytest.mark.parametrize("priority", Priority)
@pytest.mark.parametrize("measured", [True, False])
def test_the_queue_is_bounded_in_rows_however_important_they_are(priority: Priority, measured: bool) -> None:
    watch = Watch()
    admission = Admission(turn_rows=10, now_s=watch)
    if measured:
        turns(admission, watch, *[0.001] * 10)
    for _ in range(QUEUE_TURNS * 10):
        assert refused(admission, watch, 60, priority=priority) is None
    shed = refused(admission, watch, 60, priority=priority)
    assert shed is not None
    assert shed.reason == "queue_full"


@pytest.mark.parametrize("priority", Priority)
def test_who_has_little_finds_room_in_a_queue_that_another_has_filled(priority: Priority) -> None:
    watch = Watch()
    admission = Admission(turn_rows=10, now_s=watch)
    for kind in ("light", "heavy"):
        turns(admission, watch, *[0.001] * 10, kind=kind)
    greedy = [a_request(watch, rows=10, client="greedy", priority=priority) for _ in range(QUEUE_TURNS)]
    for one in greedy:
        assert admission.admit(one)[0] is None
    modest = a_request(watch, client="modest", priority=priority)
    assert admission.admit(modest) == (None, [greedy[3]])
    other = a_request(watch, rows=10, kind="heavy", client="modest", priority=priority)
    assert admission.admit(other) == (None, [greedy[2]])
    for client, kind, rows in (("greedy", "light", 10), ("greedy", "heavy", 20), ("third", "light", 30), ("third", "heavy", 20)):
        shed = refused(admission, watch, 60, priority=priority, client=client, kind=kind, rows=rows)
        assert shed is not None
        assert shed.reason == "queue_full"


def test_a_request_larger_than_the_queue_is_let_in_when_nothing_waits() -> None:
    watch = Watch()
    admission = Admission(turn_rows=10, now_s=watch)
    assert refused(admission, watch, 60, rows=1_000) is None
    assert refused(admission, watch, 60) is not None


def test_a_more_important_request_finds_room_in_a_full_queue_and_the_least_important_goes() -> None:
    watch = Watch()
    admission = Admission(turn_rows=10, now_s=watch)
    waits = [a_request(watch, priority=Priority.NORMAL) for _ in range(20)]
    waits += [a_request(watch, priority=Priority.BATCH) for _ in range(20)]
    for one in waits:
        assert admission.admit(one)[0] is None
    for priority in (Priority.CRITICAL, Priority.NORMAL):
        shed, displaced = admission.admit(a_request(watch, priority=priority))
        assert (shed, displaced) == (None, [waits.pop()])
    assert refused(admission, watch, 60, priority=Priority.BATCH) is not None


def test_who_has_little_displaces_the_newest_of_who_has_most_and_never_the_other_way_round() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, *[0.001] * 10)
    greedy = []
    while admission.admit(one := a_request(watch, budget_s=0.020, client="greedy"))[0] is None:
        greedy.append(one)
    modest = a_request(watch, budget_s=0.020, client="modest")
    gone = []
    while admission.admit(modest := a_request(watch, budget_s=0.020, client="modest"))[0] is None and len(gone) < 8:
        gone += admission.admit(a_request(watch, budget_s=0.020, client="modest"))[1]
    assert modest.client == "modest"
    assert all(one.client == "greedy" for one in gone)
    assert admission.admit(a_request(watch, budget_s=0.020, client="greedy"))[0] is not None


def test_after_a_refusal_it_is_worth_asking_at_the_door_for_a_while() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    assert not admission.refusing
    assert refused(admission, watch, -1.0) is not None
    assert admission.refusing
    watch.s += 1.01 * REFUSING_S
    assert not admission.refusing


def test_the_fetch_may_take_half_of_what_is_left_and_50_ms_at_most() -> None:
    assert fetch_budget_s(0.020) == 0.010
    assert fetch_budget_s(1.0) == 0.050
    assert fetch_budget_s(0.004) == 0.002
    assert fetch_budget_s(-1.0) == 0.0


def test_the_fetch_leaves_time_for_what_comes_after_it() -> None:
    assert fetch_budget_s(0.020, 0.013) == pytest.approx(0.007)
    assert fetch_budget_s(0.020, 0.025) == 0.002
    assert fetch_budget_s(0.001, 0.025) == 0.0005
