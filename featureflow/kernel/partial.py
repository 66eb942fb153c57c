"""Partial aggregates: commutative monoids over int64 columns.

A partial says how one event looks as a row (``lift``) and how rows merge (``merge``). There are four ways to merge, and each
is exact, so that neither order, batches, partitions nor roll-ups change a bit of a result:

    ADD     int64 addition
    LIMBS   addition of fixed-point limbs, then carries (``kernel.exact``); the partial's columns are its limbs
    MAX     int64 maximum
    NEWEST  the n newest of (event time, position, value), three columns an entry, newest first

Adding a partial is one class here and a line in ``PARTIALS``; the property tests pick it up from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Aggregation, Expr
from featureflow.errors import StateError
from featureflow.kernel import exact
from featureflow.kernel.exact import Float, Int

LOWEST = NO_TIME_US  # the identity of MAX, of times as of codes: no number's code is as low either
OFFSET_BITS = 48
ENTRY = 3  # columns of one NEWEST entry: event time, position, value


class Merge(Enum):
    ADD = "add"
    LIMBS = "limbs"
    MAX = "max"
    NEWEST = "newest"


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
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the int64 columns."""

    @property
    def identity(self) -> tuple[int, ...]:
        """What an event that does not participate adds: one int per column."""
        return (LOWEST if self.merge is Merge.MAX else 0,) * len(self.columns)

    def lift(self, values: Float) -> Int:
        """One row per event: (columns, n) from the values (n,), 0 where the event does not participate.

        Not for NEWEST, whose entries hold time and position too.
        """
        raise NotImplementedError

    @staticmethod
    def read(columns: Int) -> Float:
        """The number that canonical columns (columns, ...) stand for, where something participated."""
        raise NotImplementedError


class Count(Partial):
    """How many events participated."""

    merge = Merge.ADD

    @property
    def columns(self) -> tuple[str, ...]:
        return ("count",)

    def lift(self, values: Float) -> Int:
        return np.ones((1, len(values)), np.int64)

    @staticmethod
    def read(columns: Int) -> Float:
        return np.asarray(columns[0], np.float64)


class Sum(Partial):
    """The exact sum of values rounded to multiples of 2^-56, as three 40-bit limbs."""

    merge = Merge.LIMBS

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"sum_{i}" for i in range(exact.SUM_LIMBS))

    def lift(self, values: Float) -> Int:
        return exact.split(exact.quantize(values), exact.SUM_LIMBS)

    @staticmethod
    def read(columns: Int) -> Float:
        return exact.to_float(columns)


class SumOfSquares(Partial):
    """The exact sum of the squares of the rounded values, in units of 2^-112, as six 40-bit limbs."""

    merge = Merge.LIMBS

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"square_{i}" for i in range(exact.SQUARE_LIMBS))

    def lift(self, values: Float) -> Int:
        return exact.squares(exact.quantize(values))


class Max(Partial):
    """The largest value, as a code that orders like it."""

    merge = Merge.MAX

    @property
    def columns(self) -> tuple[str, ...]:
        return ("max",)

    def lift(self, values: Float) -> Int:
        return code(values)[np.newaxis]

    @staticmethod
    def read(columns: Int) -> Float:
        return number(columns[0])


class Min(Partial):
    """The smallest value: the maximum of complemented codes, so that one reduction serves both."""

    merge = Merge.MAX

    @property
    def columns(self) -> tuple[str, ...]:
        return ("min",)

    def lift(self, values: Float) -> Int:
        return ~code(values)[np.newaxis]

    @staticmethod
    def read(columns: Int) -> Float:
        return number(~columns[0])


@dataclass(frozen=True)
class LastN(Partial):
    """The n newest values with their event times and positions. Ties of event time break on (partition, offset)."""

    size: int = 1

    merge = Merge.NEWEST

    @classmethod
    def of(cls, declared: Aggregation) -> Self:
        return cls(declared.value, declared.where, declared.size)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{part}_{i}" for i in range(self.size) for part in ("time", "position", "value"))

    @property
    def identity(self) -> tuple[int, ...]:
        return (NO_TIME_US, 0, 0) * self.size

    @staticmethod
    def read(columns: Int) -> Float:
        """(size, ...) values, newest first, NaN where there is none."""
        return np.where(columns[0::ENTRY] == NO_TIME_US, np.nan, np.ascontiguousarray(columns[2::ENTRY]).view(np.float64))


PARTIALS: tuple[type[Partial], ...] = (Count, Sum, SumOfSquares, Max, Min, LastN)


def code(values: Float) -> Int:
    """int64 codes that order like the numbers (no NaN): the IEEE bits, with the magnitude of negatives complemented."""
    bits = (values + 0.0).view(np.int64)
    return bits ^ ((bits >> 63) & 0x7FFF_FFFF_FFFF_FFFF)


def number(codes: Int) -> Float:
    """The inverse of ``code``."""
    return (codes ^ ((codes >> 63) & 0x7FFF_FFFF_FFFF_FFFF)).view(np.float64)


def position(partition: int, offsets: Int) -> Int:
    """(partition, offset) as one int64 that orders like the pair.

    Raises StateError for a partition beyond 2^15 or an offset beyond 2^48.
    """
    if partition >= 1 << (63 - OFFSET_BITS) or (len(offsets) and int(offsets.max()) >= 1 << OFFSET_BITS):
        raise StateError(
            f"partition {partition} reaches offset {offsets.max()}; last_n keeps positions below partition 2^15 and offset 2^48. "
            "Move the source to a topic within these bounds"
        )
    return (partition << OFFSET_BITS) | offsets


def newest(segment: Int, entries: NDArray[np.int64], segments: int, size: int) -> Int:
    """The ``size`` newest entries of each segment, as rows (segments, size * ENTRY).

    ``entries`` (n, ENTRY) in any order, ``segment`` (n,) which segment each belongs to; an entry whose time is ``NO_TIME_US`` is
    empty.
    """
    out = np.tile(np.array([NO_TIME_US, 0, 0], np.int64), (segments, size))
    filled = entries[:, 0] != NO_TIME_US
    if not filled.all():
        segment, entries = segment[filled], entries[filled]
    if len(entries) == 0:
        return out
    # Sorted ascending, and ranked from each segment's end: entries mostly come in that order already.
    order = np.lexsort((entries[:, 1], entries[:, 0], segment))
    segment = segment[order]
    ends = np.searchsorted(segment, segment, side="right")
    rank = ends - 1 - np.arange(len(segment))
    kept = rank < size
    out.reshape(segments, size, ENTRY)[segment[kept], rank[kept]] = entries[order[kept]]
    return out
