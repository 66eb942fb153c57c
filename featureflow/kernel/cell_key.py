"""What rows of cells must have in common to be merged, as one int64: level, tile and cell, from the highest bits down.

The tile is its start in seconds, biased so that it is not negative; that of lifetime rows is before any other. So the store has them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.partial.sketch import CELL_BITS
from featureflow.kernel.tile import LIFETIME_START_US, SECOND_US

TICK_BITS = 36
TICK_BIAS = 1 << (TICK_BITS - 1)
LIFETIME_TICK = 0

Int = NDArray[np.int64]


def packed(start: Int, level: Int, cell: Int) -> Int:
    """(k,) keys of rows by their tile's ``start`` (us), ``level`` and ``cell``, (k,) each."""
    tick = np.where(start == LIFETIME_START_US, LIFETIME_TICK, start // SECOND_US + TICK_BIAS)
    high = level.astype(np.uint64) << np.uint64(CELL_BITS + TICK_BITS)
    return high.view(np.int64) | (tick << CELL_BITS) | cell


def unpacked(keys: Int) -> tuple[Int, Int, Int]:
    """(start, level, cell) of keys (k,): the inverse of ``packed``."""
    unsigned = keys.view(np.uint64)
    tick = (unsigned >> np.uint64(CELL_BITS)).astype(np.int64) & ((1 << TICK_BITS) - 1)
    start = np.where(tick == LIFETIME_TICK, LIFETIME_START_US, (tick - TICK_BIAS) * SECOND_US)
    return start, (unsigned >> np.uint64(CELL_BITS + TICK_BITS)).astype(np.int64), keys & ((1 << CELL_BITS) - 1)
