"""Whole numbers in order.

Sorting by 16 bits at a time is eight times as fast as by an int64 where there are thousands, and the numbers here are small: slots,
commits, seconds within a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
"""Whole numbers that stand for something: places, slots, positions, commits; and counts of them."""

DIGIT_BITS = 16                        # numpy sorts these without comparing
FEW = 500                              # numbers, which are sorted as they are


def in_order(numbers: Index, ties: Index | None = None) -> Index:
    """The places of numbers that are not negative, the smallest first.

    Equal ones stand as in ``ties``, an order of all places, or as they come.
    """
    if len(numbers) < FEW:
        return numbers.argsort(kind="stable") if ties is None else ties[numbers[ties].argsort(kind="stable")]
    order = ties
    for shift in range(0, int(numbers.max()).bit_length(), DIGIT_BITS):
        digit = (numbers >> shift).astype(np.uint16)               # of what is above, nothing is left
        order = digit.argsort(kind="stable") if order is None else order[digit[order].argsort(kind="stable")]
    return np.arange(len(numbers)) if order is None else order


def changes(ordered: Index) -> NDArray[np.bool_]:
    """(n,) where a value differs from the one before it; the first does."""
    different = np.empty(len(ordered), np.bool_)
    different[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=different[1:])
    return different


def lengths(begins: Index, end: int) -> Index:
    """(k,) how long runs are that begin at these places, the last up to ``end``."""
    found = np.empty(len(begins), np.int64)
    np.subtract(begins[1:], begins[:-1], out=found[:-1])
    found[-1:] = end - begins[-1:]
    return found
