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
from featureflow.ingest.lifting import Lifting
from featureflow.ingest.order import Index, changes, in_order, lengths
from featureflow.ingest.slab import Slab
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
        known, layout = self._known, self._layout
        undecided = (known.stored_rows[slots[0]] < 0).nonzero()[0] if self._possible else chosen[:0]
        if not len(undecided):
            return None
        undecided = undecided[in_order(slots[0][undecided])]
        of, at = slots[0][undecided], chosen[undecided]
        first = changes(of).nonzero()[0]
        entities, counts = of[first], lengths(first, len(of))
        beside = [one[undecided[first]] for one in slots[1:]]
        stored = known.event_bytes[entities]
        new = stored == 0
        if new.any():
            fresh, begin = entities[new], at[first[new]]
            known.since_us[fresh], known.since_offset[fresh] = events.times_us[begin], events.offsets[begin]
        known.events_whole[entities] = new
        stays = counts <= limits.FEW_EVENTS
        stays &= new | (known.event_count[entities] < 2) | (self._as_rows(entities, beside) > stored)
        mine = stays.repeat(counts).nonzero()[0]
        whose = of[mine]
        data, sizes = event_form.encode(layout, events, at[mine], known.since_us[whose], known.since_offset[whose])
        added = np.zeros(len(entities), np.int64)
        encoded = stays.nonzero()[0]
        if len(encoded):
            ends = counts[encoded].cumsum()
            begins = ends - counts[encoded]
            added[encoded] = np.add.reduceat(sizes, begins)
            if sizes.max() > event_form.BYTES:
                stays[encoded] = np.maximum.reduceat(sizes, begins) <= event_form.BYTES
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
        kept = stays[encoded]
        if kept.all():
            return Staying(at[mine], whose, data, sizes) if len(mine) else None
        kept = kept.repeat(counts[encoded])
        return Staying(at[mine][kept], whose[kept], data[kept.repeat(sizes)], sizes[kept]) if kept.any() else None

    def _as_rows(self, entities: Index, beside: Sequence[Index]) -> Index:
        """Bytes of entities as rows and cells."""
        total: Index | int = 0
        for slab, slots in zip((self._rows, *self._cells), (entities, *beside), strict=True):
            count = slab.arena.count[slots]
            total = total + count * slab.layout.row_bytes + slab.layout.header_bytes * (count > 0)
        return np.asarray(total)

    def _fits(self, entities: Index, counts: Index, added: Index) -> NDArray[np.bool_]:
        known = self._known
        fits: NDArray[np.bool_] = (known.event_count[entities] + counts <= limits.FEW_EVENTS) & (
            HEADER_BYTES + known.body_bytes[entities] + added <= limits.FEW_EVENTS_BYTES
        )
        return fits

    def _compact(self, entities: Index, counts: Index, watermark_us: int) -> None:
        """Drop events that no window can hold any more, of those entities where that makes room."""
        known, (horizon, _) = self._known, rollup.frontiers(self._layout, watermark_us)
        old = ~event_form.alive(self._layout, known.since_us[entities], horizon)
        entities, counts = entities[old], counts[old]              # of the others, even the first is needed, and so most likely all
        if not len(entities):
            return
        bodies = list(map(known.bodies.__getitem__, entities.tolist()))
        kept = event_form.decode(
            self._layout, bodies, np.zeros(len(entities), np.int64), known.since_us[entities], known.since_offset[entities]
        )
        alive = event_form.alive(self._layout, kept.events.times_us, horizon)
        live = np.bincount(kept.of, alive, len(entities)).astype(np.int64)
        makes_room = (live < known.event_count[entities]) & (live + counts + ROOM <= limits.FEW_EVENTS)
        smaller = entities[makes_room]
        data, left = b"".join(bodies), list[list[bytes]]([] for _ in bodies)
        places = (column[alive].tolist() for column in (kept.of, kept.starts, kept.starts + kept.sizes))
        for value, begin, end in zip(*places, strict=True):
            left[value].append(data[begin:end])
        known.set_events(smaller, [b"".join(left[value]) for value in makes_room.nonzero()[0].tolist()])
        known.event_count[smaller], known.events_whole[smaller] = live[makes_room], True
        known.horizon[smaller] = np.maximum(known.horizon[smaller], horizon)

    def _lift(self, entities: Index, beside: Sequence[Index], lifted: NDArray[np.bool_], first: Index) -> None:
        """From its first event on, at the places ``first``, an entity is rows."""
        for slab, slots in zip((self._rows, *self._cells), (entities, *beside), strict=True):
            mine = lifted & (slab.arena.count[slots] > 0)
            order = np.argsort(slots[mine])
            slab.lifting = Lifting(slots[mine][order], first[mine][order])
            slab.known.rewrite[slots[mine]] = True
        self._known.drop_events(entities[lifted])

    def fold(self, staying: Staying, commit_of: Index, commits: int) -> list[tuple[Writes, int]]:
        """What each of so many commits writes, and of how many events. ``commit_of`` (n,) is the commit of each event of the batch."""
        known, slots, number = self._known, staying.slots, commit_of[staying.at]
        begins = changes(slots)
        firsts = begins.nonzero()[0]
        entities = slots[firsts]
        begins[1:] |= number[1:] != number[:-1]
        pairs = begins.nonzero()[0]                                # (entity, commit)
        whose, when = slots[pairs], number[pairs]
        grown = np.add.reduceat(staying.sizes, pairs)              # by what the commit adds
        ends = grown.cumsum()
        starts, leads = ends - grown, changes(whose)
        before = (known.body_bytes[entities] - starts[leads])[leads.cumsum() - 1] + starts + HEADER_BYTES
        heads, places = np.empty(len(pairs), HEAD), np.empty(len(pairs), PLACE)
        heads["expected"], heads["header"], heads["patches"] = before, HEADER_BYTES, 1
        heads["ttl_ms"], heads["renew_ms"] = self._rows.life_ms, known.renew_ms[whose]
        places["position"], places["size"] = before, grown
        data, edges = staying.data.tobytes(), ends.tolist()
        added = [data[begin:end] for begin, end in pairwise((0, *edges))]
        parts = added
        whole = (known.events_whole[whose] & leads).nonzero()[0]
        if not len(whole):
            expected = known.headers[whose, :HEADER_BYTES]
        else:
            fresh = whose[whole]
            old = known.headers[fresh, :HEADER_BYTES]
            known.headers[fresh, :HEADER_BYTES] = new = event_form.headers(
                self._layout, known.partition[fresh], known.horizon[fresh], known.since_us[fresh], known.since_offset[fresh]
            )
            expected = known.headers[whose, :HEADER_BYTES]
            expected[whole], stored = old, known.event_bytes[fresh]
            heads["expected"][whole], heads["header"][whole], heads["patches"][whole] = stored, HEADER_BYTES * (stored > 0), WHOLE
            heads["renew_ms"][known.events_whole[whose]] = 0       # after a whole value of the same batch too
            places["position"][whole], places["size"][whole] = 0, (before + grown)[whole]
            parts, fronts = added.copy(), new.tobytes()
            for i, (place, slot) in enumerate(zip(whole.tolist(), fresh.tolist(), strict=True)):
                parts[place] = fronts[i * HEADER_BYTES : (i + 1) * HEADER_BYTES] + known.bodies[slot] + added[place]
        known.add_events(entities, np.add.reduceat(staying.sizes, firsts), whose, added)
        known.event_count[entities] += lengths(firsts, len(slots))
        known.event_bytes[entities] = HEADER_BYTES + known.body_bytes[entities]
        keys = list(map(known.keys.__getitem__, whose.tolist()))
        if commits > 1:
            by_commit = in_order(when)
            heads, places, expected, when = heads[by_commit], places[by_commit], expected[by_commit], when[by_commit]
            listed = by_commit.tolist()
            keys, parts = [keys[i] for i in listed], [parts[i] for i in listed]
        checked = heads["header"] > 0
        counts = np.bincount(number, minlength=commits).tolist()
        bounds = when.searchsorted(np.arange(commits + 1)).tolist()
        return [
            (
                Writes(
                    tuple(keys[k:k1]), heads[k:k1].tobytes(), expected[k:k1][checked[k:k1]].tobytes(), places[k:k1].tobytes(),
                    b"".join(parts[k:k1]),
                ),
                counts[i],
            )
            for i, (k, k1) in enumerate(pairwise(bounds))
        ]  # fmt: skip
