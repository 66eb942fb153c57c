"""Which entities of a batch stay few events in the store, and what is written of them.

In memory they are rows as all others are, so that nothing else of the worker differs; their slabs write nothing of them. A commit appends
events to a value, or writes it whole where it is new, or events of it that no window can hold any more go. An entity that gets too many
events, or would be no larger as rows, is written as rows by the first commit that touches it, cells and all, and stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.ingest.arena import spans
from featureflow.ingest.slab import Lifting, Slab
from featureflow.ingest.slots import Index
from featureflow.ingest.state_writes import changes
from featureflow.kernel import event_form, rollup
from featureflow.kernel.events import Events
from featureflow.store.online.writes import HEAD, PLACE, WHOLE, Writes

Bytes = NDArray[np.uint8]

HEADER_BYTES = event_form.HEADER.itemsize
ROOM = 3                                   # events that a value has room for, at least, once those that are dead have gone


@dataclass(frozen=True)
class Staying:
    """Events of entities that stay in this form: k of them, by entity, then in order."""

    at: Index                              # (k,) places in the batch
    slots: Index                           # (k,)
    data: Bytes
    sizes: Index                           # (k,) of each event's bytes in ``data``


class EventForm:
    """Of one view and source: its slab of rows, and those of its cells."""

    def __init__(self, rows: Slab, cells: Sequence[Slab]) -> None:
        self._rows, self._cells, self._known = rows, cells, rows.known
        self._layout = rows.layout
        self._possible = event_form.takes(rows.layout)

    def settle(self, events: Events, chosen: Index, slots: Sequence[Index], watermark_us: int) -> Staying | None:
        """Before the events at the places ``chosen`` are placed in the slabs: what of each entity becomes. ``slots`` of each slab (c,)."""
        for slab in (self._rows, *self._cells):
            slab.lifting = None
        undecided = np.flatnonzero(self._known.stored_rows[slots[0]] < 0) if self._possible else chosen[:0]
        if not len(undecided):
            return None
        known, layout = self._known, self._layout
        undecided = undecided[np.argsort(slots[0][undecided], kind="stable")]
        of = slots[0][undecided]
        first = np.flatnonzero(changes(of))
        entities, counts = of[first], np.diff(first, append=len(of))
        beside = [one[undecided[first]] for one in slots[1:]]
        at = chosen[undecided]
        new = known.event_bytes[entities] == 0
        fresh = entities[new]
        known.since_us[fresh], known.since_offset[fresh] = events.times_us[at[first[new]]], events.offsets[at[first[new]]]
        known.events_whole[entities] = new
        stays = counts <= limits.FEW_EVENTS
        stays &= new | (known.event_count[entities] < 2) | (self._as_rows(entities, beside) > known.event_bytes[entities])
        mine = np.repeat(stays, counts)
        data, sizes = event_form.encode(layout, events, at[mine], known.since_us[of[mine]], known.since_offset[of[mine]])
        added, widest = np.zeros(len(entities), np.int64), np.zeros(len(entities), np.int64)
        if len(sizes):
            begins = (np.cumsum(counts[stays]) - counts[stays])
            added[stays], widest[stays] = np.add.reduceat(sizes, begins), np.maximum.reduceat(sizes, begins)
        stays &= widest <= event_form.BYTES
        over = stays & ~self._fits(entities, counts, added)
        if over.any():
            dead = over & ~new
            self._compact(entities[dead], counts[dead], watermark_us)
            stays[over] = self._fits(entities[over], counts[over], added[over])
        known.as_events[entities] = stays
        for slab, others in zip(self._cells, beside, strict=True):
            slab.known.as_events[others] = stays
        if not stays.all():
            self._lift(entities, beside, ~stays, at[first])
        kept = np.repeat(stays, counts)
        if len(sizes) and kept[mine].all():
            return Staying(at[mine], of[mine], data, sizes)
        if not kept.any():
            return None
        return Staying(at[kept], of[kept], data[np.repeat(kept[mine], sizes)], sizes[kept[mine]])

    def _as_rows(self, entities: Index, beside: Sequence[Index]) -> Index:
        """Bytes of entities as rows and cells."""
        total = np.zeros(len(entities), np.int64)
        for slab, slots in zip((self._rows, *self._cells), (entities, *beside), strict=True):
            count = slab.arena.count[slots]
            total += np.where(count > 0, slab.layout.header_bytes + count * slab.layout.row_bytes, 0)
        return total

    def _fits(self, entities: Index, counts: Index, added: Index) -> NDArray[np.bool_]:
        known = self._known
        fits: NDArray[np.bool_] = (known.event_count[entities] + counts <= limits.FEW_EVENTS) & (
            HEADER_BYTES + known.events.count[entities] + added <= limits.FEW_EVENTS_BYTES
        )
        return fits

    def _compact(self, entities: Index, counts: Index, watermark_us: int) -> None:
        """Drop events that no window can hold any more, of those entities where that makes room."""
        known, (horizon, _) = self._known, rollup.frontiers(self._layout, watermark_us)
        old = ~event_form.alive(self._layout, known.since_us[entities], horizon)
        entities, counts = entities[old], counts[old]              # of the others, even the first is needed, and so most likely all
        if not len(entities):
            return
        where, _ = known.events.where(entities)
        ends = np.cumsum(known.events.count[entities])
        data = known.events.table[where, 0]
        bodies = [body.tobytes() for body in np.split(data, ends[:-1])]
        kept = event_form.decode(
            self._layout, bodies, np.zeros(len(entities), np.int64), known.since_us[entities], known.since_offset[entities]
        )
        alive = event_form.alive(self._layout, kept.events.times_us, horizon)
        live = np.bincount(kept.of, alive, len(entities)).astype(np.int64)
        makes_room = (live < known.event_count[entities]) & (live + counts + ROOM <= limits.FEW_EVENTS)
        smaller = entities[makes_room]
        staying = np.repeat(alive & makes_room[kept.of], kept.sizes)
        left = np.bincount(kept.of, alive * kept.sizes, len(entities)).astype(np.int64)
        known.events.replace(smaller, data[staying][:, np.newaxis], left[makes_room])
        known.event_count[smaller], known.events_whole[smaller] = live[makes_room], True
        known.horizon[smaller] = np.maximum(known.horizon[smaller], horizon)

    def _lift(self, entities: Index, beside: Sequence[Index], lifted: NDArray[np.bool_], first: Index) -> None:
        """From its first event on, at the places ``first``, an entity is rows."""
        for slab, slots in zip((self._rows, *self._cells), (entities, *beside), strict=True):
            mine = lifted & (slab.arena.count[slots] > 0)
            order = np.argsort(slots[mine])
            slab.lifting = Lifting(slots[mine][order], first[mine][order])
            slab.known.rewrite[slots[mine]] = True
        self._known.events.free(entities[lifted])

    def fold(self, staying: Staying, commit_of: Index, commits: int) -> list[tuple[Writes, int]]:
        """What each of so many commits writes, and of how many events. ``commit_of`` (n,) is the commit of each event of the batch."""
        known, slots, number = self._known, staying.slots, commit_of[staying.at]
        begins = changes(slots)
        firsts = np.flatnonzero(begins)
        entities = slots[firsts]
        begins[1:] |= number[1:] != number[:-1]
        pairs = np.flatnonzero(begins)                             # (entity, commit)
        whose, when = slots[pairs], number[pairs]
        lengths = np.add.reduceat(staying.sizes, pairs)            # of what the commit adds
        starts = np.cumsum(lengths) - lengths
        leads = changes(whose)
        rank = np.cumsum(leads) - 1
        held = known.events.count[entities]
        before = HEADER_BYTES + held[rank] + starts - starts[leads][rank]
        whole = known.events_whole[whose] & leads
        stored, old = known.event_bytes[whose], known.headers[whose, :HEADER_BYTES]
        fresh = entities[known.events_whole[entities]]
        known.headers[fresh, :HEADER_BYTES] = event_form.headers(
            self._layout, known.partition[fresh], known.horizon[fresh], known.since_us[fresh], known.since_offset[fresh]
        )
        heads, places = np.empty(len(pairs), HEAD), np.empty(len(pairs), PLACE)
        heads["expected"] = np.where(whole, stored, before)
        heads["header"] = np.where(whole & (stored == 0), 0, HEADER_BYTES)
        heads["patches"] = np.where(whole, WHOLE, 1)
        heads["ttl_ms"] = self._rows.life_ms
        heads["renew_ms"] = np.where(known.events_whole[whose], 0, known.renew_ms[whose])   # after a whole value of the same batch too
        places["position"] = np.where(whole, 0, before)
        places["size"] = np.where(whole, before, 0) + lengths
        expected = np.where(whole[:, np.newaxis], old, known.headers[whose, :HEADER_BYTES])
        by_commit = np.argsort(when, kind="stable")
        heads, places, whose = heads[by_commit], places[by_commit], whose[by_commit]
        ends = np.cumsum(places["size"].astype(np.int64))
        at = np.empty(len(pairs), np.int64)                        # where the bytes of each begin
        at[by_commit] = ends - places["size"]
        data = np.empty(int(ends[-1]), np.uint8)
        data[spans(at + np.where(whole, before, 0), lengths)] = staying.data
        new = np.flatnonzero(whole)
        if len(new):
            mine = slots[pairs[new]]
            kept = known.events.count[mine]
            data[spans(at[new], np.full(len(new), HEADER_BYTES))] = known.headers[mine, :HEADER_BYTES].ravel()
            data[spans(at[new] + HEADER_BYTES, kept)] = known.events.table[spans(known.events.base[mine], kept), 0]
        added = np.add.reduceat(staying.sizes, firsts)
        known.add_events(entities, added, staying.data)
        known.event_count[entities] += np.diff(firsts, append=len(slots))
        known.event_bytes[entities] = HEADER_BYTES + held + added
        expected, checked = expected[by_commit], heads["header"] > 0
        keys = tuple(map(known.keys.__getitem__, whose.tolist()))
        counts = np.bincount(number, minlength=commits).tolist()
        bounds = np.searchsorted(when[by_commit], np.arange(commits + 1)).tolist()
        edges = np.concatenate(([0], ends))[bounds].tolist()
        return [
            (
                Writes(
                    keys[k:k1], heads[k:k1].tobytes(), expected[k:k1][checked[k:k1]].tobytes(), places[k:k1].tobytes(),
                    data[edges[i] : edges[i + 1]].tobytes(),
                ),
                counts[i],
            )
            for i, (k, k1) in enumerate(pairwise(bounds))
        ]  # fmt: skip
