"""A slab's rows as what a commit writes: patches of the rows that were touched, and whole values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from featureflow.ingest.arena import Arena
from featureflow.ingest.slots import Index, Slots
from featureflow.kernel import state
from featureflow.kernel.columns import Layout
from featureflow.store.online.writes import HEAD, PLACE, StateWrite, Writes

RENEW_SHARE = 8


class StateWrites:
    """Writes of one slab's entities.

    A key is given an eighth more life than its state can be needed for, and its life is renewed once that eighth has passed: the state is
    never gone while it may be needed, and most patches leave the key's time to live alone. By the store's clock throughout.
    """

    def __init__(self, layout: Layout, arena: Arena, slots: Slots) -> None:
        self._layout, self._arena, self._slots = layout, arena, slots
        self._slack_ms = -(-layout.ttl_ms // RENEW_SHARE)
        self._life_ms = layout.ttl_ms + self._slack_ms
        self._headers: dict[int, bytes] = {}                       # of what was written whole since the last commit, by slot
        self._last_header: tuple[object, bytes] = (None, b"")

    def patches(self, slots: Index, positions: Index) -> Writes:
        """One write per entity of these rows, which are in order and distinct; rows that adjoin share a patch."""
        if len(slots) == 0:
            return Writes()
        known, size, header = self._slots, self._layout.row_bytes, self._layout.header_bytes
        first = np.flatnonzero(changes(slots) | changes(positions - np.arange(len(positions))))
        places = np.empty(len(first), PLACE)
        places["position"] = header + positions[first] * size
        places["size"] = np.diff(first, append=len(slots)) * size
        owners = slots[first]
        begins = np.flatnonzero(changes(owners))
        entities = owners[begins]
        heads = np.empty(len(entities), HEAD)
        heads["expected"] = header + known.stored_rows[entities] * size
        heads["header"] = header
        heads["patches"] = np.diff(begins, append=len(first))
        heads["ttl_ms"] = self._life_ms
        heads["renew_ms"] = known.renew_ms[entities]
        return Writes(
            tuple(map(known.keys.__getitem__, entities.tolist())),
            heads.tobytes(),
            known.headers[entities].tobytes(),
            places.tobytes(),
            self._arena.table[self._arena.base[slots] + positions].tobytes(),
        )

    def wholes(self, slots: Iterable[int]) -> Writes:
        """The entities written whole, but for those that neither have rows nor had any in the store."""
        return Writes.of(write for slot in slots if (write := self.whole(slot)) is not None)

    def whole(self, slot: int) -> StateWrite | None:
        """The entity written whole; None where it neither has rows nor had any in the store."""
        known, count = self._slots, int(self._arena.count[slot])
        stored = int(known.stored_rows[slot])
        value = b""
        if count:
            base = self._arena.base[slot]
            self._headers[slot] = header = self._header(slot)
            value = header + self._arena.table[base:base + count].tobytes()
        elif stored < 0:
            return None
        absent = stored < 0
        expected = 0 if absent else self._layout.header_bytes + stored * self._layout.row_bytes
        return StateWrite(
            known.keys[slot], expected, b"" if absent else known.headers[slot].tobytes(), self._life_ms, whole=value
        )

    def committed(self, slots: Index, committed_ms: int) -> None:
        """What was written of the slots, all of them, is in the store since then."""
        known = self._slots
        for slot, header in self._headers.items():
            known.headers[slot] = np.frombuffer(header, np.uint8)
        self.forget()
        counts = self._arena.count[slots]
        renewed = known.rewrite[slots] | (known.stored_rows[slots] < 0) | (committed_ms >= known.renew_ms[slots])
        known.renew_ms[slots[renewed]] = committed_ms + self._slack_ms
        known.stored_rows[slots] = np.where(counts > 0, counts, -1)
        known.rewrite[slots] = known.dirty[slots] = False

    def forget(self) -> None:
        """Nothing of what was written is in the store."""
        self._headers.clear()

    def _header(self, slot: int) -> bytes:
        """The slot's header as it would be written now; most of those written together are equal."""
        known = self._slots
        owner, horizon, frontiers = int(known.partition[slot]), int(known.horizon[slot]), known.frontiers[slot]
        meaning = (owner, horizon, frontiers.tobytes())
        if meaning != self._last_header[0]:
            self._last_header = (meaning, state.header(self._layout, owner, horizon, frontiers))
        return self._last_header[1]


def changes(ordered: Index) -> NDArray[np.bool_]:
    """(n,) where a value differs from the one before it; the first does."""
    different = np.empty(len(ordered), np.bool_)
    different[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=different[1:])
    return different
