"""The aggregations whose value depends on a length of time: a window's, or the time up to the instant asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.kernel.aggregation.base import Aggregation
from featureflow.kernel.exact import Float
from featureflow.kernel.partial.basic import Count
from featureflow.kernel.partial.time import Latest

SECOND_US = 1e6


class Rate(Aggregation):
    """The count divided by the window's length in the declared unit of time."""

    needs = (Count,)
    given = ("constant",)

    @classmethod
    def constant(cls, declared: spec.Aggregation, window: spec.Window) -> float:
        return window.length_us / declared.per_us

    @staticmethod
    def finalize(*arrays: NDArray[np.float64 | np.int64]) -> Float:
        count, length = arrays
        return np.asarray(count / length, np.float64)


class TimeSinceLast(Aggregation):
    """Seconds from the newest event time up to the instant asked for; 0 for an event of that instant's own tile that is after it."""

    needs = (Count, Latest)
    given = ("instants",)

    @staticmethod
    def finalize(*arrays: NDArray[np.float64 | np.int64]) -> Float:
        _, latest, instants = arrays
        return np.asarray(np.maximum(instants - latest, 0.0) / SECOND_US, np.float64)
