"""A process that is started again when it dies, with waits that double, and ended with its parent."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from featureflow.cli.restart import FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S, Restarted

SLEEPS = [sys.executable, "-c", "import signal; signal.pause()"]
DIES = [sys.executable, "-c", "raise SystemExit(3)"]
TETHERED = [sys.executable, "-c", "import os; from featureflow.cli import tether; tether.hold(os.environ); import signal; signal.pause()"]
PAUSE = threading.Event()


def next_death(restarted: Restarted) -> int:
    for _ in range(3000):
        if (code := restarted.look()) is not None:
            return code
        PAUSE.wait(0.02)
    raise AssertionError("it did not die")


def killed(restarted: Restarted) -> None:
    assert restarted.pid is not None
    os.kill(restarted.pid, signal.SIGKILL)
    assert next_death(restarted) == -9


def test_its_deaths_are_counted_and_the_waits_between_them_double_up_to_a_limit() -> None:
    restarted = Restarted(DIES, os.environ, first_wait_s=0.001)
    assert [next_death(restarted) for _ in range(3)] == [3, 3, 3]
    assert (restarted.deaths, restarted.wait_s, restarted.pid) == (3, 0.004, None)
    assert restarted.end(0.0) == 0
    patient = Restarted(DIES, os.environ, first_wait_s=0.9 * LONGEST_WAIT_S)
    next_death(patient)
    patient._due = 0.0
    next_death(patient)
    assert patient.wait_s == LONGEST_WAIT_S
    assert patient.end(0.0) == 0


def test_one_that_ran_for_long_is_started_again_at_once_and_one_that_dies_again_is_not() -> None:
    restarted = Restarted(SLEEPS, os.environ)
    restarted.look()
    restarted._began -= STEADY_S + 1.0
    killed(restarted)
    assert restarted.wait_s == 0.0
    restarted.look()
    assert restarted.pid is not None       # the next look starts it
    killed(restarted)
    assert restarted.wait_s == FIRST_WAIT_S
    assert restarted.deaths == 2


def test_one_that_has_not_ended_in_time_is_killed() -> None:
    restarted = Restarted(SLEEPS, os.environ)
    restarted.look()
    assert restarted.end(time.monotonic()) == -9


def test_it_ends_where_the_pipe_from_its_parent_is_closed() -> None:
    restarted = Restarted(TETHERED, os.environ)
    restarted.look()
    process = restarted._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()                  # as the kernel does where this process dies
    assert process.wait(60) == -15
