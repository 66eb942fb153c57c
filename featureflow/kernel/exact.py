"""Sums that do not depend on order: fixed point in int64 limbs.

A value is rounded once to a multiple of 2^-56; from there on everything is integer arithmetic. An integer is held in
limbs of 40 bits, least significant first: ``x = sum(limb[i] << 40 i)``. The canonical form has every limb but the last in
[0, 2^40); the last is signed. Limbs can be added 2^23 times before they must be carried. Arrays of limbs have the limb on
their first axis.
"""

from __future__ import annotations

import math
import struct

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


def to_float(limbs: Int) -> Float:
    """The canonical three-limb sum of units of 2^-56 as the nearest float64 (ties to even)."""
    low, middle, high = limbs
    largest = int(np.bitwise_or.reduce(high ^ (high >> 63), axis=None))  # within a factor of two
    if largest < 1 << 13:  # the upper two limbs are one float64, so there is one rounding
        return _scaled((high << LIMB_BITS) + middle, LIMB_BITS) + _scaled(low, 0)
    if largest < 1 << 53:
        return _round_to_odd_sum(low, middle, high)
    return np.reshape([x / (1 << UNIT_BITS) for x in integers(limbs.reshape(len(limbs), -1))], low.shape)


def _round_to_odd_sum(low: Int, middle: Int, high: Int) -> Float:
    """Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd" (2008):
    the sum of three doubles is correctly rounded when the two smaller terms are first added with rounding to odd."""
    upper, upper_error = _two_sum(_scaled(middle, LIMB_BITS), _scaled(low, 0))
    total, total_error = _two_sum(_scaled(high, 2 * LIMB_BITS), upper)
    return total + _add_to_odd(total_error, upper_error)


def _scaled(limb: Int, bits: int) -> Float:
    """A limb below 2^53 as the value that it stands for when its unit is 2^(bits - 56). Exact."""
    return limb.astype(np.float64) * 2.0 ** (bits - UNIT_BITS)


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


def variance(count: Int, sums: Int, squares: Int) -> Float:
    """(n Q - S^2) / n^2 of canonical limbs (limbs, f), rounded once. ``count`` (f,) may hold zeros, which give NaN.

    The difference may cancel two hundred bits, so it is taken in Python's integers, whose division rounds correctly. One value
    varies by nothing: only where there are more is it worth a loop.
    """
    out = np.where(count > 0, 0.0, math.nan)
    several = np.flatnonzero(count > 1)
    if len(several):
        triples = zip(count[several].tolist(), integers(sums[:, several]), integers(squares[:, several]), strict=True)
        out[several] = [(n * q - s * s) / (n * n) for n, s, q in triples]
    return out * 2.0 ** (-2 * UNIT_BITS)


def canonical(limbs: Int) -> Int:
    """Sums of limbs, in place, in canonical form."""
    for i in range(len(limbs) - 1):
        limbs[i + 1] += limbs[i] >> LIMB_BITS
        limbs[i] &= LIMB_MASK
    return limbs


def integers(limbs: Int) -> list[int]:
    """Canonical limbs (limbs, f) as f Python integers."""
    low = 5 * (len(limbs) - 1)
    packed = np.empty((limbs.shape[1], low + 8), np.uint8)
    octets = np.ascontiguousarray(limbs.T, "<i8").view(np.uint8).reshape(limbs.shape[1], len(limbs), 8)
    packed[:, :low] = octets[:, :-1, :5].reshape(-1, low)
    packed[:, low:] = octets[:, -1]
    return [int.from_bytes(x, "little", signed=True) for (x,) in struct.iter_unpack(f"{low + 8}s", packed.tobytes())]
