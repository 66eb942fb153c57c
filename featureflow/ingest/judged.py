"""A batch on its way through the views of its source, and what is decided about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featureflow.ingest.dead_letter import DeadLetter
from featureflow.ingest.order import Index
from featureflow.ingest.owned import Stand
from featureflow.ingest.pending import Pending
from featureflow.ingest.slab import Slab
from featureflow.kernel.events import Events
from featureflow.store.log.protocol import Batch


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
