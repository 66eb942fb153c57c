"""Events that the log has deleted, read from history in their place.

History holds every record that was an event, with its offset and the log's timestamp. So what is folded from it is what would
have been folded from the log, to the bit; the records that were none are absent here, and were put aside when they were first read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from featureflow import limits
from featureflow.define.spec import Source
from featureflow.errors import OffsetOutOfRangeError
from featureflow.ingest.decode import Recalled
from featureflow.kernel.events import Events
from featureflow.store.history.protocol import Extent, HistoryStore
from featureflow.store.log.protocol import Batch, Partition

NOTHING = Extent(0, 0)


class Backfill:
    """``sources``: by name, with the fields that somebody reads. ``history`` None: there is none to read from."""

    def __init__(self, history: HistoryStore | None, sources: Mapping[str, tuple[Source, Sequence[str]]]) -> None:
        self._history, self._sources = history, sources

    def extent(self, partition: Partition) -> Extent:
        """The offsets that history holds of the partition. Raises UnavailableError."""
        if self._history is None:
            return NOTHING
        return self._history.extents(partition.source).get(partition.partition, NOTHING)

    def read(self, partition: Partition, first: int, until: int) -> Batch:
        """The next events from ``first`` on, as many as a slice of the past may have, none at or after ``until``.

        Raises UnavailableError, and OffsetOutOfRangeError where history does not hold every offset up to there.
        """
        source, columns = self._sources[partition.source]
        extent = self.extent(partition)
        if self._history is None or not extent.first <= first <= until <= extent.next:
            raise OffsetOutOfRangeError(
                f"{partition.source}/{partition.partition}: offsets {first} to {until} are to be read from history, which holds "
                f"{extent.first} to {extent.next}"
            )
        pages = self._history.scan(
            source,
            partition=partition.partition,
            columns=columns,
            from_offset=first,
            to_offset=until,
            page_rows=limits.PAST_RECORDS,
        )
        page = next(pages, None)
        if page is None:                   # none of the records there was an event
            none = np.zeros(0, np.int64)
            return Batch(partition.source, partition.partition, first, until, none, none, [], [])
        return _recalled(partition, first, page.next, page.events)


def _recalled(partition: Partition, first: int, following: int, events: Events) -> Recalled:
    kind: Literal["append", "create"] = "append" if events.append_time else "create"
    nothing: list[bytes | None] = [None] * len(events)
    return Recalled(
        partition.source, partition.partition, first, following, events.offsets, events.timestamps_us, nothing, nothing, kind, events=events
    )
