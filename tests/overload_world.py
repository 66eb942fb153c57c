"""A server of one event loop in made-up time: the real admission and queue, requests that come when they come, and turns that last
as long as the world says.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np

from featureflow.serve.admission import Admission, Took
from featureflow.serve.answer import Shed
from featureflow.serve.deadline import Deadline
from featureflow.serve.priority import Priority
from featureflow.serve.request import Request, Row

ROW = Row({}, {}, (), ())
NOTHING: Any = None  # admission looks at rows, deadline, future and who asks


class Watch:
    def __init__(self, s: float = 100.0) -> None:
        self.s = s

    def __call__(self) -> float:
        return self.s


def a_request(
    watch: Watch,
    *,
    rows: int = 1,
    budget_s: float = 60.0,
    since_s: float | None = None,
    kind: str = "light",
    client: str = "",
    priority: Priority = Priority.NORMAL,
) -> Request:
    since_s = watch.s if since_s is None else since_s
    future: Any = Future()
    return Request(
        "r", NOTHING, NOTHING, [ROW] * rows, Deadline(since_s + budget_s, budget_s), future, False, "",
        kind=kind, client=client, priority=priority,
    )  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """Requests of one kind, client and priority, so many a second, at random (Poisson)."""

    rate: float
    kind: str = "light"
    client: str = ""
    priority: Priority = Priority.NORMAL


@dataclass(repr=False)
class Outcome:
    """Per stream: (when it came, when it was answered) of what was answered in time, and how many were not, by reason."""

    good: list[tuple[float, float]] = field(default_factory=list)
    late: int = 0  # answered by the server's clock, too late by the caller's
    shed: dict[str, int] = field(default_factory=dict)
    came: int = 0

    def rate(self, from_s: float, to_s: float) -> float:
        """In time a second, of those that came in that stretch."""
        return sum(from_s <= came_s < to_s for came_s, _ in self.good) / (to_s - from_s)

    @property
    def p99_s(self) -> float:
        return float(np.percentile([answered_s - came_s for came_s, answered_s in self.good], 99))


def nothing_more(turn_s: float, now_s: float) -> float:
    return turn_s


@dataclass
class World:
    """A turn takes ``fixed_s`` and ``row_s`` of its kind for each row; ``happens(seconds, now)`` is what becomes of that. ``inline``: the
    loop reads nothing while one lasts, and dates what it then finds back to the turn's beginning, as ``Lag`` does. ``read_s``: what reading
    a request and refusing it takes, by which a turn under way is held up.
    """

    budget_s: float
    fixed_s: float = 0.0008
    row_s: dict[str, float] = field(default_factory=lambda: {"light": 0.00005})
    happens: Callable[[float, float], float] = nothing_more
    inline: bool = False
    read_s: float = 0.0
    seed: int = 1
    admission_of: Callable[[Watch], Admission] = lambda watch: Admission(now_s=watch)

    def run(self, streams: list[Stream], seconds: float) -> list[Outcome]:
        watch = Watch(0.0)
        self.admission = admission = self.admission_of(watch)
        outcomes = [Outcome() for _ in streams]
        coming = self._arrivals(streams, seconds)
        at = 0
        asked: dict[int, tuple[float, Outcome]] = {}  # id of a request that waits -> when it came, of whom
        kept: list[Request] = []

        def read(until_s: float, since_s: float | None) -> None:
            nonlocal at
            while at < len(coming) and coming[at][0] <= until_s:
                came_s, number = coming[at]
                at += 1
                if since_s is None:
                    watch.s = came_s
                stream, outcome = streams[number], outcomes[number]
                request = a_request(
                    watch, budget_s=self.budget_s, since_s=came_s if since_s is None else since_s,
                    kind=stream.kind, client=stream.client, priority=stream.priority,
                )  # fmt: skip
                kept.append(request)
                _ask(admission, request, came_s, outcome, asked)

        while True:
            batch, hopeless = admission.take()
            for request in hopeless:
                _count(asked.pop(id(request))[1], "late")
            if not batch:
                if at >= len(coming):
                    return outcomes
                watch.s = coming[at][0]
                read(watch.s, None)
                continue
            began_s = watch.s
            rows: dict[str, int] = {}
            for request in batch:
                rows[request.kind] = rows.get(request.kind, 0) + 1
            own_s = {kind: n * self.row_s[kind] for kind, n in rows.items()}
            planned_s = self.fixed_s + sum(own_s.values())
            took_s = self.happens(planned_s, began_s)
            own_s = {kind: seconds * took_s / planned_s for kind, seconds in own_s.items()}
            took_s += self._reading_s(coming[at:], began_s, took_s)
            if not self.inline:
                read(began_s + took_s, None)
            watch.s = began_s + took_s
            late = 0
            for request in batch:
                came_s, outcome = asked.pop(id(request))
                if request.deadline.at_s < watch.s:
                    late += 1
                    _count(outcome, "late")
                elif came_s + self.budget_s < watch.s:
                    outcome.late += 1
                else:
                    outcome.good.append((came_s, watch.s))
            parts = [Took(kind, n, own_s[kind], own_s[kind] if self.inline else 0.0) for kind, n in rows.items()]
            admission.ended(took_s, parts, answered=len(batch) - late, late=late)
            if self.inline:
                read(watch.s, began_s)

    def _reading_s(self, coming: list[tuple[float, int]], began_s: float, took_s: float) -> float:
        """What is read during a turn that would take so long if nothing were: it takes longer for it, and more comes meanwhile."""
        n = 0
        while self.read_s and n < len(coming) and coming[n][0] <= began_s + took_s + n * self.read_s:
            n += 1
        return n * self.read_s

    def _arrivals(self, streams: list[Stream], seconds: float) -> list[tuple[float, int]]:
        draw = np.random.default_rng(self.seed)
        found: list[tuple[float, int]] = []
        for number, stream in enumerate(streams):
            gaps = draw.exponential(1 / stream.rate, int(stream.rate * seconds * 1.2) + 10)
            found += [(float(s), number) for s in np.cumsum(gaps) if s < seconds]
        return sorted(found)


@dataclass
class Beside(World):
    """Turns are computed beside the loop, one after another; ``fixed_s`` is what a turn reads before, while another computes."""

    def run(self, streams: list[Stream], seconds: float) -> list[Outcome]:
        watch = Watch(0.0)
        self.admission = admission = self.admission_of(watch)
        outcomes = [Outcome() for _ in streams]
        asked: dict[int, tuple[float, Outcome]] = {}
        events: list[tuple[float, int, Callable[[], None]]] = []
        under_way, reading, free_s, ended_s = 0, False, 0.0, 0.0

        def at(when_s: float, what: Callable[[], None]) -> None:
            heappush(events, (when_s, next(numbers), what))

        def came(number: int) -> None:
            stream, outcome = streams[number], outcomes[number]
            request = a_request(watch, budget_s=self.budget_s, kind=stream.kind, client=stream.client, priority=stream.priority)
            _ask(admission, request, watch.s, outcome, asked)

        def begin() -> None:
            nonlocal reading, under_way
            if reading or under_way >= admission.under_way:
                return
            batch, hopeless = admission.take()
            for request in hopeless:
                _count(asked.pop(id(request))[1], "late")
            if batch:
                reading, under_way, began_s = True, under_way + 1, watch.s
                at(watch.s + self.fixed_s, lambda: read(batch, began_s))

        def read(batch: list[Request], began_s: float) -> None:
            nonlocal reading, free_s
            reading = False
            own_s = self.happens(sum(self.row_s[request.kind] for request in batch), watch.s)
            free_s = max(free_s, watch.s) + own_s
            at(free_s, lambda: computed(batch, began_s, own_s))

        def computed(batch: list[Request], began_s: float, own_s: float) -> None:
            nonlocal under_way, ended_s
            late = 0
            for request in batch:
                came_s, outcome = asked.pop(id(request))
                if request.deadline.at_s < watch.s:
                    late += 1
                    _count(outcome, "late")
                else:
                    outcome.good.append((came_s, watch.s))
            under_way -= 1
            kind = batch[0].kind
            admission.ended(watch.s - max(began_s, ended_s), [Took(kind, len(batch), own_s)], answered=len(batch) - late, late=late)
            ended_s = watch.s

        numbers = count()
        for came_s, number in self._arrivals(streams, seconds):
            at(came_s, partial(came, number))
        while events:
            watch.s, _, what = heappop(events)
            what()
            begin()
        return outcomes


def _ask(admission: Admission, request: Request, came_s: float, outcome: Outcome, asked: dict[int, tuple[float, Outcome]]) -> None:
    """``asked``, by the id of a request that waits: when it came, and of whom."""
    outcome.came += 1
    refused, displaced = admission.admit(request)
    if refused is not None:
        _count(outcome, refused.reason)
    else:
        asked[id(request)] = (came_s, outcome)
    for other in displaced:
        _count(asked.pop(id(other))[1], "displaced")


def _count(outcome: Outcome, reason: str) -> None:
    outcome.shed[reason] = outcome.shed.get(reason, 0) + 1


__all__ = ["Beside", "Outcome", "Shed", "Stream", "Watch", "World", "a_request"]
