"""Parts of buffers that become bytes only when they are looked at: the keys, or the values, of thousands of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, starmap
from typing import overload

import numpy as np
from numpy.typing import NDArray

Piece = tuple[bytes, NDArray[np.int64], NDArray[np.int64]]


class Slices(Sequence[bytes | None]):
    """Of each piece ``(data, starts, ends)`` the parts ``data[start:end]``, in order; a part that ends before it starts is None.

    Slicing shares the data. Iterating makes all parts at once, so iterate over a slice of what is large.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._count = sum([len(starts) for _, starts, _ in pieces])

    @classmethod
    def joined(cls, several: Sequence[Slices]) -> Slices:
        """The parts of one after those of the other."""
        return cls([piece for one in several for piece in one._pieces])

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> bytes | None: ...
    @overload
    def __getitem__(self, at: slice) -> Slices: ...
    def __getitem__(self, at: int | slice) -> bytes | Slices | None:
        if isinstance(at, int):
            place = range(self._count)[at]
            return next(iter(self[place : place + 1]))
        start, stop, _ = at.indices(self._count)
        if start == 0 and stop == self._count:
            return self
        found: list[Piece] = []
        for data, starts, ends in self._pieces:
            if start < len(starts) and stop > 0:
                some = slice(max(start, 0), stop)
                found.append((data, starts[some], ends[some]))
            start, stop = start - len(starts), stop - len(starts)
        return Slices(found)

    def __iter__(self) -> Iterator[bytes | None]:
        return chain.from_iterable(starmap(_cut, self._pieces))


def _cut(data: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[bytes | None]:
    found: list[bytes | None] = [data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    for index in np.flatnonzero(ends < starts):
        found[index] = None
    return found
