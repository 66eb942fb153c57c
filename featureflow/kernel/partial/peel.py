"""Which values tables of sums hold, and how often: what has a cell to itself is read, taken out everywhere, and so on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.exact import Int
from featureflow.kernel.partial.sketch import mix

DEPTH = 3                                  # rows of a table, in each of which a value has one cell
LEVELS = 20                                # tables of a sketch

Hashes = NDArray[np.uint64]
_SALTS = mix(np.arange(1, LEVELS * DEPTH + 1, dtype=np.uint64)).reshape(LEVELS, DEPTH)
_SIGN_SALT = np.uint64(0x5163_0E4F_9A27_D1B5)


def hashed(halves: Int) -> Hashes:
    """(n,) 64-bit hashes of values (n, halves)."""
    hashes = np.zeros(len(halves), np.uint64)
    for column in halves.T:
        hashes = mix(hashes ^ column.astype(np.uint64))
    return hashes


def places(hashes: Hashes, levels: Int, across: int) -> Int:
    """(n, DEPTH) values' cells in these levels' tables, which have ``across`` cells in each row.

    Each level has hashes of its own: values that share all their cells in one do not in the next.
    """
    drawn = mix(hashes[:, np.newaxis] ^ _SALTS[levels]) >> np.uint64(32)
    column = ((drawn * np.uint64(across)) >> np.uint64(32)).astype(np.int64)
    return np.asarray(column + np.arange(DEPTH) * across, np.int64)


def sign(hashes: Hashes) -> Int:
    """(n,) a value's signature, by which a sum of one value is told from one of several."""
    return mix(hashes ^ _SIGN_SALT).view(np.int64)


@dataclass(frozen=True)
class Found:
    """Values that were read from a table: which table, hashes, (m, halves), counts."""

    table: Int
    hashes: Hashes
    halves: Int
    counts: Int


class Peeling:
    """The tables of some groups, ``LEVELS`` of each: ``cells`` (r,) rising, over all tables; ``words`` (r, words)."""

    def __init__(self, cells: Int, words: Int, across: int) -> None:
        self.cells, self.words, self.across = cells, words.copy(), across
        self.stride = DEPTH * across

    def found(self) -> tuple[Int, Int, Int]:
        """(c,) groups, nondecreasing, (c, halves) different values of each, and (c,) their counts: exact, or not less."""
        read = self._read()
        owner = read.table // LEVELS
        order = np.lexsort((read.hashes, owner))
        new = np.ones(len(order), np.bool_)
        new[1:] = (np.diff(owner[order]) != 0) | (read.hashes[order][1:] != read.hashes[order][:-1])
        starts = np.flatnonzero(new)
        if not len(starts):
            return owner, read.halves, read.counts
        one = order[starts]
        counts = np.add.reduceat(read.counts[order], starts)
        return owner[one], read.halves[one], counts + self._unread(owner[one], read.hashes[one])

    def _read(self) -> Found:
        """Peel until no cell is of one value. What is left of ``words`` are the cells of values that were not read."""
        rounds: list[Found] = []
        active = np.arange(len(self.cells))
        while True:
            one = self._alone(active)
            table = self.cells[one.table] // self.stride
            order = np.lexsort((one.hashes, table))
            new = np.ones(len(order), np.bool_)
            new[1:] = (np.diff(table[order]) != 0) | (one.hashes[order][1:] != one.hashes[order][:-1])
            order = order[new]
            table, hashes, halves, counts = table[order], one.hashes[order], one.halves[order], one.counts[order]
            place, there = self._at(table, hashes)
            whole = there.all(axis=1)                          # always, but for what was damaged
            table, hashes, halves, counts, place = table[whole], hashes[whole], halves[whole], counts[whole], place[whole]
            rounds.append(Found(table, hashes, halves, counts))
            if not len(table):
                break
            times = counts[:, np.newaxis]
            with np.errstate(over="ignore"):
                gone = np.concatenate((times, times * halves, times * sign(hashes)[:, np.newaxis]), axis=1)
            np.subtract.at(self.words, place.ravel(), np.repeat(gone, DEPTH, axis=0))
            active = np.unique(place)
        return Found(*(np.concatenate([getattr(r, name) for r in rounds]) for name in ("table", "hashes", "halves", "counts")))

    def _alone(self, among: NDArray[np.intp]) -> Found:
        """The cells that are of one value; ``table`` is the place of the cell."""
        words = self.words[among]
        counts = words[:, 0]
        divisor = np.maximum(counts, 1)[:, np.newaxis]
        halves = words[:, 1:-1] // divisor
        alone = np.flatnonzero(
            (counts > 0) & (halves * divisor == words[:, 1:-1]).all(axis=1) & (halves >= 0).all(axis=1) & (halves < 1 << 32).all(axis=1)
        )
        counts, halves, cell = counts[alone], halves[alone], self.cells[among[alone]] % self.stride
        level = self.cells[among[alone]] // self.stride % LEVELS
        hashes = hashed(halves)
        with np.errstate(over="ignore"):
            right = counts * sign(hashes) == words[alone, -1]
        right &= places(hashes, level, self.across)[np.arange(len(cell)), cell // self.across] == cell
        return Found(among[alone[right]], hashes[right], halves[right], counts[right])

    def _at(self, table: Int, hashes: Hashes) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """(n, DEPTH) where the cells of these values are, in these tables, and whether they are there."""
        wanted = table[:, np.newaxis] * self.stride + places(hashes, table % LEVELS, self.across)
        place = np.minimum(np.searchsorted(self.cells, wanted), len(self.cells) - 1)
        return place, self.cells[place] == wanted

    def _unread(self, owner: Int, hashes: Hashes) -> Int:
        """(c,) how often, at most, these values are in what was not read."""
        more = np.zeros(len(owner), np.int64)
        left = np.unique(self.cells[self.words[:, 0] > 0] // self.stride)    # tables that hold something yet
        if not len(left):
            return more
        first, end = np.searchsorted(left, owner * LEVELS), np.searchsorted(left, (owner + 1) * LEVELS)
        each = end - first
        value = np.repeat(np.arange(len(owner)), each)
        table = left[np.repeat(first, each) + np.arange(len(value)) - np.repeat(np.cumsum(each) - each, each)]
        place, there = self._at(table, hashes[value])
        bound = np.where(there, self.words[place, 0], 0).min(axis=1)
        np.add.at(more, value, np.maximum(bound, 0))           # 0 where it was read: the cell that it was read from is empty
        return more
