"""Sketches: summaries of a fixed size, kept as the cells that are not empty.

A sketch is a vector of cells, each of a few int64 words, and merges cell by cell. An event changes few cells, so a summary of few
events is few cells, and no summary has more than the sketch. Merging must be exact, as of every partial: the estimate is then a function
of the set of events, whatever their order, batches, partitions and roll-ups were.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Aggregation
from featureflow.kernel.exact import Int
from featureflow.kernel.partial.base import Merge, Partial

INDEX_BITS = 18                            # a cell's number in its sketch
CELL_BITS = INDEX_BITS + 6                 # with the number of its sketch among those of its layout

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Sketch(Partial):
    """A vector of cells over the events for which ``where`` is true and ``value`` is not null."""

    merge = Merge.CELLS
    per_event: ClassVar[int] = 1           # cells that an event changes, at most

    @property
    @abstractmethod
    def words(self) -> int:
        """Of a cell."""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"word_{i}" for i in range(self.words))

    @property
    @abstractmethod
    def size(self) -> int:
        """No cell's number reaches it: at most 2^``INDEX_BITS``."""

    @abstractmethod
    def cells(self, values: NDArray[Any], positions: Int) -> tuple[Index, Int, Int]:
        """The cells of n events: whose each is (r,), its number (r,), and its words (r, ``words``).

        ``values`` (n,) float64 or, of strings, object; none is null. ``positions`` (n,) tells events apart, the same for ever.
        """

    @classmethod
    @abstractmethod
    def reduce(cls, words: Int, starts: Index) -> Int:
        """(r, words) merged by segments into (m, words). Segment i is ``words[starts[i]:starts[i + 1]]``, never empty."""

    @abstractmethod
    def estimate(self, group: Int, cells: Int, words: Int, groups: int, asked: Any) -> NDArray[Any]:
        """(groups, values) of what ``asked``, the declared aggregation, is about: float64, or strings as objects.

        ``group`` (r,) which group each cell belongs to, nondecreasing; ``cells`` (r,) rising within each; ``words`` (r, words).
        """

    def estimates(self, group: Int, cells: Int, words: Int, groups: int, asked: Sequence[Aggregation]) -> list[NDArray[Any]]:
        """What ``estimate`` gives for each of several."""
        return [self.estimate(group, cells, words, groups, one) for one in asked]


def mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 bits, each of which depends on all that were given, one to one.

    The finalizer of SplitMix64 (Steele, Lea, Flood 2014, constants of Stafford's variant 13).
    """
    with np.errstate(over="ignore"):
        x = bits + np.uint64(0x9E37_79B9_7F4A_7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return x ^ (x >> np.uint64(31))
