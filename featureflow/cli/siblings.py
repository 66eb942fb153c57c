"""Scorers that share one port with this process: started with it, started again when they die, ended with it."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

LOOK_S = 0.2
FIRST_WAIT_S, LAST_WAIT_S = 0.5, 10.0
STEADY_S = 30.0  # one that ran so long has not failed to start
DEATHS = 6  # in a row, each before it was steady: it will not do better the next time
log = structlog.get_logger("featureflow.serve")


class Sibling:
    """One of them."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], first_wait_s: float) -> None:
        self._command, self._environment, self._first_wait_s = list(command), dict(environment), first_wait_s
        self.deaths = 0  # in a row
        self._due = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def look(self) -> int | None:
        """Start it where it is due; its exit code where it has just ended."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._due:
                self._process, self._began = subprocess.Popen(self._command, env=self._environment), now
            return None
        code = self._process.poll()
        if code is not None:
            self._process = None
            self.deaths = 1 if now - self._began > STEADY_S else self.deaths + 1
            self._due = now + min(self._first_wait_s * 2 ** (self.deaths - 1), LAST_WAIT_S)
        return code

    def ask_to_end(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def wait(self) -> None:
        if self._process is not None:
            self._process.wait()


class Siblings:
    """``gave_up`` is called once, when one of them keeps dying. A thread looks after them between ``start`` and ``end``."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        count: int,
        gave_up: Callable[[], None],
        *,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        self._all = [Sibling(command, environment, first_wait_s) for _ in range(count)]
        self._gave_up = gave_up
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="siblings", daemon=True)
        self.restarts = 0
        self.failed = False

    def start(self) -> None:
        for sibling in self._all:
            sibling.look()
        if self._all:
            self._thread.start()

    def end(self) -> None:
        """Tell them to end, and start none any more; ``wait`` waits for them."""
        self._ending.set()
        with self._lock:
            for sibling in self._all:
                sibling.ask_to_end()

    def wait(self) -> None:
        for sibling in self._all:
            sibling.wait()

    def _keep(self) -> None:
        while not self._ending.wait(LOOK_S):
            with self._lock:
                if not self._ending.is_set() and not self.failed:
                    self._look()

    def _look(self) -> None:
        for sibling in self._all:
            code = sibling.look()
            if code is None:
                continue
            if sibling.deaths >= DEATHS:
                log.error("scorer_keeps_dying", code=code, deaths=sibling.deaths)
                self.failed = True
                self._gave_up()
                return
            self.restarts += 1
            log.error("scorer_died", code=code, deaths=sibling.deaths, restarts=self.restarts)
