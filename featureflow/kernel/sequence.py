"""Operators on sequences: (n, size) columns, newest first, null where there is no value.

A true or false of a sequence is 1.0 or 0.0, and NaN where what was compared is null: a position that holds no value counts
neither for nor against. Reductions skip what is null and give (n,), NaN where nothing is left. Sums are taken in one order, newest first,
so that they are the same bits wherever they are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float = NDArray[np.float64]


def spread(x: Array) -> Array:
    """A scalar column (n,) as one that stands beside (n, size): (n, 1)."""
    return x[:, np.newaxis]


def diff(x: Float) -> Float:
    """(n, size - 1) each value less the next older one."""
    return x[:, :-1] - x[:, 1:]


def each(operator: Callable[..., Array]) -> Callable[..., Float]:
    """The operator of single values, with null where any of them is."""

    def apply(*args: Array) -> Float:
        args = tuple(np.broadcast_arrays(*args))
        unknown = np.logical_or.reduce([_null(arg) for arg in args])
        return np.where(unknown, np.nan, operator(*args).astype(np.float64))

    return apply


def nulls(x: Array) -> Float:
    """(n, size) 1.0 where there is no value, else 0.0."""
    return _null(x).astype(np.float64)


def length(x: Array) -> Float:
    """(n,) how many values are there."""
    return np.asarray((~_null(x)).sum(axis=1), np.float64)


def total(x: Float) -> Float:
    """(n,) the sum."""
    there = ~np.isnan(x)
    found = np.zeros(len(x))
    for column, known in zip(x.T, there.T, strict=True):
        found = np.where(known, found + column, found)
    return np.where(there.any(axis=1), found, np.nan)


def mean(x: Float) -> Float:
    """(n,) the sum divided by how many there are."""
    return np.asarray(total(x) / (~np.isnan(x)).sum(axis=1), np.float64)


def smallest(x: Float) -> Float:
    """(n,)"""
    return np.asarray(np.fmin.reduce(x, axis=1, initial=np.nan), np.float64)


def largest(x: Float) -> Float:
    """(n,)"""
    return np.asarray(np.fmax.reduce(x, axis=1, initial=np.nan), np.float64)


def _null(x: Array) -> NDArray[np.bool_]:
    """Which values are null, one by one."""
    return np.asarray(x == np.array(None), np.bool_) if x.dtype == object else np.isnan(x)
