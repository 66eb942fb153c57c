"""Watching as a process of its own, on a real log, that dies at a named place. Forked, so that a start takes milliseconds.

There is no online store: every feature is missing and has its default, and the score is the model's of what the event itself says. What is
tried here is what the log holds.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType

from prometheus_client import CollectorRegistry

from featureflow.clock import SystemClock
from featureflow.define.spec import Project
from featureflow.models.store import ModelStore
from featureflow.store.log.open import open_log
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.watch.failpoint import Name
from featureflow.watch.metrics import WatchMetrics
from featureflow.watch.watching import Applied, Watching, WatchOptions

PARTITIONS = 2


class KillWhereTold:
    """SIGKILL at the place that a file names, as soon as it does: no handler runs, nothing is flushed. SIGSTOP, once, where ``stop`` stands
    before its name."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, name: Name) -> None:
        told = self._file.read_text() if self._file.exists() else ""
        if told == name:
            os.kill(os.getpid(), signal.SIGKILL)
        if told == f"stop {name}":
            self._file.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)


def main(url: str, project: Project, models: str, member: str, webhook: str, trap: str, output: str) -> None:
    """Watch until SIGTERM."""
    with open(output, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    stop = threading.Event()

    def told(signum: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, told)
    log = open_log(url)
    watching = Watching(
        log, MemoryOnlineStore(SystemClock()), ModelStore(Path(models), provider="cpu"), Applied(project, {"trip": PARTITIONS}, 1, {}),
        SystemClock(), WatchMetrics(CollectorRegistry()), WatchOptions(member=member, wait_us=0, webhook=webhook),
        failpoint=KillWhereTold(Path(trap)),
    )  # fmt: skip
    watching.run(stop)
    log.close()

