"""When: the newest and the oldest event time."""

from __future__ import annotations

import numpy as np

from featureflow.kernel.exact import Float, Int
from featureflow.kernel.partial.base import Merge, Partial


class Latest(Partial):
    """The newest event time of what participated."""

    merge = Merge.MAX

    @property
    def columns(self) -> tuple[str, ...]:
        return ("latest",)

    def lift(self, values: Float, times_us: Int) -> Int:
        return times_us[np.newaxis]

    @staticmethod
    def read(columns: Int) -> Float:
        """Microseconds; exact, since every instant of an event lies within 2^53 of them from 1970."""
        return np.asarray(columns[0], np.float64)


class Earliest(Partial):
    """The oldest event time of what participated: the maximum of complemented times, so that one reduction serves both."""

    merge = Merge.MAX

    @property
    def columns(self) -> tuple[str, ...]:
        return ("earliest",)

    def lift(self, values: Float, times_us: Int) -> Int:
        return ~times_us[np.newaxis]

    @staticmethod
    def read(columns: Int) -> Float:
        return np.asarray(~columns[0], np.float64)
