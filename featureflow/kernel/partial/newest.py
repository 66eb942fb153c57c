"""The newest entries, and the oldest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.kernel.exact import Int
from featureflow.kernel.partial.base import LOWEST
from featureflow.kernel.partial.entries import Entries


class LastN(Entries):
    """The n newest values with their event times and positions. Ties of event time break on (partition, offset)."""

    ranks = ("time", "position")
    expires = True

    def rank(self, times: Int, positions: Int, columns: Mapping[str, NDArray[Any]]) -> tuple[Int, ...]:
        return times, positions

    def times(self, entries: Int) -> Int:
        return entries[..., 0]


class First(Entries):
    """The oldest: the greatest of complemented times and positions."""

    ranks = ("ago", "before")

    def rank(self, times: Int, positions: Int, columns: Mapping[str, NDArray[Any]]) -> tuple[Int, ...]:
        return ~times, ~positions

    def times(self, entries: Int) -> Int:
        return np.where(entries[..., 0] == LOWEST, NO_TIME_US, ~entries[..., 0])
