"""Quantiles."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Aggregation
from featureflow.kernel.exact import Float, Int
from featureflow.kernel.partial.sketch import Index, Sketch
from featureflow.limits import NUMBER_ABS

LEAST = 1e-9                               # a value nearer to 0 counts as 0


@dataclass(frozen=True)
class LogBuckets(Sketch):
    """How many values lie in each of geometrically growing buckets: DDSketch (Masson, Rim, Lee 2019).

    A bucket's bounds differ by (1 + error) / (1 - error), so that its middle is within ``error`` of any value in it. All numbers from
    ``LEAST`` to ``limits.NUMBER_ABS`` have their bucket, so none is ever collapsed, which would depend on order.
    """

    error: float = 0.01

    words: ClassVar[int] = 1

    @classmethod
    def of(cls, declared: Aggregation) -> Self:
        return cls(declared.value, declared.where, declared.error)

    @property
    def size(self) -> int:
        return 2 * len(bounds(self.error)) + 1

    def cells(self, values: NDArray[Any], positions: Int) -> tuple[Index, Int, Int]:
        table = bounds(self.error)
        # Comparisons alone decide, so that every machine puts a value into the same bucket.
        bucket = np.searchsorted(table, np.abs(values)).astype(np.int64)
        cells = len(table) + np.where(values < 0, -bucket, bucket)
        return np.arange(len(values)), cells, np.ones((len(values), 1), np.int64)

    @classmethod
    def reduce(cls, words: Int, starts: Index) -> Int:
        return np.add.reduceat(words, starts, axis=0)

    def estimate(self, group: Int, cells: Int, words: Int, groups: int, asked: Any) -> Float:
        out = np.full((groups, 1), np.nan)
        if not len(group):
            return out
        first = np.flatnonzero(np.diff(group, prepend=-1))
        total = np.add.reduceat(words[:, 0], first)
        before = np.cumsum(words[:, 0]) - words[:, 0]
        begin = before[first]
        rank = np.floor(asked.q * (total - 1)).astype(np.int64) + begin     # of the value, among all in order
        at = np.searchsorted(before + words[:, 0], rank, side="right")
        out[group[first], 0] = middles(self.error)[cells[at]]
        return out


@cache
def bounds(error: float) -> Float:
    """(b,) the largest value of each bucket of positive numbers; the first one's is of what counts as 0."""
    with localcontext() as exact:
        exact.prec = 40
        # A little less than stated, for what rounding adds.
        off = Decimal(error) * (1 - Decimal("1e-9"))
        bound, growth = Decimal(LEAST), (1 + off) / (1 - off)
        found = [float(bound)]
        while bound < Decimal(NUMBER_ABS):
            bound *= growth
            found.append(float(bound))
    return np.array(found)


@cache
def middles(error: float) -> Float:
    """(2 b + 1,) the value that stands for each cell: no further, relatively, from one bound of its bucket than from the other."""
    table = bounds(error)
    middle = 2.0 * (table[:-1] * (table[1:] / (table[:-1] + table[1:])))
    positive = np.concatenate((middle, table[-1:]))
    return np.concatenate((-positive[::-1], [0.0], positive))
