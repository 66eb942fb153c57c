"""How many different values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Aggregation
from featureflow.kernel.exact import Float, Int
from featureflow.kernel.partial.sketch import Index, Sketch, mix

REGISTERS = 8                              # a byte each, in a cell's word
ALPHA = 0.5 / math.log(2)                  # of an infinity of registers


@dataclass(frozen=True)
class HyperLogLog(Sketch):
    """HyperLogLog (Flajolet, Fusy, Gandouet, Meunier 2007) of 2^``precision`` registers and 64-bit hashes.

    A register holds the largest rank, the place of the first 1 bit, of the hashes that belong to it. The estimate is Ertl's improved raw
    estimator ("New cardinality estimation algorithms for HyperLogLog sketches", 2017), which needs no correction for small or
    large numbers; its standard error is 1.04 / sqrt(2^precision).
    """

    precision: int = 12

    words: ClassVar[int] = 1

    @classmethod
    def of(cls, declared: Aggregation) -> Self:
        return cls(declared.value, declared.where, precision_for(declared.error))

    @property
    def size(self) -> int:
        return (1 << self.precision) // REGISTERS

    def cells(self, values: NDArray[Any], positions: Int) -> tuple[Index, Int, Int]:
        hashes = hashed(values)
        register = (hashes >> np.uint64(64 - self.precision)).astype(np.int64)
        # A 1 behind the last bit bounds the rank.
        rest = (hashes << np.uint64(self.precision)) | np.uint64(1 << (self.precision - 1))
        rank = _leading_zeros(rest) + 1
        words = rank << (8 * (register % REGISTERS))
        return np.arange(len(values)), register // REGISTERS, words[:, np.newaxis]

    @classmethod
    def reduce(cls, words: Int, starts: Index) -> Int:
        registers = np.ascontiguousarray(words).view(np.uint8)
        return np.ascontiguousarray(np.maximum.reduceat(registers, starts, axis=0)).view(np.int64)

    def estimate(self, group: Int, cells: Int, words: Int, groups: int, asked: Any) -> Float:
        highest = 64 - self.precision + 1
        ranks = np.ascontiguousarray(words).view(np.uint8).astype(np.int64)
        counts = np.bincount(
            (group[:, np.newaxis] * (highest + 1) + ranks).ravel(), minlength=groups * (highest + 1)
        ).reshape(groups, highest + 1)
        counts[:, 0] = (1 << self.precision) - counts[:, 1:].sum(axis=1)   # what no cell stands for is empty too
        return np.rint(estimate(counts))[:, np.newaxis]


def precision_for(error: float) -> int:
    """The least precision whose standard error is at most ``error``."""
    return next(p for p in range(4, 19) if error**2 * 2**p >= 1.04**2)


def hashed(values: NDArray[Any]) -> NDArray[np.uint64]:
    """(n,) 64-bit hashes, the same in every process and on every machine; equal values have equal ones."""
    if values.dtype != object:
        return mix(mix(np.ascontiguousarray(values + 0.0, np.float64).view(np.uint64)))
    known: dict[str, int] = {}
    return np.array([known[v] if v in known else known.setdefault(v, _digest(v)) for v in values.tolist()], np.uint64)


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def estimate(counts: Int) -> Float:
    """(n,) how many values, from how many of m registers hold each rank: ``counts`` (n, highest rank + 1).

    Ertl, algorithm 6. Every step is one correctly rounded operation per element, so that equal counts give equal bits.
    """
    m = counts.sum(axis=1).astype(np.float64)
    z = m * _tau(1.0 - counts[:, -1] / m)
    for k in range(counts.shape[1] - 2, 0, -1):
        z = (z + counts[:, k]) * 0.5
    z += m * _sigma(counts[:, 0] / m)
    with np.errstate(divide="ignore"):
        return np.asarray(ALPHA * m * m / z, np.float64)


def _sigma(x: Float) -> Float:
    """The sum of x^(2^k) 2^(k-1) over k >= 0: x + x^2 + 2 x^4 + 4 x^8 + ...; infinite at 1."""
    full, x = x == 1.0, np.where(x == 1.0, 0.0, x)
    z, y, power = x.copy(), 1.0, x
    for _ in range(64):                    # x is at most 1 - 2^-18, so that the powers are gone long before
        power = power * power
        more = z + power * y
        if (more == z).all():
            break
        z, y = more, 2 * y
    return np.where(full, np.inf, z)


def _tau(x: Float) -> Float:
    """(1 - x - the sum of (1 - x^(2^-k))^2 2^-k over k >= 1) / 3."""
    z, y, root = 1.0 - x, 1.0, x
    for _ in range(64):
        root = np.sqrt(root)
        y = 0.5 * y
        less = z - (1.0 - root) ** 2 * y
        if (less == z).all():
            break
        z = less
    return np.where((x == 0.0) | (x == 1.0), 0.0, z / 3.0)


def _leading_zeros(bits: NDArray[np.uint64]) -> Int:
    """(n,) of numbers that are not 0."""
    zeros = np.zeros(len(bits), np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        high = bits < (np.uint64(1) << np.uint64(64 - step))
        zeros += step * high
        bits = np.where(high, bits << np.uint64(step), bits)
    return zeros
