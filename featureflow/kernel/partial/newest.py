"""The n newest values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Aggregation
from featureflow.errors import StateError
from featureflow.kernel.exact import Float, Int
from featureflow.kernel.partial.base import Merge, Partial

OFFSET_BITS = 48
ENTRY = 3  # columns of one NEWEST entry: event time, position, value


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
