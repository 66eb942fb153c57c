"""What does not answer is asked no more, and is tried again by one call at a time."""

from __future__ import annotations

import pytest

from featureflow.breaker import FIRST_S, LONGEST_S, Breaker, BreakerSettings
from featureflow.errors import CircuitOpenError, LogError, UnavailableError
from featureflow.serve.guarded_log import GuardedLog
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Record


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def call(breaker: Breaker, problem: str | None = None) -> None:
    breaker.leave(breaker.enter(), problem)


def test_it_opens_where_a_quarter_of_the_calls_fail_and_not_before() -> None:
    breaker = Breaker("store", now_s=Hand())
    for _ in range(3):
        for _ in range(4):
            call(breaker)
        call(breaker, "gone")
    assert breaker.state == "closed", "3 of 15"
    call(breaker, "gone")
    assert breaker.state == "open", "4 of 16"
    with pytest.raises(CircuitOpenError, match="the store is not asked for the moment: gone"):
        breaker.enter()
    assert dict(breaker.calls) == {"ok": 12, "error": 4, "slow": 0, "refused": 1}
    assert breaker.opened == 1


def test_two_errors_say_nothing() -> None:
    breaker = Breaker("store", now_s=Hand())
    call(breaker, "gone")
    call(breaker, "gone")
    assert breaker.state == "closed"


def test_errors_of_long_ago_do_not_count_among_many_calls_but_among_few() -> None:
    clock = Hand()
    breaker = Breaker("store", now_s=clock)
    call(breaker, "gone")
    call(breaker, "gone")
    clock.s += 2.0
    for _ in range(9):
        call(breaker)
    call(breaker, "gone")
    assert breaker.state == "closed", "1 of the last ten"
    clock.s += 2.0
    call(breaker, "gone")
    clock.s += 2.0
    call(breaker, "gone")
    assert breaker.state == "open", "3 of the last ten, though each of another second: each may have taken as long"


def test_one_call_at_a_time_tries_whether_it_is_back_and_each_that_fails_doubles_the_wait() -> None:
    clock = Hand()
    breaker = Breaker("store", now_s=clock)
    for _ in range(3):
        call(breaker, "gone")
    waits, wait_s = [], FIRST_S
    for _ in range(6):
        assert breaker.state == "open"
        clock.s += wait_s * 0.99
        assert breaker.state == "open"
        clock.s += wait_s * 0.02
        assert breaker.state == "half_open"
        probe = breaker.enter()
        with pytest.raises(CircuitOpenError):
            breaker.enter()
        breaker.leave(probe, "still gone")
        waits.append(wait_s)
        wait_s = min(2 * wait_s, LONGEST_S)
    assert waits[-1] == LONGEST_S
    clock.s += wait_s * 1.01
    call(breaker)
    assert breaker.state == "closed"
    for _ in range(2):
        call(breaker, "gone")
    assert breaker.state == "closed", "it begins anew"
    call(breaker, "gone")
    clock.s += FIRST_S * 1.01
    assert breaker.state == "half_open", "and waits as at first"


def test_a_call_that_hangs_is_an_error_once_it_is_overdue_and_is_not_counted_twice() -> None:
    clock = Hand()
    breaker = Breaker("store", BreakerSettings(timeout_s=1.0), clock)
    hanging = [breaker.enter() for _ in range(3)]
    clock.s += 0.9
    assert breaker.state == "closed"
    clock.s += 0.2
    assert breaker.state == "open"
    for one in hanging:
        breaker.leave(one, "cut off")
    assert dict(breaker.calls) == {"ok": 0, "error": 0, "slow": 3, "refused": 0}
    clock.s += FIRST_S
    probe = breaker.enter()
    clock.s += 1.1
    assert breaker.state == "open", "the call that tried hangs too"
    clock.s += 2 * FIRST_S
    call(breaker)
    breaker.leave(probe)
    assert breaker.state == "closed"


def test_what_began_before_it_opened_does_not_close_it() -> None:
    breaker = Breaker("store", now_s=Hand())
    before = breaker.enter()
    for _ in range(3):
        call(breaker, "gone")
    breaker.leave(before)
    assert breaker.state == "open"


def test_more_calls_at_once_than_it_allows_are_refused_which_is_no_error() -> None:
    clock = Hand()
    breaker = Breaker("store", BreakerSettings(concurrency=5), clock)
    calls = [breaker.enter() for _ in range(5)]
    with pytest.raises(CircuitOpenError, match="has 5 calls under way"):
        breaker.enter()
    assert breaker.state == "closed"
    breaker.leave(calls.pop())
    call(breaker)
    for one in calls:
        breaker.leave(one)
    assert breaker.calls["error"] == 0


class Failing(MemoryLog):
    fails = False

    def append(self, topic: str, records: object) -> list[tuple[int, int]]:
        if self.fails:
            raise UnavailableError("no broker")
        return super().append(topic, records)  # type: ignore[arg-type]


def test_a_log_that_is_away_is_asked_no_more_and_one_that_refuses_a_topic_is_there() -> None:
    clock, log = Hand(), Failing()
    log.ensure_topic("t", 1)
    guarded = GuardedLog(log, Breaker("log", now_s=clock))
    for _ in range(5):
        with pytest.raises(LogError):
            guarded.append("unknown", [Record(b"x")])
    assert guarded.breaker.state == "closed"
    log.fails = True
    for _ in range(3):
        with pytest.raises(UnavailableError, match="no broker"):
            guarded.append("t", [Record(b"x")])
    log.fails = False
    with pytest.raises(CircuitOpenError, match="the log is not asked for the moment: no broker"):
        guarded.append("t", [Record(b"x")])
    clock.s += FIRST_S * 1.01
    assert guarded.append("t", [Record(b"x")]) == [(0, 0)]
    assert guarded.breaker.state == "closed"
