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
from featureflow.ingest.decode import Decoded
from featureflow.kernel.events import Events
from featureflow.store.history.protocol import Extent, HistoryStore
from featureflow.store.log.protocol import Batch, Partition


class Backfill:
    """``columns``: by source, the fields that its views read."""

    def __init__(self, history: HistoryStore, sources: Sequence[Source], columns: Mapping[str, Sequence[str]]) -> None:
        self._history, self._columns = history, columns
        self._sources = {source.name: source for source in sources}

    def extent(self, partition: Partition) -> Extent:
        """The offsets that history holds of the partition; none where it was never written. Raises UnavailableError."""
        return self._history.extents(partition.source).get(partition.partition, Extent(0, 0))

    def read(self, partition: Partition, first: int, until: int) -> Decoded:
        """The next events at or after ``first``, as many as a slice of the past may have, none at or after ``until``.

        Raises UnavailableError, and OffsetOutOfRangeError where history does not hold every offset up to there.
        """
        extent = self.extent(partition)
        if not (extent.first <= first and until <= extent.next):
            raise OffsetOutOfRangeError(lacking(partition, first, until, extent))
        source = self._sources[partition.source]
        pages = self._history.scan(
            source,
            partition=partition.partition,
            columns=self._columns[source.name],
            from_offset=first,
            to_offset=until,
            page_rows=limits.PAST_RECORDS,
        )
        page = next(pages, None)
        if page is None:                   # none of the records there was an event
            return _decoded(partition, first, until, _no_events(partition.partition, source, self._columns[source.name]))
        return _decoded(partition, first, page.next, page.events)


def lacking(partition: Partition, first: int, until: int, extent: Extent) -> str:
    """What is said of events that are neither in the log nor in history."""
    place = f"{partition.source}/{partition.partition}"
    held = f"offsets {extent.first} to {extent.next}" if extent.next > extent.first else "nothing of it"
    return f"{place}: the log has deleted offsets {first} to {until}, and history holds {held}"


def _decoded(partition: Partition, first: int, following: int, events: Events) -> Decoded:
    """As if the records had been read; their bytes are gone, so a letter about one of them has no value."""
    n = len(events)
    kind: Literal["append", "create"] = "append" if events.append_time else "create"
    batch = Batch(
        partition.source, partition.partition, first, following, events.offsets, events.timestamps_us, [None] * n, [None] * n, kind
    )
    return Decoded(batch, events, [], np.arange(n))


def _no_events(partition: int, source: Source, columns: Sequence[str]) -> Events:
    none = np.zeros(0, np.int64)
    return Events(
        partition, none, none, none,
        {name: np.zeros(0, object if source.by_name[name].type == "str" else np.float64) for name in columns},
    )  # fmt: skip
