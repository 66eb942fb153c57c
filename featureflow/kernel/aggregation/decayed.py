"""Aggregations that fade: an event of one half-life ago weighs half, and one of more than 40 is left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.aggregation.base import Aggregation
from featureflow.kernel.exact import Float
from featureflow.kernel.partial.basic import Count
from featureflow.kernel.partial.decayed import Decayed, Weight


class DecayedSum(Aggregation):
    needs = (Count, Decayed)


class DecayedCount(Aggregation):
    needs = (Count, Weight)


class DecayedMean(Aggregation):
    """The decayed sum divided by the decayed count."""

    needs = (Count, Decayed, Weight)

    @staticmethod
    def finalize(*arrays: NDArray[np.float64 | np.int64]) -> Float:
        count, total, weight = arrays
        return np.asarray(total / np.where(count > 0, weight, 1.0), np.float64)
