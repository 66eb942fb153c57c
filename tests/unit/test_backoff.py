"""Waits for what is away."""

from __future__ import annotations

from featureflow.backoff import Backoff
from featureflow.clock import ManualClock


def test_each_failure_waits_twice_as_long_up_to_the_longest() -> None:
    backoff = Backoff(ManualClock(7), 100, 1_000)
    assert [backoff.failed() for _ in range(7)] == [100, 200, 400, 800, 1_000, 1_000, 1_000]


def test_a_success_begins_anew() -> None:
    backoff = Backoff(ManualClock(7), 100, 1_000)
    backoff.failed()
    backoff.failed()
    backoff.succeeded()
    assert not backoff.waiting
    assert backoff.failed() == 100


def test_it_waits_from_the_failure_to_the_end_of_the_wait_and_not_a_moment_longer() -> None:
    clock = ManualClock(10**6)
    backoff = Backoff(clock, 100, 1_000)
    assert not backoff.waiting, "nothing has failed"
    backoff.failed()
    clock.advance(99)
    assert backoff.waiting
    clock.advance(1)
    assert not backoff.waiting
    backoff.failed()
    clock.advance(199)
    assert backoff.waiting, "a time that passed does not shorten the next"
