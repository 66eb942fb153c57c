"""Processes that tests start, and waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featureflow.errors import UnavailableError

PATIENCE_S = 150.0                         # never waited for where things work
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.1
DRAIN_S = 60.0                             # of a process told to end, which may have to wait for a processor


def until(is_so: Callable[[], Any], what: str, *, seconds: float = PATIENCE_S, every: float | None = None) -> Any:
    """What ``is_so`` says once it says something true. A server that answers too late to tell is asked again.

    It is asked ``every`` so many seconds, or after waits that grow: to ask a log and two stores takes milliseconds of a processor that
    the one who is waited for may want.
    """
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE_S if every is None else every
    while True:
        with contextlib.suppress(UnavailableError):
            if found := is_so():
                return found
        assert time.monotonic() < deadline, f"{what}: not so after {seconds:.0f} s"
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE_S) if every is None else every


class Process:
    """One child with its output in files. ``close`` ends it, whatever state it is in, by its own pid, and its children by theirs."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], output: Path) -> None:
        self.output = output
        with output.with_suffix(".out").open("wb") as out, output.with_suffix(".err").open("wb") as err:
            self._popen = subprocess.Popen(list(map(str, command)), env=dict(environment), stdout=out, stderr=err, start_new_session=True)
        self.pid = self._popen.pid

    def said(self) -> str:
        """Standard output and standard error so far."""
        return self.out() + self.err()

    def out(self) -> str:
        return self.output.with_suffix(".out").read_text(errors="replace")

    def err(self) -> str:
        return self.output.with_suffix(".err").read_text(errors="replace")

    def running(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def state(self) -> str:
        """The letter of /proc: ``T`` is stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def wait(self, seconds: float = PATIENCE_S) -> int:
        return self._popen.wait(seconds)

    def wait_for(self, text: str, seconds: float = PATIENCE_S) -> None:
        def is_so() -> bool:
            if text in self.said():
                return True
            assert self.running(), f"ended with {self.wait(0)} before it said {text!r}:\n{self.said()[-3000:]}"
            return False

        until(is_so, f"{text!r} from {self.output.name}", seconds=seconds)

    def told_to_end(self) -> int:
        """SIGTERM; its exit code, or subprocess.TimeoutExpired where it has not drained by then."""
        self.signal(signal.SIGTERM)
        return self.wait(DRAIN_S)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def children(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def close(self) -> None:
        if not self.running():
            return
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
        children = self.children()
        if children:                       # ``up``: it ends them itself
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(DRAIN_S + 5)
                return
        self.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
