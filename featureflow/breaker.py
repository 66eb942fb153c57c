"""A circuit breaker: what does not answer is not asked, so that nobody waits for it, and is tried again by one call at a time.

    closed     calls go through; each that fails or takes longer than the time-out counts as an error
    open       where so large a share of the last second's calls (ten at least) were errors: no call goes through, for a while
    half open  the while is over: one call is let through. It ends well: closed; it does not: open, for twice as long

A call that is still under way past the time-out counts as an error then, not when it ends.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from featureflow.errors import CircuitOpenError

TIMEOUT_S = 1.0
CONCURRENCY = 100
ERROR_SHARE = 0.25
WINDOW_S = 1.0
LEAST_CALLS = 10  # that are looked back on, however long ago they were: a call may take longer than the window
LEAST_ERRORS = 3  # fewer say nothing of the dependency
FIRST_S, LONGEST_S = 0.25, 2.0  # that it stays open

State = Literal["closed", "half_open", "open"]


@dataclass(frozen=True)
class BreakerSettings:
    """When a breaker opens. ``concurrency``: calls under way at once; more are refused, which is no error."""

    timeout_s: float = TIMEOUT_S
    concurrency: int = CONCURRENCY
    error_share: float = ERROR_SHARE


class Breaker:
    """Of one dependency. ``enter`` before a call, ``leave`` after it, whatever thread either is in.

    ``calls``: how many there were by outcome: ok, error, slow (it took longer than the time-out), refused.
    """

    def __init__(self, name: str, settings: BreakerSettings | None = None, now_s: Callable[[], float] = monotonic) -> None:
        self.name, self._settings, self._now_s = name, settings or BreakerSettings(), now_s
        self.concurrency = self._settings.concurrency
        self.calls: Counter[str] = Counter(ok=0, error=0, slow=0, refused=0)
        self.opened = 0  # times
        self.problem = ""  # what the last error was
        self._lock = threading.Lock()
        self._ended: deque[tuple[float, bool]] = deque()  # (when, well) of the last second's calls, or the last few
        self._errors = 0  # of those
        self._under_way: dict[int, float] = {}  # call -> since when
        self._overdue: set[int] = set()
        self._count = 0
        self._until_s, self._wait_s = 0.0, FIRST_S
        self._opened = False
        self._probe: int | None = None

    @property
    def state(self) -> State:
        """What the next call would meet, but for concurrency."""
        with self._lock:
            self._look()
            return self._state()

    def enter(self) -> int:
        """A number for the call, to be given to ``leave``. Raises CircuitOpenError."""
        with self._lock:
            self._look()
            state = self._state()
            if state == "open" or (state == "half_open" and self._probe is not None):
                self.calls["refused"] += 1
                raise CircuitOpenError(f"the {self.name} is not asked for the moment: {self.problem}")
            if len(self._under_way) + len(self._overdue) >= self._settings.concurrency:
                self.calls["refused"] += 1
                raise CircuitOpenError(f"the {self.name} has {self._settings.concurrency} calls under way, and is given no more")
            self._count += 1
            self._under_way[self._count] = self._now_s()
            if state == "half_open":
                self._probe = self._count
            return self._count

    def leave(self, call: int, problem: BaseException | str | None = None) -> None:
        """The call has ended; ``problem``: what went wrong."""
        with self._lock:
            self._look()
            if call in self._overdue:
                self._overdue.discard(call)
                return
            del self._under_way[call]
            self._end(call, "ok" if problem is None else "error", str(problem))

    def _look(self) -> None:
        """Calls that are overdue count as errors."""
        late_s = self._now_s() - self._settings.timeout_s
        while self._under_way:
            call, since_s = next(iter(self._under_way.items()))
            if since_s >= late_s:
                return
            del self._under_way[call]
            self._overdue.add(call)
            self._end(call, "slow", f"a call took longer than {self._settings.timeout_s * 1e3:.0f} ms")

    def _end(self, call: int, outcome: str, problem: str) -> None:
        now_s, well = self._now_s(), outcome == "ok"
        self.calls[outcome] += 1
        if not well:
            self.problem = problem
        if self._opened:
            if call == self._probe:
                self._probe = None
                if well:
                    self._opened, self._wait_s = False, FIRST_S
                else:
                    self._until_s, self._wait_s = now_s + self._wait_s, min(2 * self._wait_s, LONGEST_S)
            return  # of a call that began before it opened nothing new is learnt
        self._ended.append((now_s, well))
        self._errors += not well
        while len(self._ended) > LEAST_CALLS and self._ended[0][0] < now_s - WINDOW_S:
            self._errors -= not self._ended.popleft()[1]
        if self._errors >= LEAST_ERRORS and self._errors >= self._settings.error_share * len(self._ended):
            self._opened, self._probe = True, None
            self.opened += 1
            self._until_s, self._wait_s = now_s + self._wait_s, 2 * self._wait_s
            self._ended.clear()
            self._errors = 0

    def _state(self) -> State:
        if not self._opened:
            return "closed"
        return "open" if self._now_s() < self._until_s else "half_open"
