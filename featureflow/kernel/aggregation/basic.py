"""The aggregations that read plain sums, counts and bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel import exact
from featureflow.kernel.aggregation.base import Aggregation
from featureflow.kernel.exact import Float
from featureflow.kernel.partial.basic import Count, Max, Min, Sum, SumOfSquares


class CountOf(Aggregation):
    needs = (Count,)


class SumOf(Aggregation):
    """The exact sum, rounded once."""

    needs = (Count, Sum)


class Mean(Aggregation):
    """The correctly rounded sum divided by the count."""

    needs = (Count, Sum)

    @staticmethod
    def finalize(*partials: NDArray[np.float64 | np.int64]) -> Float:
        count, total = partials
        return np.asarray(total / np.maximum(count, 1), np.float64)


class MinOf(Aggregation):
    needs = (Count, Min)


class MaxOf(Aggregation):
    needs = (Count, Max)


class Variance(Aggregation):
    """The variance of the population, exact and rounded once."""

    needs = (Count, Sum, SumOfSquares)
    takes = "columns"

    @staticmethod
    def finalize(*partials: NDArray[np.float64 | np.int64]) -> Float:
        count, total, squares = (np.asarray(columns, np.int64).reshape(len(columns), -1) for columns in partials)
        return exact.variance(count[0], total, squares).reshape(partials[0].shape[1:])


class Stddev(Variance):
    """The population standard deviation: the square root of the correctly rounded exact variance."""

    @staticmethod
    def finalize(*partials: NDArray[np.float64 | np.int64]) -> Float:
        return np.sqrt(Variance.finalize(*partials))

