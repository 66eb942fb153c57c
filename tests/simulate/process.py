"""A worker that runs until its next call and is then somebody else's to continue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from greenlet import GreenletExit, getcurrent, greenlet


class Fate(Enum):
    """What becomes of one call. That a message flies on means that it arrives later, whatever has happened until then."""

    FINE = auto()
    ARRIVED = auto()                       # of a commit: done now, and not only when somebody waits for its answer
    COPIED = auto()                        # done and answered, and a copy flies on
    AWAY = auto()                          # never sent
    LOST_THERE = auto()                    # not done yet: it flies on; no answer
    LOST_BACK = auto()                     # done; no answer
    LOST_BACK_COPIED = auto()              # done; no answer, and a copy flies on
    DEAF = auto()                          # of a poll: done, and what the group has decided is not heard yet


@dataclass(frozen=True)
class Point:
    """Where a process stands: about to call something (``kind``: commit, answers, claim, read, poll, append), to pass a failpoint, or
    between two turns."""

    kind: str
    name: str = ""


START, TURN = Point("start"), Point("turn")
Reach = Callable[[Point], Fate]


class Killed(GreenletExit):
    """Unwinds the worker as a SIGKILL would end it: it handles no such thing, and is thrown away."""


class Steps(Protocol):
    def open(self) -> None: ...
    def step(self, *, timeout_s: float, wait: Callable[[float], object]) -> int: ...
    def close(self) -> None: ...


class Process:
    """``make`` is given what the worker's network calls at every point. ``error`` is what ended it, if not we."""

    def __init__(self, name: str, make: Callable[[Reach], Steps]) -> None:
        self.name, self.point, self.error = name, START, None
        self.ending = self.ended = False
        self.overtaken = False             # a partition that it had in hand was claimed by another since
        self._coroutine = greenlet(self._run)
        self._make = make

    def go_on(self, fate: Fate = Fate.FINE) -> None:
        """To its next point; what it is about to do now has this fate."""
        self.overtaken = False
        reached = self._coroutine.switch(fate)
        if self._coroutine.dead:
            self.ended = True
        else:
            self.point = reached

    def kill(self) -> None:
        if self.point is not START:
            self._coroutine.throw(Killed)
        self.ended = True

    def _run(self, fate: Fate) -> None:
        conductor = getcurrent().parent

        def reach(point: Point) -> Fate:
            told: Fate = conductor.switch(point)
            return told

        try:
            worker = self._make(reach)
            worker.open()
            while not self.ending:
                worker.step(timeout_s=0.0, wait=lambda seconds: None)
                reach(TURN)
            worker.close()
        except Exception as error:         # a verdict of its own: no fault that it lives through ends it
            self.error = error
