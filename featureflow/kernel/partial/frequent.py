"""The most frequent values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Aggregation
from featureflow.errors import StateError
from featureflow.kernel.exact import Int
from featureflow.kernel.partial.basic import code, number
from featureflow.kernel.partial.peel import DEPTH, LEVELS, Peeling, hashed, places, sign
from featureflow.kernel.partial.sketch import Index, Sketch, mix

HALF_BITS = 32
HALF_BYTES = 4
LEAST_ACROSS = 64
_LEVEL_SALT = np.uint64(0xA5A5_1B87_3C6D_F00D)


@dataclass(frozen=True)
class FrequentValues(Sketch):
    """How often each value occurs: exact while there are few, else of a sample exactly, and of all from above.

    An event has a level, j with the chance 2^-(j + 1), by a hash of its position. Each level is an invertible Bloom lookup table
    (Goodrich, Mitzenmacher 2011) of ``DEPTH`` rows of ``across`` cells: a cell has the number of its events, the sums of their
    values' halves of 32 bits, and that of their signatures. Cells are added and nothing else, so that a table is a function of the
    set of events. A level is decoded to the last value (``peel.Peeling``) while it has few: with up to 2 / ``error`` the chance that two
    share all their cells is at most 1 in 1,000, with more than 2.4 * ``across`` it is not decoded. Then the levels above are a random
    sample of about as many events, in which every frequent value is. What is left of a level that is not decoded is a count-min sketch
    (Cormode, Muthukrishnan 2005): the count of a value that was found is at most its smallest cell there. So no count is too small.
    With 2 e / ``error`` columns one is too large by more than ``error`` of all events with a chance of (2 e)^-3 = 0.6 % at most, and a
    value with a share of ``error`` of them is missed with one of about e^-13.

    Sums are exact up to 2^31 events of one cell.
    """

    error: float = 0.02
    width: int = 0                         # strings, of at most so many bytes of UTF-8; 0: numbers

    per_event: ClassVar[int] = DEPTH

    @classmethod
    def of(cls, declared: Aggregation) -> Self:
        """Of counts, which are numbers, the entry says what is counted."""
        return cls(declared.value, declared.where, declared.error, declared.entry[0].width if declared.entry else declared.width)

    @property
    def halves(self) -> int:
        """Words of a value: a string's have its length behind them."""
        return -(-self.width // HALF_BYTES) + 1 if self.width else 2

    @property
    def words(self) -> int:
        return self.halves + 2

    @property
    def across(self) -> int:
        """Cells of a row."""
        return max(LEAST_ACROSS, math.ceil(2 * math.e / self.error))

    @property
    def size(self) -> int:
        return LEVELS * DEPTH * self.across

    def cells(self, values: NDArray[Any], positions: Int) -> tuple[Index, Int, Int]:
        n = len(values)
        halves = pack(values, self.width) if self.width else split(values)
        hashes = hashed(halves)
        levels = level_of(positions)
        cells = levels[:, np.newaxis] * (DEPTH * self.across) + places(hashes, levels, self.across)
        words = np.concatenate((np.ones((n, 1), np.int64), halves, sign(hashes)[:, np.newaxis]), axis=1)
        return np.repeat(np.arange(n), DEPTH), cells.ravel(), np.repeat(words, DEPTH, axis=0)

    @classmethod
    def reduce(cls, words: Int, starts: Index) -> Int:
        return np.add.reduceat(words, starts, axis=0)

    def estimate(self, group: Int, cells: Int, words: Int, groups: int, asked: Any) -> NDArray[Any]:
        """``asked`` for values, most frequent first and of equally frequent ones the smaller first, or for their counts."""
        return self.estimates(group, cells, words, groups, [asked])[0]

    def estimates(self, group: Int, cells: Int, words: Int, groups: int, asked: Sequence[Aggregation]) -> list[NDArray[Any]]:
        """Tables are read once for values and counts."""
        strings = [self.width > 0 and one.op != "top_k_count" for one in asked]
        found = [
            np.full((groups, one.size), None, object) if text else np.full((groups, one.size), np.nan)
            for one, text in zip(asked, strings, strict=True)
        ]
        if not len(group):
            return found
        owner, halves, counts = Peeling(group * self.size + cells, words, self.across).found()
        order = np.lexsort((*(halves[:, i] for i in range(self.halves - 1, -1, -1)), -counts, owner))
        owner = owner[order]
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
        for one, text, out in zip(asked, strings, found, strict=True):
            best = np.flatnonzero(rank < one.size)
            taken = order[best]
            values = counts[taken] if one.op == "top_k_count" else unpack(halves[taken]) if text else joined(halves[taken])
            out[owner[best], rank[best]] = values
        return found


def level_of(positions: Int) -> Int:
    """(n,) which level's table the events at these positions are in."""
    with np.errstate(over="ignore"):
        bits = mix(np.ascontiguousarray(positions, np.int64).view(np.uint64) ^ _LEVEL_SALT) | np.uint64(1 << (LEVELS - 1))
        lowest = bits & (~bits + np.uint64(1))
    return np.frexp(lowest.astype(np.float64))[1].astype(np.int64) - 1


def split(values: NDArray[Any]) -> Int:
    """(n, 2) halves of numbers, the upper first: they order like the numbers."""
    bits = code(np.ascontiguousarray(values, np.float64)).view(np.uint64) ^ np.uint64(1 << 63)
    return np.stack((bits >> np.uint64(HALF_BITS), bits & np.uint64(0xFFFF_FFFF)), axis=1).astype(np.int64)


def joined(halves: Int) -> NDArray[np.float64]:
    """The inverse of ``split``."""
    bits = halves.astype(np.uint64)
    return number((((bits[:, 0] << np.uint64(HALF_BITS)) | bits[:, 1]) ^ np.uint64(1 << 63)).view(np.int64))


def pack(strings: NDArray[Any], width: int) -> Int:
    """(n, halves) of strings: UTF-8, zeros behind it, and its length. They order like the strings.

    Raises StateError for one that is longer than ``width`` bytes.
    """
    encoded = [text.encode() for text in strings.tolist()]
    size = -(-width // HALF_BYTES)
    packed = np.empty((len(encoded), size + 1), np.int64)
    packed[:, size] = [len(text) for text in encoded]
    if len(encoded) and int(packed[:, size].max()) > width:
        raise StateError(f"a string of {packed[:, size].max()} bytes was to be counted in {width}: its event should have been refused")
    packed[:, :size] = np.array(encoded, f"S{size * HALF_BYTES}").view(">u4").reshape(len(encoded), size)
    return packed


def unpack(halves: Int) -> NDArray[np.object_]:
    """The inverse of ``pack``."""
    found = np.empty(len(halves), object)
    raw = np.ascontiguousarray(halves[:, :-1], np.int64).astype(">u4")
    found[:] = [row.tobytes()[:length].decode() for row, length in zip(raw, halves[:, -1].tolist(), strict=True)]
    return found
