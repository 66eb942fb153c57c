"""Sums that do not depend on order: fixed point in int64 limbs.

A value is rounded once to a multiple of 2^-56 (``UNIT``); from there on everything is integer arithmetic. An integer is held in limbs of 40
bits, least significant first: ``x = sum(limb[i] << 40 i)``. The canonical form has every limb but the last in [0, 2^40);
the last is signed. Limbs can be added 2^23 times before they must be carried. Arrays carry the limb on their first axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Float = NDArray[np.float64]

LIMB_BITS = 40
LIMB_MASK = (1 << LIMB_BITS) - 1
UNIT_BITS = 56
ADDITIONS = 1 << 22  # so many canonical rows may be added before a carry, with room to spare
SUM_LIMBS = 3
SQUARE_LIMBS = 6


def quantize(values: Float) -> Float:
    """Values (|v| < 2^63) in units of 2^-56: integers held in float64, rounded half to even."""
    return np.rint(values * 2.0**UNIT_BITS)


def split(integers: Float, limbs: int) -> Int:
    """Integers held in float64 (below 2^(40 limbs - 1) in magnitude) as ``limbs`` signed limbs, not canonical. Exact.

    Splits the magnitude, because the fraction x - floor(x) of a small negative x is not a float64.
    """
    out = np.zeros((limbs, len(integers)), np.int64)
    rest = np.abs(integers)
    top = float(rest.max(initial=0.0))
    for i in range(limbs - 1, 0, -1):
        scale = 2.0 ** (LIMB_BITS * i)
        if top < scale:
            continue
        head = np.floor(rest * (1 / scale))
        rest = rest - head * scale
        out[i] = head
    out[0] = rest
    negative = integers < 0
    if negative.any():
        np.negative(out, out=out, where=negative)
    return out


def squares(integers: Float) -> Int:
    """The squares of integers held in float64, as ``SQUARE_LIMBS`` limbs. Exact: two_prod by Dekker's splitting."""
    product = integers * integers
    high = integers * 134217729.0
    high = high - (high - integers)
    low = integers - high
    error = ((high * high - product) + 2.0 * high * low) + low * low
    return split(product, SQUARE_LIMBS) + split(error, SQUARE_LIMBS)


def carry(limbs: Sequence[Int]) -> None:
    """Bring one number's limbs, in place, to canonical form."""
    for low, high in zip(limbs[:-1], limbs[1:], strict=True):
        high += low >> LIMB_BITS
        low &= LIMB_MASK


def to_float(limbs: Sequence[Int]) -> Float:
    """The canonical three-limb sum of units of 2^-56 as the nearest float64 (ties to even).

    Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd" (2008):
    the sum of three doubles is correctly rounded when the two smaller terms are first added with rounding to odd.
    """
    low, middle, high = limbs
    if len(low) and int(np.abs(high).max()) >= 1 << 53:
        return _to_float_by_integers(limbs)
    a = high.astype(np.float64) * 2.0 ** (2 * LIMB_BITS - UNIT_BITS)
    b = middle.astype(np.float64) * 2.0 ** (LIMB_BITS - UNIT_BITS)
    c = low.astype(np.float64) * 2.0**-UNIT_BITS
    upper, upper_error = _two_sum(b, c)
    total, total_error = _two_sum(a, upper)
    return total + _add_to_odd(total_error, upper_error)


def _to_float_by_integers(limbs: Sequence[Int]) -> Float:
    whole = (sum(int(limb[i]) << (LIMB_BITS * k) for k, limb in enumerate(limbs)) for i in range(len(limbs[0])))
    return np.array([x / (1 << UNIT_BITS) for x in whole])  # int / int is correctly rounded


def _two_sum(a: Float, b: Float) -> tuple[Float, Float]:
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def _add_to_odd(a: Float, b: Float) -> Float:
    """a + b, where inexact rounded to the neighbour whose last bit is 1."""
    total, error = _two_sum(a, b)
    bits = total.view(np.int64)
    away = np.where((error > 0) == (total > 0), 1, -1)
    return np.where((error != 0) & ((bits & 1) == 0), bits + away, bits).view(np.float64)


def variance(count: Int, sums: Sequence[Int], sums_of_squares: Sequence[Int]) -> Float:
    """(n Q - S^2) / n^2 of canonical limbs, with one rounding. ``count`` (f,) may hold zeros (giving NaN).

    Python's integers: the difference cancels up to 200 bits, and int / int is correctly rounded.
    """
    totals, squared = _integers(sums), _integers(sums_of_squares)
    unit = 1 << (2 * UNIT_BITS)
    return np.array([
        (n * q - s * s) / (n * n * unit) if n else math.nan
        for n, s, q in zip(count.tolist(), totals, squared, strict=True)
    ])


def _integers(limbs: Sequence[Int]) -> list[int]:
    *lower, top = (limb.tolist() for limb in limbs)
    whole: list[int] = top
    for limb in reversed(lower):
        whole = [(x << LIMB_BITS) | y for x, y in zip(whole, limb, strict=True)]
    return whole
