"""Aggregations: which partials one needs, and the number they give.

The first partial of every aggregation is the ``Count`` of what participates. Where it is zero the feature is its declared
default, or undefined, whatever ``finalize`` gives there. Adding an aggregation is one class here and a line in
``AGGREGATIONS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import DefinitionError
from featureflow.kernel import exact
from featureflow.kernel.exact import Float
from featureflow.kernel.partial import Count, LastN, Max, Min, Partial, Sum, SumOfSquares


class Aggregation:
    """``finalize`` gets one array per partial and gives (f, n).

    Where it ``takes`` "numbers" an array is what the partial's ``read`` gave, (f, n); where it takes "columns" the raw canonical
    int64 columns, (columns, f, n). Where it is not overridden, the last partial's number is the value; that of ``LastN`` always is.
    """

    needs: ClassVar[tuple[type[Partial], ...]]
    takes: ClassVar[Literal["numbers", "columns"]] = "numbers"

    @classmethod
    def partials(cls, declared: spec.Aggregation) -> tuple[Partial, ...]:
        return tuple(partial.of(declared) for partial in cls.needs)

    @staticmethod
    def finalize(*partials: NDArray[np.float64 | np.int64]) -> Float:
        return np.asarray(partials[-1], np.float64)


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


class Stddev(Aggregation):
    """The population standard deviation: the square root of the correctly rounded exact variance."""

    needs = (Count, Sum, SumOfSquares)
    takes = "columns"

    @staticmethod
    def finalize(*partials: NDArray[np.float64 | np.int64]) -> Float:
        count, total, squares = (np.asarray(columns, np.int64).reshape(len(columns), -1) for columns in partials)
        return np.sqrt(exact.variance(count[0], total, squares)).reshape(partials[0].shape[1:])


class Last(Aggregation):
    """The newest values, newest first; ``last`` is the newest one."""

    needs = (Count, LastN)


AGGREGATIONS: Mapping[str, type[Aggregation]] = MappingProxyType({
    "count": CountOf,
    "sum": SumOf,
    "mean": Mean,
    "min": MinOf,
    "max": MaxOf,
    "stddev": Stddev,
    "last": Last,
    "last_n": Last,
})


def aggregation(op: str) -> type[Aggregation]:
    """The aggregation named ``op``. Raises DefinitionError for an unknown one."""
    if op not in AGGREGATIONS:
        raise DefinitionError(f"there is no aggregation {op!r}", write="one of " + ", ".join(AGGREGATIONS))
    return AGGREGATIONS[op]
