"""A process of ours that is started again when it ends by itself, and ends with this one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence

from featureflow.backoff import Backoff
from featureflow.cli import tether
from featureflow.clock import SystemClock

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0  # before a start after a death; doubled by each further one
STEADY_S = 30.0  # a death after so long counts as a first one, and no start is waited with: it will hardly die of the same again


class Restarted:
    """``look`` at it now and then: nothing happens between."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, first_wait_s: float = FIRST_WAIT_S) -> None:
        self._command, self._environment = list(command), dict(environment)
        self._backoff = Backoff(SystemClock(), round(first_wait_s * 1e6), round(LONGEST_WAIT_S * 1e6))
        self.deaths = 0  # in a row
        self.wait_s = 0.0  # from its last death to the next start
        self._due = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None while it waits to be started."""
        return None if self._process is None else self._process.pid

    def look(self) -> int | None:
        """Start it where it is due; its exit code where it has just ended."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._due:
                self._process, self._began = tether.start(self._command, self._environment), now
            return None
        code = self._process.poll()
        if code is not None:
            tether.let_go(self._process)
            self._process = None
            if now - self._began > STEADY_S:
                self._backoff.succeeded()
                self.deaths, self.wait_s = 1, 0.0
            else:
                self.deaths += 1
                self.wait_s = self._backoff.failed() / 1e6
            self._due = now + self.wait_s
        return code

    def ask_to_end(self) -> None:
        """Send it SIGTERM, if it runs. ``end`` waits for it."""
        if self._process is not None:
            self._process.terminate()

    def end(self, until: float) -> int:
        """Its exit code; killed where it has not ended by ``until`` of the monotonic clock. What ran no more gives 0."""
        if self._process is None:
            return 0
        try:
            code = self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        tether.let_go(self._process)
        return code
