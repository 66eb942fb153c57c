"""Partial aggregates: commutative monoids over int64 columns.

A partial says how one event looks as a row (``lift``) and how rows merge (``merge``). There are five ways to merge, and each
is exact, so that neither order, batches, partitions nor roll-ups change a bit of a result:

    ADD     int64 addition
    LIMBS   addition of fixed-point limbs, then carries (``kernel.exact``); the partial's columns are its limbs
    MAX     int64 maximum
    BEST    the n best entries by their ranks (``partial.entries``), best first
    CELLS   cell by cell, in rows of a layout of their own (``kernel.partial.sketch``)

Adding a partial is one class in a file of this folder and a line in ``table.PARTIALS``; the property tests pick it up from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Self

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Aggregation, Expr
from featureflow.kernel.exact import Float, Int

LOWEST = NO_TIME_US  # the identity of MAX, of times as of codes: no number's code is as low either


class Merge(Enum):
    """How equal columns of two rows are merged. The order is that of the columns in a row."""

    ADD = "add"
    LIMBS = "limbs"
    MAX = "max"
    BEST = "best"
    CELLS = "cells"


@dataclass(frozen=True)
class Partial(ABC):
    """One monoid over the events for which ``where`` is true and ``value`` is not null. Equal partials are shared.

    ``value`` None: every event counts. A value that is no finite number below 2^63 in magnitude is null here.
    """

    value: Expr | None
    where: Expr | None

    merge: ClassVar[Merge]

    @classmethod
    def of(cls, declared: Aggregation) -> Self:
        """The partial that a declared aggregation needs of this kind."""
        return cls(declared.value, declared.where)

    @property
    def exprs(self) -> tuple[Expr | None, ...]:
        """Everything over an event's fields that it evaluates."""
        return self.value, self.where

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the int64 columns."""

    @property
    def identity(self) -> tuple[int, ...]:
        """What an event that does not participate adds: one int per column."""
        return (LOWEST if self.merge is Merge.MAX else 0,) * len(self.columns)

    def lift(self, values: Float, times_us: Int) -> Int:
        """One row per event: (columns, n) from the values (n,), 0 where the event does not participate, and the event times (n,).

        Not for BEST, whose entries hold time and position too.
        """
        raise NotImplementedError

    @staticmethod
    def read(columns: Int) -> Float:
        """The number that canonical columns (columns, ...) stand for, where something participated."""
        raise NotImplementedError
