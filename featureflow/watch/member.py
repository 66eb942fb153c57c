"""A member of a consumer group that goes on from where the group's transactions stand, and from nowhere else.

    1. what was revoked or lost is dropped, what was assigned is adrift
    2. adrift partitions are placed where the group stands
    3. records of placed partitions are handed on
    4. what was made of them is committed with their offsets, in one transaction

After any error everything is adrift: what was in hand is dropped and read again from where the group stands, which also settles a commit of
unknown outcome.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import structlog

from featureflow import limits
from featureflow.store.log.protocol import Batch, Consumer, Log, Partition, Record, Transaction, Transactions


class Member:
    """Of ``group``, for ``{source name: topic}``. Used from one thread.

    ``begins``: from where a partition is read in which the group has never said where it stands; else the log's beginning.
    ``name``: of this process's own for good; empty: it has none, and another after each start.
    """

    def __init__(self, log: Log, group: str, sources: Mapping[str, str], name: str, begins: Mapping[Partition, int] | None = None) -> None:
        self._log, self.group, self._sources, self._begins = log, group, dict(sources), begins or {}
        self._name = name
        self._consumer: Consumer | None = None
        self._transactions: Transactions | None = None
        self.at: dict[Partition, int] = {}                     # placed: where the next record is read from
        self._stands: dict[Partition, int | None] = {}         # placed: where the group stands
        self.adrift: set[Partition] = set()
        self._logger = structlog.get_logger("featureflow.watch")

    def open(self) -> None:
        """Join the group. Raises UnavailableError, LogError."""
        if self._consumer is None:
            self._consumer = self._log.consumer(self.group, self._sources, member=self._name or None)
            self._transactions = self._log.transactions(self._consumer, f"{self.group}.{self._name or uuid.uuid4().hex}")

    def close(self) -> None:
        """Leave it."""
        transactions, consumer = self._transactions, self._consumer
        self._transactions = self._consumer = None
        self.at.clear()
        self._stands.clear()
        self.adrift.clear()
        if transactions is not None:
            transactions.close()
        if consumer is not None:
            consumer.close()

    def poll(self, *, timeout_s: float, max_records: int = limits.WATCHED_RECORDS) -> tuple[Batch, ...]:
        """(1) and (3): batches of placed partitions. Raises UnavailableError, LogError."""
        assert self._consumer is not None, "open() first"
        polled = self._consumer.poll(timeout_s=timeout_s, max_records=max_records, max_bytes=limits.POLL_BYTES)
        for partition in (*polled.assignment.revoked, *polled.assignment.lost):
            self._drop(partition)
            self.adrift.discard(partition)
        for partition in polled.assignment.assigned:
            self._drop(partition)
            self.adrift.add(partition)
        if polled.assignment:
            self._logger.info(
                "shared_out",
                group=self.group,
                assigned=[f"{p.source}/{p.partition}" for p in polled.assignment.assigned],
                gone=[f"{p.source}/{p.partition}" for p in (*polled.assignment.revoked, *polled.assignment.lost)],
            )
        return tuple(batch for batch in polled.batches if Partition(batch.source, batch.partition) in self.at)

    def place(self) -> tuple[Partition, ...]:
        """(2): those that were adrift, to be read from where the group stands once ``start`` says so. Raises UnavailableError, LogError."""
        assert self._consumer is not None and self._transactions is not None, "open() first"
        if not self.adrift:
            return ()
        partitions = sorted(self.adrift, key=lambda partition: (partition.source, partition.partition))
        stands = self._transactions.committed(partitions)
        begins = self._beginnings([partition for partition in partitions if partition not in stands])
        for partition in partitions:
            self._stands[partition] = stands.get(partition)
            self.at[partition] = stands[partition] if partition in stands else begins[partition]
        return tuple(partitions)

    def start(self, partitions: Sequence[Partition]) -> None:
        """Read those that were placed."""
        assert self._consumer is not None, "open() first"
        for partition in partitions:
            self.adrift.discard(partition)
            self._consumer.seek(partition, self.at[partition])
            self._consumer.resume(partition)

    def commit(self, records: Mapping[str, Sequence[Record]], batches: Sequence[Batch]) -> None:
        """(4): the records, and the batches' offsets. Raises FencedError, UnknownOutcomeError, UnavailableError, LogError."""
        assert self._consumer is not None and self._transactions is not None, "open() first"
        read: dict[Partition, int] = {}
        for batch in batches:
            partition = Partition(batch.source, batch.partition)
            read[partition] = max(batch.next, read.get(partition, 0))
        moved = {partition: (self._stands[partition], to) for partition, to in read.items() if to != self._stands[partition]}
        if not moved:
            return
        self._transactions.commit(Transaction(records, moved))
        self.at.update(read)
        self._stands.update(read)
        self._consumer.commit_advisory(read)

    def start_over(self) -> None:
        """Everything is adrift."""
        if self._consumer is not None:
            for partition in self.at:
                self._consumer.pause(partition)
        self.adrift |= self.at.keys()
        self.at.clear()
        self._stands.clear()

    def _drop(self, partition: Partition) -> None:
        self.at.pop(partition, None)
        self._stands.pop(partition, None)

    def _beginnings(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        found = {}
        for source in {partition.source for partition in partitions}:
            beginning = self._log.topic(self._sources[source]).beginning
            for partition in partitions:
                if partition.source == source:
                    found[partition] = max(self._begins.get(partition, 0), beginning[partition.partition])
        return found
