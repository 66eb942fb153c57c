"""Entries of the events with the largest, or smallest, value of something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Aggregation, Call, Expr
from featureflow.kernel.exact import Int
from featureflow.kernel.expression import evaluate
from featureflow.kernel.partial.basic import code
from featureflow.kernel.partial.entries import Entries, payload_of


@dataclass(frozen=True, repr=False)
class MaxBy(Entries):
    """What the event with the largest ``by`` keeps; of several such the newest, by (event time, partition, offset)."""

    by: Expr | None = None

    ranks = ("by", "time", "position")

    @classmethod
    def of(cls, declared: Aggregation) -> Self:
        assert declared.by is not None
        known = Call("not", (Call("is_null", (declared.by,)),))
        where = known if declared.where is None else Call("and", (declared.where, known))
        return cls(declared.value, where, declared.size, payload_of(declared), declared.vector, declared.by)

    @property
    def exprs(self) -> tuple[Expr | None, ...]:
        return (*super().exprs, self.by)

    def rank(self, times: Int, positions: Int, columns: Mapping[str, NDArray[Any]]) -> tuple[Int, ...]:
        assert self.by is not None
        return self.rank_by(np.asarray(evaluate(self.by, columns, len(times)), np.float64)), times, positions

    @staticmethod
    def rank_by(values: NDArray[np.float64]) -> Int:
        return code(values)

    def times(self, entries: Int) -> Int:
        return entries[..., 1]


class MinBy(MaxBy):
    """What the event with the smallest ``by`` keeps; ties as in MaxBy."""

    @staticmethod
    def rank_by(values: NDArray[np.float64]) -> Int:
        return ~code(values)
