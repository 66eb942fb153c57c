"""Scorers that share a port: looked after with real processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from featureflow.cli.siblings import DEATHS, Siblings

SLEEPS = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
DIES = [sys.executable, "-c", "raise SystemExit(3)"]


def wait_for(what: object, patience_s: float = 60.0) -> None:
    until = threading.Event()
    for _ in range(int(patience_s / 0.02)):
        if what():  # type: ignore[operator]  # a function
            return
        until.wait(0.02)
    raise AssertionError("it did not come true")


def pids(siblings: Siblings) -> list[int]:
    return [s._process.pid for s in siblings._all if s._process is not None]


def test_one_that_dies_is_started_again_and_counted_and_the_others_are_left_alone() -> None:
    gave_up = threading.Event()
    siblings = Siblings(SLEEPS, os.environ, 2, gave_up.set, first_wait_s=0.001)
    siblings.start()
    try:
        first, other = pids(siblings)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: siblings.restarts == 1 and len(pids(siblings)) == 2)
        assert other in pids(siblings)
        assert first not in pids(siblings)
    finally:
        siblings.end()
        siblings.wait()
    assert not gave_up.is_set()
    assert not siblings.failed


def test_one_that_keeps_dying_is_given_up_once() -> None:
    said: list[int] = []
    siblings = Siblings(DIES, os.environ, 1, lambda: said.append(1), first_wait_s=0.001)
    siblings.start()
    wait_for(lambda: siblings.failed)
    siblings.end()
    siblings.wait()
    assert (said, siblings.restarts) == ([1], DEATHS - 1)


def test_one_that_does_not_end_in_time_is_killed_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featureflow.cli.siblings.STOP_S", 0.2)
    deaf = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); open(0).read()"]
    siblings = Siblings(deaf, os.environ, 1, lambda: None)
    siblings.start()
    (pid,) = pids(siblings)
    wait_for(lambda: _ignores(pid, signal.SIGTERM))
    siblings.end()
    assert not siblings.wait()
    assert not Path(f"/proc/{pid}").exists()


def _ignores(pid: int, signum: int) -> bool:
    (ignored,) = (line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored, 16) >> (signum - 1) & 1)


def test_when_told_to_end_all_end_and_none_is_started_again(tmp_path: Path) -> None:
    siblings = Siblings(SLEEPS, os.environ, 3, lambda: None, first_wait_s=0.0)
    siblings.start()
    before = pids(siblings)
    siblings.end()
    siblings.wait()
    siblings._thread.join(60)
    assert not siblings._thread.is_alive()
    assert [s._process.returncode for s in siblings._all if s._process is not None] == [-signal.SIGTERM] * len(before)
