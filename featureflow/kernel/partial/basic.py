"""How many, how much, and between which bounds."""

from __future__ import annotations

import numpy as np

from featureflow.kernel import exact
from featureflow.kernel.exact import Float, Int
from featureflow.kernel.partial.base import Merge, Partial


class Count(Partial):
    """How many events participated."""

    merge = Merge.ADD

    @property
    def columns(self) -> tuple[str, ...]:
        return ("count",)

    def lift(self, values: Float, times_us: Int) -> Int:
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

    def lift(self, values: Float, times_us: Int) -> Int:
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

    def lift(self, values: Float, times_us: Int) -> Int:
        return exact.squares(exact.quantize(values))


class Max(Partial):
    """The largest value, as a code that orders like it."""

    merge = Merge.MAX

    @property
    def columns(self) -> tuple[str, ...]:
        return ("max",)

    def lift(self, values: Float, times_us: Int) -> Int:
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

    def lift(self, values: Float, times_us: Int) -> Int:
        return ~code(values)[np.newaxis]

    @staticmethod
    def read(columns: Int) -> Float:
        return number(~columns[0])


def code(values: Float) -> Int:
    """int64 codes that order like the numbers (no NaN): the IEEE bits, with the magnitude of negatives complemented."""
    bits = (values + 0.0).view(np.int64)
    return bits ^ ((bits >> 63) & 0x7FFF_FFFF_FFFF_FFFF)


def number(codes: Int) -> Float:
    """The inverse of ``code``."""
    return (codes ^ ((codes >> 63) & 0x7FFF_FFFF_FFFF_FFFF)).view(np.float64)
