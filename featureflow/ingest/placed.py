"""A batch's events beside the rows that they change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureflow.ingest.cuts import Changes, Whole
from featureflow.ingest.order import FEW, Index, changes, in_order
from featureflow.kernel.columns import Layout
from featureflow.kernel.events import Events
from featureflow.kernel.tile import SECOND_US

# What events are sorted by: slot, level, and start in seconds, in one int64; rows of exact windows start at a microsecond.
TIME_BITS = 35
LEVEL_BITS = 4
SLOT_SHIFT = TIME_BITS + LEVEL_BITS
EARLIEST_US = -(2**53)                 # no event is earlier; the lifetime tile, which is, counts from here


@dataclass(frozen=True)
class Placed:
    """Events of one batch beside the rows that they change: k events in order of row, then of offset, and r rows in order of slot."""

    partition: int
    events: Events
    order: Index                           # (k,) places among the batch's events
    begins: NDArray[np.bool_]              # (k,) where a row's events begin
    slots: Index                           # (r,)
    level: Index                           # (r,)
    start: Index                           # (r,)
    entities: Index                        # (e,) distinct slots, in order
    keys: Changes                          # which events change each entity, in order of slot
    whole: Whole                           # entities that are written whole, with their first event

    @property
    def rows(self) -> Changes:
        """Which events change each row, in order of row."""
        return Changes(self.order, previous(self.order, self.begins))


def in_order_of_row(layout: Layout, slots: Index, level: Index, start: Index) -> tuple[Index, NDArray[np.bool_]]:
    """Events in order of slot, level and start, and where in that order each row's begin."""
    if layout.finest < SECOND_US:
        order = np.lexsort((start, level, slots))
        return order, changes(slots[order]) | changes(level[order]) | changes(start[order])
    ticks = np.maximum(start, EARLIEST_US) // SECOND_US + (1 << (TIME_BITS - 1))
    keys = (slots << SLOT_SHIFT) | (level << TIME_BITS) | ticks
    order = keys.argsort(kind="stable") if len(keys) < FEW else in_order(slots, in_order(level, in_order(ticks - ticks.min())))
    return order, changes(keys[order])


def previous(order: Index, begins: NDArray[np.bool_]) -> Index:
    """(k,) what stands before each in its run; -1 where a run begins."""
    before = np.empty(len(order), np.int64)
    before[1:] = order[:-1]
    before[begins] = -1
    return before
