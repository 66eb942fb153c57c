"""When an answer is due. Made once at the door and passed down; nothing below invents its own time-out."""

from __future__ import annotations

from time import monotonic

FETCH_BUDGET_S = 0.003


class Deadline:
    """An instant of the monotonic clock, in seconds."""

    __slots__ = ("at_s",)

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    @classmethod
    def after(cls, budget_us: float, *, since_s: float) -> Deadline:
        """Due ``budget_us`` after ``since_s`` (monotonic), the instant at which the request arrived."""
        return cls(since_s + budget_us / 1e6)

    def left_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at_s - monotonic()

    def passed(self) -> bool:
        return monotonic() >= self.at_s


def fetch_budget_s(left_s: float) -> float:
    """How long the features may be waited for: 3 ms, or what is left where that is less."""
    return max(0.0, min(FETCH_BUDGET_S, left_s))
