"""Who is let in. Time is told by the test."""

from __future__ import annotations

from featureflow.serve.admission import MEMORY_S, QUEUE_TURNS, Admission
from featureflow.serve.deadline import Deadline, fetch_budget_s


class Watch:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def turns(admission: Admission, watch: Watch, *seconds: float) -> None:
    for one in seconds:
        admission.queued_rows += 1
        admission.started(1)
        watch.s += one
        admission.ended(one)


def test_with_nothing_known_whatever_has_time_left_is_let_in() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    assert admission.admit(1, Deadline(watch.s + 0.001)) is None
    refused = admission.admit(1, Deadline(watch.s - 0.001))
    assert refused is not None
    assert refused.reason == "predicted_late"


def test_a_request_that_would_be_late_is_refused_and_told_when_to_come_back() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, 0.008, 0.008, 0.008)
    assert admission.admit(1, Deadline(watch.s + 0.011)) is None
    refused = admission.admit(1, Deadline(watch.s + 0.009))
    assert refused is not None
    assert refused.retry_after_s >= 1


def test_a_turn_under_way_counts_for_what_is_left_of_it() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, 0.008, 0.008, 0.008)
    admission.queued_rows += 1
    admission.started(1)
    assert admission.predicted_s(1) == 0.02
    watch.s += 0.006
    assert abs(admission.predicted_s(1) - 0.014) < 1e-12


def test_a_stall_is_forgotten_after_half_a_second_so_that_it_does_not_lock_everybody_out() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, 0.180)
    assert admission.admit(1, Deadline(watch.s + 0.020)) is not None
    watch.s += MEMORY_S + 0.001
    assert admission.admit(1, Deadline(watch.s + 0.020)) is None


def test_one_slow_turn_among_many_does_not_refuse_everybody() -> None:
    watch = Watch()
    admission = Admission(now_s=watch)
    turns(admission, watch, *[0.001] * 20, 0.050, *[0.001] * 20)
    assert admission.admit(1, Deadline(watch.s + 0.005)) is None


def test_the_queue_is_bounded_in_rows_and_each_full_turn_ahead_counts() -> None:
    watch = Watch()
    admission = Admission(turn_rows=10, now_s=watch)
    turns(admission, watch, 0.001)
    for _ in range(QUEUE_TURNS * 10):
        assert admission.admit(1, Deadline(watch.s + 1)) is None
    assert abs(admission.predicted_s(1) - 0.00125 * (1 + QUEUE_TURNS)) < 1e-12
    refused = admission.admit(1, Deadline(watch.s + 1))
    assert refused is not None
    assert refused.reason == "queue_full"


def test_a_request_larger_than_the_queue_is_let_in_when_nothing_waits() -> None:
    watch = Watch()
    admission = Admission(turn_rows=10, now_s=watch)
    assert admission.admit(1_000, Deadline(watch.s + 1)) is None
    assert admission.admit(1, Deadline(watch.s + 1)) is not None


def test_the_fetch_may_take_half_of_what_is_left_and_50_ms_at_most() -> None:
    assert fetch_budget_s(0.020) == 0.010
    assert fetch_budget_s(1.0) == 0.050
    assert fetch_budget_s(0.004) == 0.002
    assert fetch_budget_s(-1.0) == 0.0
