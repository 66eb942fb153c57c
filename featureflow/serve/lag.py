"""How far behind the event loop is, and since when what it reads may have lain in a socket.

A probe falls due every 5 ms while there are requests, and what it is late by, beyond what turns held the loop up for, is the lag. One late
probe is a stall that is over by the time it is seen; the lag is therefore the lesser of the last two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

PROBE_S = 0.005
QUIET_S = 1.0  # without a request, after which nothing is probed
SLACK_S = 0.0003  # between what the loop did and the poll that follows it at once


class Lag:
    """``said`` is told the lag in seconds each time that it is known. Belongs to one event loop."""

    def __init__(
        self, said: Callable[[float], None], *, loop: asyncio.AbstractEventLoop | None = None, now_s: Callable[[], float] = monotonic
    ) -> None:
        self._said, self._now_s = said, now_s
        self._loop = loop or asyncio.get_running_loop()
        self._due_s = self._last_s = self._asked_s = 0.0
        self._held_s = self._held_before_s = 0.0
        self._busy_from_s = self._busy_to_s = self._since_s = 0.0  # since it last looked, without a pause
        self._reading = False
        self._probe: asyncio.TimerHandle | None = None

    def held(self, from_s: float, to_s: float) -> None:
        """A turn held the loop up from then until now: nothing was read meanwhile."""
        self._held_s += to_s - from_s
        self.busy(from_s, to_s)

    def busy(self, from_s: float, to_s: float) -> None:
        """The loop did something from then until now. It is busy as long as it reads what one poll brought, whatever comes between."""
        if not self._reading and from_s - self._busy_to_s > SLACK_S:
            self._busy_from_s = from_s
        self._busy_to_s = to_s

    def arrived_s(self) -> float:
        """Since when a request that the loop reads now may have been there: since it last looked, where it was busy from then on."""
        if not self._reading:
            now_s = self._asked_s = self._now_s()
            self._reading = True
            self._loop.call_soon(self._read)
            if self._probe is None:
                self._arm(now_s)
            was_busy = now_s - self._busy_to_s < SLACK_S
            self._since_s = self._busy_from_s if was_busy else min(now_s, self._due_s)
            self._busy_from_s = now_s
        return self._since_s

    def _read(self) -> None:
        self._reading = False  # all that one poll brought is read
        self._busy_to_s = self._now_s()

    def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None

    def _arm(self, now_s: float) -> None:
        self._due_s, self._held_before_s = now_s + PROBE_S, self._held_s
        self._probe = self._loop.call_later(PROBE_S, self._fired)

    def _fired(self) -> None:
        now_s = self._now_s()
        late_s = max(0.0, now_s - self._due_s - (self._held_s - self._held_before_s))
        self._said(min(late_s, self._last_s))
        self._last_s = late_s
        self._probe = None
        if now_s - self._asked_s < QUIET_S:
            self._arm(now_s)
        else:
            self._said(0.0)
            self._last_s = 0.0
