"""Aggregations: which partials one needs, and the number they give.

The first partial of every aggregation is the ``Count`` of what participates: where it is zero the answer is the declared default,
and ``finalize``'s number there is ignored. Adding an aggregation is one class here and a line in ``AGGREGATIONS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol

import numpy as np

from featureflow.define import spec
from featureflow.errors import DefinitionError
from featureflow.kernel import exact
from featureflow.kernel.exact import Float, Int
from featureflow.kernel.partial import Count, LastN, Max, Min, Partial, Sum, SumOfSquares


class Aggregation(Protocol):
    """``finalize`` gets one array per partial: what the partial's ``read`` gave, (f, n) (``takes`` "numbers"), or its raw canonical
    columns, (columns, f, n) (``takes`` "columns"). It gives (f, n), or (size, f, n) where features have several values."""

    takes: ClassVar[Literal["numbers", "columns"]]
    empty: ClassVar[float]                 # where nothing participated and no default is declared

    @staticmethod
    def partials(declared: spec.Aggregation) -> tuple[Partial, ...]: ...

    @staticmethod
    def finalize(*partials: Float) -> Float: ...


class CountOf:
    takes: ClassVar[Literal["numbers", "columns"]] = "numbers"
    empty = 0.0

    @staticmethod
    def partials(declared: spec.Aggregation) -> tuple[Partial, ...]:
        return (Count(declared.value, declared.where),)

    @staticmethod
    def finalize(*partials: Float) -> Float:
        return partials[0]


class SumOf:
    takes: ClassVar[Literal["numbers", "columns"]] = "numbers"
    empty = np.nan

    @staticmethod
    def partials(declared: spec.Aggregation) -> tuple[Partial, ...]:
        return (Count(declared.value, declared.where), Sum(declared.value, declared.where))

    @staticmethod
    def finalize(*partials: Float) -> Float:
        return partials[1]


class Mean:
    """The correctly rounded sum divided by the count."""

    takes: ClassVar[Literal["numbers", "columns"]] = "numbers"
    empty = np.nan
    partials = SumOf.partials

    @staticmethod
    def finalize(*partials: Float) -> Float:
        count, total = partials
        return total / np.maximum(count, 1.0)


class MinOf:
    takes: ClassVar[Literal["numbers", "columns"]] = "numbers"
    empty = np.nan

    @staticmethod
    def partials(declared: spec.Aggregation) -> tuple[Partial, ...]:
        return (Count(declared.value, declared.where), Min(declared.value, declared.where))

    @staticmethod
    def finalize(*partials: Float) -> Float:
        return partials[1]


class MaxOf:
    takes: ClassVar[Literal["numbers", "columns"]] = "numbers"
    empty = np.nan

    @staticmethod
    def partials(declared: spec.Aggregation) -> tuple[Partial, ...]:
        return (Count(declared.value, declared.where), Max(declared.value, declared.where))

    @staticmethod
    def finalize(*partials: Float) -> Float:
        return partials[1]


class Stddev:
    """The population standard deviation: the square root of the correctly rounded exact variance."""

    takes: ClassVar[Literal["numbers", "columns"]] = "columns"
    empty = np.nan

    @staticmethod
    def partials(declared: spec.Aggregation) -> tuple[Partial, ...]:
        where = (declared.value, declared.where)
        return (Count(*where), Sum(*where), SumOfSquares(*where))

    @staticmethod
    def finalize(*partials: Float) -> Float:
        count, total, squares = (_flat(columns) for columns in partials)
        return np.sqrt(exact.variance(count[0], list(total), list(squares))).reshape(partials[0].shape[1:])


class Last:
    """The newest values, newest first."""

    takes: ClassVar[Literal["numbers", "columns"]] = "numbers"
    empty = np.nan

    @staticmethod
    def partials(declared: spec.Aggregation) -> tuple[Partial, ...]:
        return (Count(declared.value, declared.where), LastN(declared.value, declared.where, declared.size))

    @staticmethod
    def finalize(*partials: Float) -> Float:
        return partials[1]


def _flat(columns: Float) -> Int:
    return columns.reshape(len(columns), -1)  # type: ignore[return-value]  # "columns" arrays are int64


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
    """The aggregation named ``op``; raises DefinitionError for an unknown one."""
    if op not in AGGREGATIONS:
        raise DefinitionError(f"there is no aggregation {op!r}", write="one of " + ", ".join(AGGREGATIONS))
    return AGGREGATIONS[op]
