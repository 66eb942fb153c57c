"""All views of one source: their slabs, and the way of a batch of that source into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.define.spec import Project, Source
from featureflow.ingest.claim import Owned, Stand
from featureflow.ingest.dead_letter import DeadLetter, letters
from featureflow.ingest.decode import Decoder
from featureflow.ingest.slab import Slab, plain
from featureflow.ingest.slots import Id
from featureflow.kernel import accept
from featureflow.kernel.columns import Layout
from featureflow.kernel.events import Events
from featureflow.store.keys import Keys
from featureflow.store.log.protocol import Batch
from featureflow.store.online.protocol import Advance, Commit, OnlineStore
from featureflow.store.online.writes import Writes

READ_KEYS = 500                            # in one MGET: a longer one holds every other reader up
SMALLEST_CHUNK = 32                        # events; below it a chunk is not worth a fold


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


class SourceViews:
    """``commit_rows`` bounds the rows that one commit changes, ``slab_bytes`` the memory of all slabs together."""

    def __init__(self, project: Project, source: Source, *, slab_bytes: int, commit_rows: int = limits.COMMIT_ROWS) -> None:
        self.source = source
        self.layouts = {view.id: Layout.of(view, source) for view in project.views_of(source.name)}
        self.view_ids = tuple(self.layouts)
        keys = Keys(project.name)
        self._slabs = {view_id: Slab(layout, keys, slab_bytes // len(self.layouts)) for view_id, layout in self.layouts.items()}
        fields = {name for layout in self.layouts.values() for name in layout.fields}
        self._decoder = Decoder(source, columns=sorted(fields))
        self._commit_rows = commit_rows
        self._extents: list[tuple[str, int]] = []                  # of the last commit: view id, number of its writes

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
            takes[view_id] = verdict.accepted & ~too_late & _present(events.columns[layout.key_field])
        return Judged(batch, events, verdict.running_max_us, takes, late, dead, decoded.places)

    def load(self, online: OnlineStore, judged: Judged) -> None:
        """Bring every entity of the batch that is not cached into its slab, as the store holds it under our token.

        An event whose entity is folded from another partition becomes a dead letter of the view: its producer does not partition by the
        field that the source is keyed by, and rows of two partitions in one state would have no order.
        """
        partition = judged.batch.partition
        for view_id, takes in judged.takes.items():
            slab, chosen = self._slabs[view_id], np.flatnonzero(takes)
            ids = plain(judged.events.columns[slab.layout.key_field][chosen])
            absent, strangers = slab.absent(partition, ids), dict[Id, int]()
            for start in range(0, len(absent), READ_KEYS):
                some = absent[start : start + READ_KEYS]
                strangers |= slab.load(partition, some, online.read([slab.key(partition, entity_id) for entity_id in some]))
            if strangers:
                for at, entity_id in zip(chosen.tolist(), ids, strict=True):
                    if (owner := strangers.get(entity_id)) is not None:
                        takes[at] = False
                        detail = (
                            f"{self.source.name} is keyed by {self.source.keyed_by!r}, and the state of {entity_id!r} is folded from "
                            f"partition {owner}: this event's producer partitions by something else"
                        )
                        judged.dead.extend(letters(judged.batch, [int(judged.places[at])], "wrong_partition", detail, view_id))

    def fold(self, judged: Judged, start: int) -> int:
        """Fold events from ``start`` on, as many as one commit may carry; where the next commit starts."""
        n, events, partition = len(judged.events), judged.events, judged.batch.partition
        while start < n:
            # an event changes at most one row of each view
            size = (self._commit_rows - self.rows_touched) // len(judged.takes)
            if size < min(SMALLEST_CHUNK, self._commit_rows // len(judged.takes)):
                break
            stop = min(n, start + max(size, 1))
            for view_id, takes in judged.takes.items():
                chosen = start + np.flatnonzero(takes[start:stop])
                if len(chosen):
                    chunk = events if len(chosen) == n else events.take(chosen)
                    self._slabs[view_id].fold(partition, chunk)
            start = stop
        return start

    def commit(self, owned: Owned, stand: Stand, to_offset: int, max_time_us: int) -> Commit:
        """Everything folded since the last commit, for the views that the batch was read for."""
        advances = tuple(Advance(view_id, owned.offsets[view_id], to_offset) for view_id in stand.view_ids)
        writes = Writes()
        self._extents = []
        for view_id, slab in self._slabs.items():
            mine = slab.writes(max_time_us)
            self._extents.append((view_id, len(mine)))
            writes += mine
        complete_ms = owned.ends.complete_ms(to_offset)
        return Commit(self.source.name, owned.partition.partition, owned.token, advances, max_time_us, writes, complete_ms)

    def whole(self, writes: Writes, indices: Sequence[int]) -> Writes:
        """The writes of the last ``commit`` with those at ``indices`` written whole, as keys that are absent."""
        each, answer = list(writes), Writes()
        start = 0
        for view_id, count in self._extents:
            mine = tuple(i - start for i in indices if start <= i < start + count)
            answer += self._slabs[view_id].whole(Writes.of(each[start : start + count]), mine)
            start += count
        return answer

    @property
    def rows_touched(self) -> int:
        """Rows folded into since the last commit."""
        return sum(slab.rows_touched for slab in self._slabs.values())

    def committed(self, committed_ms: int) -> None:
        """The last ``commit`` was applied, at this moment of the store's clock."""
        for slab in self._slabs.values():
            slab.committed(committed_ms)

    def evict(self) -> None:
        """Forget entities until the slabs are within their memory again."""
        for slab in self._slabs.values():
            slab.evict()

    def drop(self, partition: int) -> None:
        """Forget everything of a partition: its rows live and die with its token."""
        for slab in self._slabs.values():
            slab.drop(partition)


def _present(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a key column holds an id: not None, not NaN."""
    nothing: Any = None
    present: NDArray[np.bool_] = np.not_equal(column, nothing) if column.dtype == object else ~np.isnan(column)
    return present
