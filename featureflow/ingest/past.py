"""The log's past, read for the tracks that have yet to fold it, beside the consumer that reads where the others stand.

A slice at a time, between two batches of the present, so that what is fresh stays fresh. What is read is chosen by the online
store's offsets alone, like all else: this reader belongs to no group, and nobody needs to know of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from featureflow import limits
from featureflow.backoff import Backoff
from featureflow.clock import Clock
from featureflow.errors import UnavailableError
from featureflow.store.log.protocol import Batch, Consumer, Log, Partition

FIRST_WAIT_US, LONGEST_WAIT_US = 1_000_000, 30_000_000    # an attempt may take time-outs, and the present waits meanwhile
POLL_S = 0.02                              # for a slice that is not there yet; the present waits meanwhile


def a_slice(records: int) -> int:
    """How many records of the past are taken at once: ``records``, and no more than ``limits.PAST_RECORDS``."""
    return min(records, limits.PAST_RECORDS)


class Past:
    """Opened when it is first needed, closed when nothing is wanted any more. ``records``: at most, in a slice."""

    def __init__(self, log: Log, topics: dict[str, str], clock: Clock, records: int = limits.POLL_RECORDS) -> None:
        self._log, self._topics, self._records = log, topics, records
        self._open: dict[str, str] = {}                    # the topics that the reader reads
        self._backoff = Backoff(clock, FIRST_WAIT_US, LONGEST_WAIT_US)
        self._reader: Consumer | None = None
        self._assigned: set[Partition] = set()
        self._at: dict[Partition, int] = {}                # what is being read, and from where on

    def read(self, wanted: Mapping[Partition, int]) -> tuple[Batch, ...]:
        """Some of what these partitions hold from these offsets on. Raises UnavailableError, LogError, OffsetOutOfRangeError."""
        if not wanted:
            self.close()
            return ()
        if self.away:
            return ()
        try:
            batches = self._slice(wanted)
        except UnavailableError:
            self.close()
            self._backoff.failed()
            raise
        self._backoff.succeeded()
        return batches

    @property
    def away(self) -> bool:
        """Whether the log was away, and it is too early to ask it again."""
        return self._backoff.waiting

    def _slice(self, wanted: Mapping[Partition, int]) -> tuple[Batch, ...]:
        behind = {partition.source for partition in wanted}
        if self._reader is None or not behind <= self._open.keys():
            self.close()
            self._open = {source: self._topics[source] for source in sorted(behind)}
            self._reader = self._log.reader(self._open)
        self._place(self._reader, wanted)
        polled = self._reader.poll(timeout_s=POLL_S, max_records=a_slice(self._records), max_bytes=limits.PAST_BYTES)
        self._assigned.update(polled.assignment.assigned)
        for batch in polled.batches:
            self._at[Partition(batch.source, batch.partition)] = batch.next
        return tuple(batch for batch in polled.batches if wanted.get(Partition(batch.source, batch.partition)) == batch.first)

    def close(self) -> None:
        """Give the reader up; ``read`` opens another."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        self._assigned.clear()
        self._at.clear()

    def _place(self, reader: Consumer, wanted: Mapping[Partition, int]) -> None:
        for partition in [partition for partition in self._at if partition not in wanted]:
            reader.pause(partition)
            del self._at[partition]
        for partition, offset in wanted.items():
            if partition in self._assigned and self._at.get(partition) != offset:
                reader.seek(partition, offset)
                reader.resume(partition)
                self._at[partition] = offset
