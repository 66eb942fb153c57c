"""Time, injected. Event time is an int64 count of microseconds since 1970-01-01T00:00:00Z everywhere."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
UNIT_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
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


def duration_us(text: str) -> int | None:
    """Microseconds of ``5s``, ``10m``, ``250ms``: a whole number and one of ``UNIT_US``. None for anything else."""
    match = re.fullmatch(r"([0-9]+)([a-z]+)", text)
    return int(match[1]) * UNIT_US[match[2]] if match is not None and match[2] in UNIT_US else None


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
