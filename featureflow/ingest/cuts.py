"""Where a batch is cut into commits: one Lua call may hold readers up only so long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


def cuts(before: Sequence[Index], weights: Sequence[Index], start: int, stop: int, *, rows: int, rewritten: int) -> list[int]:
    """Where each commit of the events ``start`` to ``stop`` ends: at least one, the last at ``stop``.

    ``before`` holds for each view (n,) the event before each one that changes the same row: -1 where there is none, n where the view does
    not fold the event. ``weights`` (n,) are the rows that are written whole with each event. A commit has as many events as change at most
    ``rows`` rows and write at most ``rewritten`` whole, and at least one.
    """
    heavy = np.cumsum(sum(weights, np.zeros(stop, np.int64))[start:stop])
    ends: list[int] = []
    at = start
    while at < stop:
        new = np.cumsum(sum([(each[at:stop] < at).view(np.int8) for each in before], np.zeros(stop - at, np.int64)))
        end = at + int(np.searchsorted(new, rows, side="right"))
        written = heavy[at - start - 1] if at > start else 0
        end = min(end, start + int(np.searchsorted(heavy, written + rewritten, side="right")))
        at = max(end, at + 1)
        ends.append(at)
    return ends or [stop]
