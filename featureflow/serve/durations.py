"""How long so many rows took lately: the typical case and the slow one, by size of batch.

Ageing: of a size of batch, what was measured within half a second counts, or the last three where that is fewer. A size that was not
measured for longer takes no more than a smaller one that was does for each of its rows. Where no size was, it says ever
less (``worth``), so that somebody is tried again: no estimate, however wrong, keeps everybody out for good.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from math import inf

BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)   # rows, at most
MEMORY_S = 0.5
HALVED_S = 0.25
TRIED_S = 1.0
REMEMBERED = 64
LEAST = 3                                  # samples that a median is taken of, as long as there are so many
FEW = 2                                    # fewer prove nothing: they are forgotten once nothing is measured any more
FIXED = 0.25                               # of a batch's time, at least, that a smaller one is taken to need too
LOOKED_S = 0.05                            # how long a result stands while nothing new is measured


def bucket_of(rows: int) -> int:
    """The place in BUCKETS of the first that holds so many rows; the last for more."""
    return min(bisect_left(BUCKETS, rows), len(BUCKETS) - 1)


class Durations:
    """Of one kind of work, in seconds. ``now_s`` is a monotonic clock. ``stands_s``: for how long a result may go without what is new."""

    def __init__(self, now_s: Callable[[], float], stands_s: float = 0.0) -> None:
        self._now_s, self._stands_s = now_s, stands_s
        self._rings: list[deque[tuple[float, float]]] = [deque(maxlen=REMEMBERED) for _ in BUCKETS]
        self._typical, self._slow = [0.0] * len(BUCKETS), [0.0] * len(BUCKETS)
        self._own: list[tuple[float, float]] = [(0.0, 0.0)] * len(BUCKETS)    # of each ring, as it was looked at last
        self._changed: set[int] = set()
        self._looked_s, self._whole_s, self._last_s = -inf, -inf, 0.0

    def add(self, rows: int, seconds: float) -> None:
        """So many rows took so long, until now. What a full bucket would have taken is kept: work grows no faster than its rows."""
        at = bucket_of(rows)
        now_s, ring = self._now_s(), self._rings[at]
        while ring and now_s - self._last_s > MEMORY_S and len(ring) > 1:
            ring.popleft()  # after a silence, all that was before counts once
        self._last_s = now_s
        ring.append((self._last_s, seconds * max(1.0, BUCKETS[at] / rows)))
        self._changed.add(at)

    def typical(self) -> list[float]:
        """The median by bucket; where none was measured, a bound by those beside it; 0.0 everywhere where nothing is known."""
        self._look()
        return self._typical

    def slow(self) -> list[float]:
        """The 99th percentile by bucket, at least the median; 0.0 where that bucket was not measured lately."""
        self._look()
        return self._slow

    def typical_of(self, rows: int) -> float:
        """The median for so many rows."""
        at = bucket_of(rows)
        return self.typical()[at] * max(1.0, rows / BUCKETS[at])

    def measured(self, at: int) -> bool:
        """Whether that bucket was ever measured."""
        return bool(self._rings[at])

    def tried(self, at: int) -> bool:
        """Whether that bucket was measured often and lately enough that it need not be tried again."""
        ring = self._rings[at]
        return len(ring) >= LEAST and self._now_s() - ring[-1][0] <= TRIED_S

    def worth(self) -> float:
        """How much what is remembered still says: 1 where something was measured lately, else ever less."""
        age_s = self._now_s() - self._last_s
        return 1.0 if age_s <= MEMORY_S else 0.5 ** ((age_s - MEMORY_S) / HALVED_S)

    def _look(self) -> None:
        now_s = self._now_s()
        if now_s - self._looked_s < (self._stands_s if self._changed else LOOKED_S):
            return
        whole = now_s - self._whole_s >= LOOKED_S  # what was not measured grows old all the same, but not within so little
        silent = now_s - self._last_s > MEMORY_S
        own, slow = [0.0] * len(BUCKETS), [0.0] * len(BUCKETS)
        fresh: list[int] = []
        for at, ring in enumerate(self._rings):
            if ring and (not silent or len(ring) >= FEW):
                if whole or at in self._changed:
                    self._own[at] = _of(ring, now_s)
                typical, late = self._own[at]
                own[at] = typical
                if now_s - ring[-1][0] <= MEMORY_S:
                    slow[at] = late
                    fresh.append(at)
        self._changed.clear()
        self._looked_s = now_s
        if whole:
            self._whole_s = now_s
        self._typical, self._slow = _filled(own, fresh), slow


def _of(ring: deque[tuple[float, float]], now_s: float) -> tuple[float, float]:
    """(median, 99th percentile) of what counts of a ring. A slow one that is old counts for the median only."""
    fresh = sorted([seconds for ended_s, seconds in ring if now_s - ended_s <= MEMORY_S])
    counts = fresh if len(fresh) >= LEAST else sorted([seconds for _, seconds in list(ring)[-LEAST:]])
    typical = counts[(len(counts) - 1) // 2]
    return typical, max(typical, fresh[-1 - len(fresh) // 100]) if fresh else typical


def _filled(own: list[float], fresh: list[int]) -> list[float]:
    """Bounds where nothing was measured, or not lately."""
    known = [at for at, seconds in enumerate(own) if seconds]
    if not known:
        return own
    sure = fresh or known
    found, below = list(own), -1
    for at, seconds in enumerate(own):
        if at in sure:
            found[at] = max(seconds, found[below]) if below >= 0 else seconds  # more rows do not take less
            below = at
        elif below >= 0:
            most = found[below] * BUCKETS[at] / BUCKETS[below]
            found[at] = max(found[below], min([most, *(own[k] for k in known if k >= at)]))
        else:
            above = next(k for k in sure if k > at)
            less = own[above] * (FIXED + (1 - FIXED) * BUCKETS[at] / BUCKETS[above])
            found[at] = min(seconds, own[above]) if seconds else less
    return found
