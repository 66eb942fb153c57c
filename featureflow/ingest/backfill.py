"""Events that the log has deleted, read from history in their place.

History holds every record that was an event, with its offset and the log's timestamp. So what is folded from it is what would
have been folded from the log, to the bit; the records that were none are absent here, and were put aside when they were first read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from featureflow import limits
from featureflow.backoff import Backoff
from featureflow.clock import Clock
from featureflow.define.spec import Source
from featureflow.errors import HistoryAwayError, OffsetOutOfRangeError, UnavailableError
from featureflow.ingest.decode import Recalled
from featureflow.ingest.past import a_slice
from featureflow.kernel.events import Events
from featureflow.store.history.protocol import Extent, HistoryStore
from featureflow.store.history.read_again import check_read_again
from featureflow.store.log.protocol import Batch, Partition

NOTHING = Extent(0, 0)
FIRST_WAIT_US, LONGEST_WAIT_US = 1_000_000, 30_000_000    # an attempt may take time-outs, and the present waits meanwhile


@dataclass(frozen=True)
class Wanted:
    """Offsets ``first`` to ``until`` of a partition, which the log has deleted. ``waiting``: it follows the log only after them."""

    first: int
    until: int
    waiting: bool


class Backfill:
    """``sources``: by name, with the fields that somebody reads. ``history`` None: there is none to read from. ``records``: at most, in
    a slice."""

    def __init__(
        self, history: HistoryStore | None, sources: Mapping[str, tuple[Source, Sequence[str]]], clock: Clock,
        records: int = limits.POLL_RECORDS,
    ) -> None:
        self._history, self._sources, self._records = history, sources, records
        self._backoff = Backoff(clock, FIRST_WAIT_US, LONGEST_WAIT_US)
        self._served: dict[Partition, int] = {}            # slices given, so that partitions take turns

    def extent(self, partition: Partition) -> Extent:
        """The offsets that history holds of the partition. Raises HistoryAwayError."""
        if self._history is None:
            return NOTHING
        try:
            return self._history.extents(partition.source).get(partition.partition, NOTHING)
        except UnavailableError as error:
            raise HistoryAwayError(str(error)) from error

    @property
    def away(self) -> bool:
        """Whether history was away, and it is too early to ask it again."""
        return self._backoff.waiting

    def read(self, wanted: Mapping[Partition, Wanted]) -> Batch | None:
        """A slice for one of the partitions: those that wait first, and each in its turn.

        Raises HistoryAwayError, and OffsetOutOfRangeError where history does not hold every offset that is wanted.
        """
        if not wanted or self.away:
            return None
        partition = min(wanted, key=lambda p: (not wanted[p].waiting, self._served.get(p, 0)))
        self._served[partition] = self._served.get(partition, 0) + 1
        try:
            batch = self._slice(partition, wanted[partition])
        except UnavailableError as error:
            self._backoff.failed()
            raise HistoryAwayError(str(error)) from error
        self._backoff.succeeded()
        return batch

    def _slice(self, partition: Partition, wanted: Wanted) -> Batch:
        source, columns = self._sources[partition.source]
        place, extent = f"{partition.source}/{partition.partition}", self.extent(partition)
        if self._history is None or not extent.first <= wanted.first <= wanted.until <= extent.next:
            raise OffsetOutOfRangeError(
                f"{place}: offsets {wanted.first} to {wanted.until} are to be read from history, which holds "
                f"{extent.first} to {extent.next}"
            )
        check_read_again(self._history, source, partition.partition, wanted.until)     # an event would be passed by, and never counted
        pages = self._history.scan(
            source,
            partition=partition.partition,
            columns=columns,
            from_offset=wanted.first,
            to_offset=wanted.until,
            page_rows=a_slice(self._records),
            by=(source,),                  # as whoever folds the log would
        )
        page = next(pages, None)
        if page is None:                   # none of the records there was an event
            none = np.zeros(0, np.int64)
            return Batch(partition.source, partition.partition, wanted.first, wanted.until, none, none, [], [])
        return _recalled(partition, wanted.first, page.next, page.events)


def _recalled(partition: Partition, first: int, following: int, events: Events) -> Recalled:
    kind: Literal["append", "create"] = "append" if events.append_time else "create"
    nothing: list[bytes | None] = [None] * len(events)
    return Recalled(
        partition.source, partition.partition, first, following, events.offsets, events.timestamps_us, nothing, nothing, kind, events=events
    )
