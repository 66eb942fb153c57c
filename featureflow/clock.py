"""Time, injected. Event time is an int64 count of microseconds since 1970-01-01T00:00:00Z everywhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NO_TIME_US = -(2**63)  # before any instant: where a time is not known yet, or there is none


class Clock(Protocol):
    """Where 'now' comes from; nothing below the entry points reads the system's clock directly."""

    def now_us(self) -> int:
        """The current instant, microseconds since 1970 UTC."""
        ...


@dataclass(frozen=True)
class SystemClock:
    """The machine's clock, moved by ``shift_us`` (a demo replays the past as if it were now)."""

    shift_us: int = 0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.shift_us


@dataclass
class ManualClock:
    """A clock that moves when it is told to. For tests and simulations."""

    at_us: int = 0

    def now_us(self) -> int:
        return self.at_us

    def advance(self, us: int) -> None:
        self.at_us += us


def to_us(instant: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime.

    Raises ValueError for a naive datetime: it does not name an instant.
    """
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone, so it names no instant; give it tzinfo (UTC)")
    return (instant - EPOCH) // MICROSECOND


def from_us(us: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970 UTC."""
    return EPOCH + timedelta(microseconds=us)
