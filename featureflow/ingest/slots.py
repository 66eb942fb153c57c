"""What a slab knows of each entity besides its rows: one line per slot, a small integer that stands for the entity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.kernel.columns import Layout

Id = str | int
Index = NDArray[np.int64]

SLOTS = 1 << 24                            # a slab holds no more entities: a slot shares an int64 with a level and a tile
LEAST_MORE = 64


class Slots:
    """Columns of which line i is slot i's. A free slot's line means nothing but ``partition`` -1."""

    def __init__(self, layout: Layout) -> None:
        coarser = len(layout.levels) - 1
        self.ids: list[Id] = []
        self.keys: list[bytes] = []
        self.headers = np.zeros((0, layout.header_bytes), np.uint8)    # as stored
        self.partition = np.zeros(0, np.int64)
        self.bucket = np.zeros(0, np.int64)                            # its number
        self.stored_rows = np.zeros(0, np.int64)                       # once all that was folded is there; -1: the key is absent
        self.rewrite = np.zeros(0, np.bool_)                           # to be written whole
        self.dirty = np.zeros(0, np.bool_)
        self.last_used = np.zeros(0, np.int64)
        self.renew_ms = np.zeros(0, np.int64)                          # the store's time from which the next write renews its life
        self.newest_start = np.zeros(0, np.int64)                      # the latest start of rows of the finest level
        self.newest_at = np.zeros(0, np.int64)                         # and the position of that row
        self.look_at = np.zeros(0, np.int64)                           # rows at which a roll-up is considered again,
        self.look_after_us = np.zeros(0, np.int64)                     # and the horizon after which it is
        self.horizon = np.zeros(0, np.int64)
        self.frontiers = np.zeros((0, coarser), np.int64)
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, partition: int, ids: Sequence[Id], keys: Sequence[bytes]) -> Index:
        """Slots for entities whose keys are absent, as far as is known: nothing was rolled up, dropped or written."""
        missing = len(ids) - len(self._free)
        if missing > 0:
            self._grow(max(missing, len(self) // 2, LEAST_MORE))
        taken = self._free[-len(ids) :]
        del self._free[-len(ids) :]
        for slot, entity_id, key in zip(taken, ids, keys, strict=True):
            self.ids[slot], self.keys[slot] = entity_id, key
        slots = np.array(taken, np.int64)
        self.partition[slots] = partition
        self.stored_rows[slots] = -1
        self.renew_ms[slots] = 0
        self.look_at[slots] = 0
        self.look_after_us[slots] = self.horizon[slots] = self.frontiers[slots] = NO_TIME_US
        return slots

    def release(self, slots: Index) -> None:
        self.partition[slots] = -1
        self.rewrite[slots] = self.dirty[slots] = False
        listed = slots.tolist()
        for slot in listed:
            self.ids[slot], self.keys[slot] = "", b""
        self._free += listed

    def _grow(self, more: int) -> None:
        old, new = len(self), len(self) + more
        if new > SLOTS:
            raise MemoryError(f"a slab holds at most {SLOTS} entities; add partitions and workers")
        self.ids += [""] * more
        self.keys += [b""] * more
        self._free += range(new - 1, old - 1, -1)
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                setattr(self, name, np.concatenate((column, np.zeros((more, *column.shape[1:]), column.dtype))))
        self.partition[old:] = -1
