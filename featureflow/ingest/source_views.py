"""All views of one source: their slabs, and the way of a batch of that source into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.define.spec import Project, Source
from featureflow.ingest.cell_slab import CellSlab
from featureflow.ingest.claim import Owned, Stand
from featureflow.ingest.cuts import cuts
from featureflow.ingest.dead_letter import DeadLetter, letters
from featureflow.ingest.decode import Decoder
from featureflow.ingest.slab import Placed, Slab, plain
from featureflow.ingest.slots import Index
from featureflow.kernel import accept
from featureflow.kernel.columns import CellLayout, Layout
from featureflow.kernel.events import Events
from featureflow.kernel.record import Records
from featureflow.store.keys import Keys
from featureflow.store.log.protocol import Batch
from featureflow.store.online.protocol import Advance, Commit, OnlineStore
from featureflow.store.online.writes import Writes

READ_KEYS = 500                            # in one MGET: a longer one holds every other reader up


@dataclass(frozen=True)
class Judged:
    """A decoded batch with everything decided about it. ``takes[view id]`` (n,): whether the view folds the event,
    of each view that the batch was read for."""

    batch: Batch
    events: Events
    running_max_us: NDArray[np.int64]      # (n,) with each event
    takes: dict[str, NDArray[np.bool_]]
    late: dict[str, int]                   # view id -> events too old for it
    dead: list[DeadLetter]
    places: NDArray[np.intp]               # (n,) each event's place in the batch
    slots: dict[str, list[Index]] = field(default_factory=dict)    # view id -> (n,) of the events that it folds, in each of its slabs

    def reach(self, stop: int, before_us: int, stand: Stand) -> tuple[int, int]:
        """(offset, running maximum) once the events up to ``stop`` are committed; ``before_us`` is the maximum where there are none."""
        events = self.events
        to = int(events.offsets[stop]) if stop < len(events) else self.batch.next
        if to == stand.until and stand.joined_max_us is not None:      # those there may have seen events that neither log nor history has
            return to, stand.joined_max_us
        return to, int(self.running_max_us[stop - 1]) if stop else before_us


@dataclass(frozen=True)
class Part:
    """What one commit of a batch holds: its events up to ``stop``, and what they change."""

    stop: int
    writes: Writes
    rows: int                              # that they change


class SourceViews:
    """``commit_rows`` bounds the rows that one commit changes, ``slab_bytes`` the memory of all slabs together."""

    def __init__(
        self, project: Project, source: Source, *, slab_bytes: int, commit_rows: int = limits.COMMIT_ROWS, records: Records | None = None
    ) -> None:
        self.source = source
        self.layouts = {view.id: Layout.of(view, source) for view in project.views_of(source.name)}
        self.view_ids = tuple(self.layouts)
        keys = Keys(project.name)
        share = slab_bytes // max(1, sum(len(layout.all) for layout in self.layouts.values()))
        self._slabs = {
            view_id: tuple((CellSlab if isinstance(one, CellLayout) else Slab)(one, keys, share) for one in layout.all)
            for view_id, layout in self.layouts.items()
        }
        self._each = [(view_id, slab) for view_id, slabs in self._slabs.items() for slab in slabs]
        fields = {name for layout in self.layouts.values() for name in layout.fields}
        self.columns = tuple(sorted(fields))
        self._decoder = Decoder(source, columns=self.columns, records=records)
        self._commit_rows = commit_rows

    def judge(self, batch: Batch, stand: Stand) -> Judged:
        """Decode the batch, which begins where these views stand, and decide on each record: a pure function of the log up to it."""
        decoded = self._decoder.decode(batch)
        events, dead = decoded.events, decoded.dead
        verdict = accept.judge(events, stand.max_time_us, self.source)
        if not verdict.accepted.all():
            future = decoded.places[~verdict.accepted]
            dead = dead + letters(batch, future.tolist(), "future", "the event time is too far ahead of the log")
        takes, late = {}, {}
        for view_id in stand.view_ids:
            layout = self.layouts[view_id]
            too_late = accept.late(layout, events, verdict)
            if too_late.any():
                late[view_id] = int(too_late.sum())
                dead = dead + letters(batch, decoded.places[too_late].tolist(), "late", "older than the longest window", view_id)
            taken = verdict.accepted & ~too_late & _present(events.columns[layout.key_field])
            if layout.widths and (wide := accept.too_wide(layout, events, taken)).any():
                detail = "a string is longer than the width= that this view keeps of it"
                dead = dead + letters(batch, decoded.places[wide].tolist(), "too_wide", detail, view_id)
                taken &= ~wide
            takes[view_id] = taken
        return Judged(batch, events, verdict.running_max_us, takes, late, dead, decoded.places)

    def load(self, online: OnlineStore, judged: Judged) -> None:
        """Find every entity of the batch, and bring those that are not cached into their slab, as the store holds them under our token.

        An event whose entity is folded from another partition becomes a dead letter of the view: its producer does not partition by the
        field that the source is keyed by, and rows of two partitions in one state would have no order.
        """
        partition = judged.batch.partition
        judged.slots.clear()               # of an earlier call, before keys had expired
        for view_id, slab in self._each:
            takes = judged.takes.get(view_id)
            if takes is None:
                continue
            chosen = np.flatnonzero(takes)
            slab.evict()
            column = judged.events.columns[slab.layout.key_field]
            ids = plain(column if len(chosen) == len(column) else column[chosen])
            slots = slab.find(partition, ids)
            absent = list(dict.fromkeys(ids[i] for i in np.flatnonzero(slots < 0).tolist()))
            for start in range(0, len(absent), READ_KEYS):
                some = absent[start : start + READ_KEYS]
                strangers = slab.load(partition, some, online.read([slab.key(partition, entity_id) for entity_id in some]))
                for entity_id, owner in strangers.items():
                    for at in chosen[[other == entity_id for other in ids]].tolist():
                        takes[at] = False
                        detail = (
                            f"{self.source.name} is keyed by {self.source.keyed_by!r}, and the state of {entity_id!r} is folded from "
                            f"partition {owner}: this event's producer partitions by something else"
                        )
                        judged.dead.extend(letters(judged.batch, [int(judged.places[at])], "wrong_partition", detail, view_id))
            if absent:
                slots = slab.find(partition, ids)
            everywhere = np.full(len(takes), -1, np.int64)
            everywhere[chosen] = slots
            judged.slots.setdefault(view_id, []).append(everywhere)

    def fold(self, judged: Judged, start: int, watermark_us: int) -> list[Part]:
        """Fold the events from ``start`` on, cut into as many commits as they need: at least one.

        ``watermark_us`` is the partition's running maximum before them.
        """
        n, partition = len(judged.events), judged.batch.partition
        placed: list[tuple[Slab, Placed]] = []
        for view_id, takes in judged.takes.items():
            chosen = start + np.flatnonzero(takes[start:])
            if len(chosen):
                for slab, slots in zip(self._slabs[view_id], judged.slots[view_id], strict=True):
                    one = slab.place(partition, judged.events, chosen, slots[chosen], watermark_us)
                    if len(one.slots):
                        placed.append((slab, one))
        ends = cuts(
            [before for _, one in placed for before in one.before], [one.weights for _, one in placed], start, n,
            rows=self._commit_rows, rewritten=limits.ROLL_UP_ROWS,
        )
        commit_of = np.searchsorted(ends, np.arange(n), side="right")
        writes, rows = [Writes()] * len(ends), [0] * len(ends)
        for slab, one in placed:
            for i, (mine, count) in enumerate(slab.fold(one, commit_of, len(ends))):
                writes[i] += mine
                rows[i] += count
        return list(map(Part, ends, writes, rows))

    def commit(self, owned: Owned, stand: Stand, from_offset: int, to_offset: int, max_time_us: int, writes: Writes) -> Commit:
        """Of the views that a batch was read for."""
        advances = tuple(Advance(view_id, from_offset, to_offset) for view_id in stand.view_ids)
        complete_ms = owned.ends.complete_ms(to_offset)
        return Commit(self.source.name, owned.partition.partition, owned.token, advances, max_time_us, writes, complete_ms)

    def committed(self, times_ms: Sequence[int]) -> None:
        """The first so many parts of the last ``fold`` were applied, each at that moment of the store's clock. The others are forgotten."""
        for _, slab in self._each:
            slab.committed(times_ms)

    def drop(self, partition: int) -> None:
        """Forget everything of a partition: its rows live and die with its token."""
        for _, slab in self._each:
            slab.drop(partition)


def _present(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a key column holds an id: not None, not NaN."""
    nothing: Any = None
    present: NDArray[np.bool_] = np.not_equal(column, nothing) if column.dtype == object else ~np.isnan(column)
    return present
