"""A polled batch to events and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Source
from featureflow.ingest.dead_letter import DeadLetter
from featureflow.kernel import decode
from featureflow.kernel.events import Events
from featureflow.kernel.record import Records
from featureflow.store.log.protocol import Batch


@dataclass(frozen=True)
class Decoded:
    """``events`` in offset order; ``places`` (n,) are their places in the batch; ``dead`` are all its other records."""

    events: Events
    dead: list[DeadLetter]
    places: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Recalled(Batch):
    """Records that history holds: events already. Their bytes are gone, so a letter about one of them has no value."""

    events: Events

    def until(self, offset: int) -> Batch:
        """Its events before ``offset``, which is where it ends then."""
        n = int(np.searchsorted(self.offsets, offset))
        return super(Recalled, replace(self, events=self.events.take(np.arange(n)))).until(offset)


class Decoder:
    """Decodes one source's batches. ``columns``: the fields that somebody reads; all are checked whichever are named. ``records``
    reads what is not JSON."""

    def __init__(self, source: Source, columns: Sequence[str] | None = None, records: Records | None = None) -> None:
        self._decoder = decode.Decoder(source, columns, records)

    def decode(self, batch: Batch) -> Decoded:
        """Never raises for a record's sake: what is not an event becomes a dead letter with its reason and position.

        Raises UnavailableError where a schema registry is needed and does not answer.
        """
        if isinstance(batch, Recalled):
            return Decoded(batch.events, [], np.arange(len(batch)))
        decoded = batch.decoded_by(self._decoder)
        dead = [
            DeadLetter(batch.source, batch.partition, int(batch.offsets[r.index]), r.reason, r.detail, batch.values[r.index])
            for r in decoded.refused
        ]
        return Decoded(decoded.events, dead, decoded.kept)
