"""When an answer is due. Made once at the door and passed down; nothing below invents its own time-out."""

from __future__ import annotations

from time import monotonic

FETCH_SHARE, FETCH_MOST_S = 0.5, 0.010


class Deadline:
    """An instant of the monotonic clock, in seconds."""

    __slots__ = ("at_s",)

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    def left_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at_s - monotonic()

    def passed(self) -> bool:
        return monotonic() >= self.at_s


def fetch_budget_s(left_s: float) -> float:
    """How long the features may be waited for: half of what is left, 10 ms at most.

    A read takes 0.3 ms, but its reply also waits for the loop to come round: at 64 busy connections on one core that is 2 ms in the median
    and 5 at the p99, so that a budget of 3 ms would have degraded a quarter of the answers (measured) for nothing.
    """
    return max(0.0, min(FETCH_MOST_S, FETCH_SHARE * left_s))
