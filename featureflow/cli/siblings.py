"""Scorers that share one port with this process: started with it, started again when they die, ended with it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from featureflow.cli.restart import FIRST_WAIT_S, Restarted

LOOK_S = 0.2
DEATHS = 6  # in a row, each before it was steady: it will not do better the next time
STOP_S = 9.0  # from the time they are told to end; then they are killed
log = structlog.get_logger("featureflow.serve")


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
        self._all = [Restarted(command, environment, first_wait_s=first_wait_s) for _ in range(count)]
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
        """Tell them to end, and start none any more; ``wait`` waits for them. Once is enough."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._until = time.monotonic() + STOP_S
        with self._lock:
            for sibling in self._all:
                sibling.ask_to_end()

    def wait(self) -> bool:
        """After ``end``: whether all have ended by themselves; those that do not in time are killed."""
        return -signal.SIGKILL not in [sibling.end(self._until) for sibling in self._all]

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
