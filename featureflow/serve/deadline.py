"""When an answer is due. Made once, as the request arrives, and passed down; nothing below invents its own time-out."""

from __future__ import annotations

from math import inf
from time import monotonic

WAY_BACK_SHARE, WAY_BACK_MOST_S = 0.05, 0.002  # of what a caller gives, for an answer's way to it
FETCH_SHARE, FETCH_MOST_S = 0.5, 0.050
FETCH_LEAST_S = 0.002  # for a reply that is on its way already


class Deadline:
    """An instant of the monotonic clock, in seconds. ``budget_s``: how long the whole answer may take, from arrival."""

    __slots__ = ("at_s", "budget_s")

    def __init__(self, at_s: float, budget_s: float = inf) -> None:
        self.at_s, self.budget_s = at_s, budget_s

    def left_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at_s - monotonic()

    def passed(self) -> bool:
        """Whether nothing is left."""
        return monotonic() >= self.at_s


def budget_of(deadline_ms: float | None, usual_s: float) -> float:
    """How many seconds the server may take of what a caller gives it, who counts until the answer is there and not until it is sent."""
    given_s = usual_s if deadline_ms is None else deadline_ms * 1e-3
    return given_s - min(WAY_BACK_SHARE * given_s, WAY_BACK_MOST_S)


def fetch_budget_s(left_s: float, rest_s: float = 0.0) -> float:
    """How long the features may be waited for: half of what is left, 50 ms at most, and no longer than leaves ``rest_s`` for the rest.

    A read takes 0.3 ms, but its reply also waits for the loop to come round and, on a shared machine, for the store to be given a
    processor: with 64 busy connections on two cores that is 2 ms in the median and more than 10 at times, so that the 3 ms that a quiet
    machine needs would degrade a quarter of the answers for nothing (measured). At 50 ms a store that hangs costs deadlines,
    not the server: a full turn of 256 rows every 50 ms is still 5,000 rows a second.
    """
    most_s = max(0.0, min(FETCH_MOST_S, FETCH_SHARE * left_s))
    return max(min(FETCH_LEAST_S, most_s), min(most_s, left_s - rest_s))
