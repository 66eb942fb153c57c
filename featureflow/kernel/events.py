"""A batch of decoded events as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.partial.entries import position


@dataclass(frozen=True)
class Events:
    """n events of one partition of one source, in offset order.

    ``columns``: strings (and ids of entities of type str) are object arrays with None for null; every other type (int, float, bool,
    datetime) is float64 with NaN for null: an int beyond 2^53 was refused at decode, a datetime is microseconds since 1970 UTC.
    A vector's column is (n, size), with a row of NaN for null. No column holds an infinity, a real NaN, or -0.0.
    """

    partition: int
    offsets: NDArray[np.int64]             # (n,)
    times_us: NDArray[np.int64]            # (n,) event time
    timestamps_us: NDArray[np.int64]       # (n,) the log's timestamp
    columns: dict[str, NDArray[Any]]       # field -> (n,), of a vector (n, size)
    append_time: bool = True               # timestamps_us were set by the broker (LogAppendTime)

    def __len__(self) -> int:
        return len(self.offsets)

    def positions(self, index: NDArray[np.intp]) -> NDArray[np.int64]:
        """What tells the events at these places from all others of the source: (partition, offset) as one number."""
        return position(self.partition, self.offsets[index])

    def take(self, index: NDArray[np.intp]) -> Events:
        """The events at these places, in the order given."""
        return Events(
            self.partition,
            self.offsets[index],
            self.times_us[index],
            self.timestamps_us[index],
            {name: column[index] for name, column in self.columns.items()},
            self.append_time,
        )


@dataclass(frozen=True)
class Gathered(Events):
    """Events of several partitions, in any order: ``partitions`` (n,) is of each, ``partition`` of none."""

    partitions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def positions(self, index: NDArray[np.intp]) -> NDArray[np.int64]:
        """(k,) int64 places in the log of these events, which order those of one time (``position``)."""
        return position(self.partitions[index], self.offsets[index])
