"""What a slab knows of each entity besides its rows: one line per slot, a small integer that stands for the entity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.errors import StateError
from featureflow.ingest.order import Index
from featureflow.kernel import event_form
from featureflow.kernel.columns import Layout

Id = str | int

SLOTS = 1 << 24                            # a slab holds no more entities: a slot shares an int64 with a level and a tile
LEAST_MORE = 64


class Slots:
    """Columns of which line i is slot i's. A free slot's line means nothing but ``partition`` -1."""

    def __init__(self, layout: Layout) -> None:
        coarser = len(layout.levels) - 1
        self._layout = layout
        self.ids: list[Id] = []
        self.keys: list[bytes] = []
        self.headers = np.zeros((0, max(layout.header_bytes, event_form.HEADER.itemsize)), np.uint8)    # as stored
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
        # Of an entity whose state is few events (``event_form``): stored_rows is -1.
        self.bodies: list[bytes] = []                                  # as stored, without the header; of a whole value that is to come too
        self.body_bytes = np.zeros(0, np.int64)                        # of each,
        self.events_bytes = 0                                          # and of all
        self.event_bytes = np.zeros(0, np.int64)                       # of the value, with its header; 0: it is not in this form
        self.event_count = np.zeros(0, np.int64)
        self.since_us = np.zeros(0, np.int64)                          # what times and offsets of its events are counted from
        self.since_offset = np.zeros(0, np.int64)
        self.as_events = np.zeros(0, np.bool_)                         # what is folded of it is written as events, not as rows
        self.events_whole = np.zeros(0, np.bool_)                      # ... by the next commit all of them
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, partition: int, ids: Sequence[Id], keys: Sequence[bytes]) -> Index:
        """Slots for entities whose keys are absent, as far as is known: nothing was rolled up, dropped or written.

        Raises StateError where there are no more slots.
        """
        missing = len(ids) - len(self._free)
        if missing > 0:
            if len(self) + missing > SLOTS:
                raise StateError(
                    f"the events of view {self._layout.view_id} from {self._layout.source} that are folded at once have more entities than "
                    f"a slab holds, at most {SLOTS} entities: give the topic more partitions and workers"
                )
            self._grow(min(max(missing, len(self) // 2, LEAST_MORE), SLOTS - len(self)))
        taken = self._free[-len(ids) :]
        del self._free[-len(ids) :]
        for slot, entity_id, key in zip(taken, ids, keys, strict=True):
            self.ids[slot], self.keys[slot] = entity_id, key
        slots = np.array(taken, np.int64)
        self.partition[slots] = partition
        self.stored_rows[slots] = -1
        self.renew_ms[slots] = 0
        self.look_at[slots] = self.event_bytes[slots] = self.event_count[slots] = 0
        self.look_after_us[slots] = self.horizon[slots] = self.frontiers[slots] = NO_TIME_US
        return slots

    def hold_rows(self, slots: Index, values: Sequence[bytes], counts: Index) -> None:
        """The stored values of these are so many rows each."""
        size = self._layout.header_bytes
        self.headers[slots, :size] = np.frombuffer(b"".join([value[:size] for value in values]), np.uint8).reshape(-1, size)
        self.stored_rows[slots] = counts

    def hold_events(self, slots: Index, values: Sequence[bytes]) -> None:
        """The stored values of these are few events."""
        size = event_form.HEADER.itemsize
        heads = np.frombuffer(b"".join([value[:size] for value in values]), event_form.HEADER)
        self.headers[slots, :size] = heads.view(np.uint8).reshape(-1, size)
        self.since_us[slots], self.since_offset[slots] = heads["time_us"], heads["offset"]
        bodies = [value[size:] for value in values]
        self.set_events(slots, bodies)
        self.event_bytes[slots] = self.body_bytes[slots] + size
        self.event_count[slots] = list(map(event_form.count, bodies))

    def set_events(self, slots: Index, bodies: Sequence[bytes]) -> None:
        """What the slots (distinct) hold as events from now on."""
        for slot, body in zip(slots.tolist(), bodies, strict=True):
            self.bodies[slot] = body
        self._count(slots, np.array(list(map(len, bodies)), np.int64))

    def add_events(self, slots: Index, lengths: Index, whose: Index, chunks: Sequence[bytes]) -> None:
        """Behind the events of the slots (distinct), so many bytes each: the chunks, in order, of ``whose`` events each is."""
        bodies = self.bodies
        for slot, chunk in zip(whose.tolist(), chunks, strict=True):
            bodies[slot] += chunk
        self._count(slots, self.body_bytes[slots] + lengths)

    def drop_events(self, slots: Index) -> None:
        """Of slots (distinct) that are rows from now on."""
        for slot in slots.tolist():
            self.bodies[slot] = b""
        self._count(slots, np.zeros(len(slots), np.int64))

    def _count(self, slots: Index, lengths: Index) -> None:
        self.events_bytes += int(lengths.sum() - self.body_bytes[slots].sum())
        self.body_bytes[slots] = lengths

    def release(self, slots: Index) -> None:
        """Nothing is known of the slots (distinct) any more: they are free."""
        self.partition[slots] = -1
        self.event_bytes[slots] = 0
        self.drop_events(slots)
        self.rewrite[slots] = self.dirty[slots] = self.as_events[slots] = self.events_whole[slots] = False
        listed = slots.tolist()
        for slot in listed:
            self.ids[slot], self.keys[slot] = "", b""
        self._free += listed

    def _grow(self, more: int) -> None:
        old, new = len(self), len(self) + more
        self.ids += [""] * more
        self.keys += [b""] * more
        self.bodies += [b""] * more
        self._free += range(new - 1, old - 1, -1)
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                setattr(self, name, np.concatenate((column, np.zeros((more, *column.shape[1:]), column.dtype))))
        self.partition[old:] = -1


def ids_in(column: NDArray[np.generic]) -> list[Id]:
    """The ids of a key column: numbers are held as float64, and are whole."""
    ids: list[Id] = (column if column.dtype == object else column.astype(np.int64)).tolist()
    return ids

