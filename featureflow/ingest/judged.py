"""A batch on its way through the views of its source: what is decided about it, and the commits that it is cut into."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featureflow.ingest.claim import Stand
from featureflow.ingest.dead_letter import DeadLetter
from featureflow.ingest.order import Index
from featureflow.ingest.slab import Pending, Slab
from featureflow.kernel.events import Events
from featureflow.store.log.protocol import Batch
from featureflow.store.online.protocol import Committed, Refused, Track
from featureflow.store.online.writes import Writes


@dataclass
class Judged:
    """A decoded batch with everything decided about it. ``takes[view id]`` (n,): whether the view folds the event,
    of each view that the batch was read for.

    ``SourceViews`` changes it on its way: what has state in another partition, and what was counted before, is taken out of ``takes`` and
    goes into ``dead`` or ``duplicates``; ``slots`` are found; ``folded`` is filled and settled.
    """

    batch: Batch
    events: Events
    running_max_us: NDArray[np.int64]      # (n,) with each event
    takes: dict[str, NDArray[np.bool_]]
    late: dict[str, int]                   # view id -> events too old for it
    dead: list[DeadLetter]
    places: NDArray[np.intp]               # (n,) each event's place in the batch
    stand: Stand                           # where the batch begins
    duplicates: dict[str, int]             # view id -> events that it has counted once already
    slots: dict[str, list[Index]] = field(default_factory=dict)    # view id -> (n,) of the events that it folds, in each of its slabs
    folded: list[tuple[Slab, Pending | None]] = field(default_factory=list)    # what it has outstanding, since the last ``fold``

    def reach(self, stop: int) -> tuple[int, int]:
        """(offset, running maximum) once the events up to ``stop`` are committed."""
        to = int(self.events.offsets[stop]) if stop < len(self.events) else self.batch.next
        return to, int(self.running_max_us[stop - 1]) if stop else self.stand.max_time_us


@dataclass(frozen=True)
class Part:
    """What one commit of a batch holds: its events up to ``stop``, and what they change in its bucket."""

    stop: int
    writes: Writes
    rows: int                              # that they change


@dataclass
class Share:
    """What a batch means for some buckets that commit together: the commits that it is cut into, one after the other, how many were sent
    and how many applied."""

    tracks: tuple[Track, ...]              # all that stand where the batch begins, of one bucket or more
    start: int = 0                         # events of the batch that are committed past
    parts: list[Part] = field(default_factory=list)            # of the last ``fold``
    sent: int = 0
    times_ms: list[int] = field(default_factory=list)          # of those that were applied
    refused: Refused | None = None

    @property
    def part(self) -> Part | None:
        """The next one to send."""
        return self.parts[self.sent] if self.sent < len(self.parts) else None

    def settle(self, answer: Committed | Refused) -> None:
        """What became of the next one that was sent. Behind one that was refused none is applied."""
        if isinstance(answer, Committed):
            self.start = self.parts[len(self.times_ms)].stop
            self.times_ms.append(answer.committed_ms)
        elif self.refused is None or answer.reason == "unknown":
            self.refused = answer
