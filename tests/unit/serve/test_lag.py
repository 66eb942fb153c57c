"""How far behind the loop is, and since when what it reads may have been there. Time and the loop's timers are the test's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from overload_world import Watch

from featureflow.serve.lag import PROBE_S, QUIET_S, Lag


class Timers:
    """The two calls of an event loop that are made; the test says when they are due."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, what: Callable[[], None]) -> None:
        self.soon.append(what)

    def call_later(self, seconds: float, what: Callable[[], None]) -> object:
        self.later.append(what)
        return self

    def cancel(self) -> None:
        self.later.clear()

    def turn(self) -> None:
        """The loop has read what one poll brought."""
        for what in [self.soon.pop() for _ in self.soon]:
            what()


@pytest.fixture
def watch() -> Watch:
    return Watch()


def a_lag(watch: Watch) -> tuple[Lag, Any, list[float]]:
    said: list[float] = []
    timers: Any = Timers()
    return Lag(said.append, loop=timers, now_s=watch), timers, said


def fire(timers: Timers, watch: Watch, after_s: float) -> None:
    watch.s += after_s
    timers.later.pop()()


def test_a_request_that_finds_the_loop_idle_came_now(watch: Watch) -> None:
    lag, timers, _ = a_lag(watch)
    assert lag.arrived_s() == watch.s
    timers.turn()
    watch.s += 0.002
    assert lag.arrived_s() == watch.s


def test_what_is_read_after_a_turn_may_have_come_when_it_began_and_so_all_that_one_poll_brings(watch: Watch) -> None:
    lag, timers, _ = a_lag(watch)
    lag.arrived_s()
    timers.turn()
    watch.s += 0.004
    lag.held(watch.s - 0.003, watch.s)
    began = watch.s - 0.003
    assert lag.arrived_s() == began
    watch.s += 0.002  # refusing so many takes its time
    assert lag.arrived_s() == began
    timers.turn()
    assert lag.arrived_s() != began


def test_what_is_read_after_many_others_may_have_come_when_the_first_of_them_was_read(watch: Watch) -> None:
    lag, timers, _ = a_lag(watch)
    first = lag.arrived_s()
    watch.s += 0.001  # reading them takes its time
    timers.turn()
    second = watch.s
    lag.busy(second, second + 0.001)  # refusals are sent
    watch.s += 0.001
    assert lag.arrived_s() == first
    timers.turn()
    assert lag.arrived_s() == second + 0.001  # when the poll returned that brought what was read just now
    timers.turn()
    watch.s += 0.001  # the loop slept
    assert lag.arrived_s() == watch.s


def test_a_turn_between_two_that_one_poll_brought_does_not_hide_since_when_the_loop_reads(watch: Watch) -> None:
    lag, timers, _ = a_lag(watch)
    looked_s = lag.arrived_s()
    watch.s += 0.002
    began_s, watch.s = watch.s, watch.s + 0.003
    lag.held(began_s, watch.s)             # what the turn waited for was among what is read
    assert lag.arrived_s() == looked_s
    watch.s += 0.001
    timers.turn()
    assert lag.arrived_s() == looked_s     # the next poll's: all of it may have come as the loop looked last


def test_what_is_read_when_the_probe_is_overdue_may_have_come_when_it_was_due(watch: Watch) -> None:
    lag, timers, _ = a_lag(watch)
    lag.arrived_s()
    due = watch.s + PROBE_S
    timers.turn()
    watch.s += 0.180
    assert lag.arrived_s() == due


def test_lag_is_what_two_probes_in_a_row_are_late_by_beyond_the_turns(watch: Watch) -> None:
    lag, timers, said = a_lag(watch)
    lag.arrived_s()
    fire(timers, watch, PROBE_S + 0.010)
    assert said[-1] == 0.0  # one is a stall that is over
    fire(timers, watch, PROBE_S + 0.004)
    assert said[-1] == pytest.approx(0.004)
    lag.held(watch.s, watch.s + 0.010)
    fire(timers, watch, PROBE_S + 0.010)
    assert said[-1] == pytest.approx(0.0)


def test_nothing_is_probed_while_nobody_asks(watch: Watch) -> None:
    lag, timers, said = a_lag(watch)
    lag.arrived_s()
    timers.turn()
    fire(timers, watch, QUIET_S)
    assert not timers.later
    assert said[-1] == 0.0
    lag.arrived_s()
    assert timers.later
    lag.close()
    assert not timers.later
