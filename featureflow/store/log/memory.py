"""The log as lists in this process, for unit tests: the promises of the protocol and no server.

Single owner, like the embedded log: the newest consumer of a group has all partitions, and the one before it hears at its
next poll that it lost them; it has them again when the newer one leaves. Its methods may be called from several threads.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from featureflow.clock import Clock, SystemClock
from featureflow.errors import LogError, OffsetOutOfRangeError
from featureflow.store.log.memory_transactions import MemoryTransactions
from featureflow.store.log.partitioner import Partitioner
from featureflow.store.log.protocol import (
    TRACE_PARENT,
    Assignment,
    Batch,
    Consumer,
    Partition,
    Polled,
    Record,
    TopicState,
)


@dataclass
class _Stored:
    timestamp_us: int
    record: Record


@dataclass
class _Topic:
    partitions: int
    topic_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    beginning: list[int] = field(default_factory=list)
    records: list[list[_Stored]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.beginning = [0] * self.partitions
        self.records = [[] for _ in range(self.partitions)]

    def end(self, partition: int) -> int:
        return self.beginning[partition] + len(self.records[partition])


class MemoryLog:
    """Timestamps come from ``clock``, as a broker's would (LogAppendTime)."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._topics: dict[str, _Topic] = {}
        self._owners: dict[str, MemoryConsumer] = {}
        self._partitioner = Partitioner()
        self.locked = self._changed
        self.stands: dict[str, dict[Partition, int]] = {}       # group -> where its transactions have moved it
        self.advisory: dict[str, dict[Partition, int]] = {}     # group -> what it last said

    def consumer(self, group: str, sources: dict[str, str], *, member: str | None = None) -> MemoryConsumer:
        with self._changed:
            for topic in sources.values():
                self._topic(topic)
            consumer = MemoryConsumer(self, group, dict(sources))
            self._owners[group] = consumer
            self._changed.notify_all()
            return consumer

    def reader(self, sources: dict[str, str]) -> MemoryConsumer:
        with self._changed:
            for topic in sources.values():
                self._topic(topic)
            return MemoryConsumer(self, None, dict(sources))

    def transactions(self, consumer: Consumer, name: str) -> MemoryTransactions:
        assert isinstance(consumer, MemoryConsumer), "a consumer of this log"
        return MemoryTransactions(self, consumer)

    def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> bool:
        with self._changed:
            if topic in self._topics:
                return False
            self._topics[topic] = _Topic(partitions)
            return True

    def delete_topic(self, topic: str) -> None:
        """What an administrator may do behind our back."""
        with self._changed:
            self._topics.pop(topic, None)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """What retention does: records below ``offset`` are gone."""
        with self._changed:
            state = self._topic(topic)
            gone = max(0, min(offset, state.end(partition)) - state.beginning[partition])
            del state.records[partition][:gone]
            state.beginning[partition] += gone

    def topic(self, topic: str) -> TopicState:
        with self._changed:
            state = self._topic(topic)
            numbers = range(state.partitions)
            return TopicState(
                state.topic_id, state.partitions, dict(enumerate(state.beginning)), {p: state.end(p) for p in numbers}
            )

    def check(self, topic: str) -> list[str]:
        self.topic(topic)
        return []

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        with self._changed:
            state = self._topic(topic)
            chosen = [self._partitioner.partition(record, state.partitions) for record in records]
            places = []
            for partition, record in zip(chosen, records, strict=True):
                places.append((partition, state.end(partition)))
                state.records[partition].append(_Stored(self._clock.now_us() // 1000 * 1000, record))
            self._changed.notify_all()
            return places

    def ping(self) -> str:
        return "memory"

    def close(self) -> None:
        pass

    def _topic(self, topic: str) -> _Topic:
        if (state := self._topics.get(topic)) is None:
            raise LogError(f"topic {topic!r} does not exist; create it, or let 'featureflow apply' do so")
        return state


class MemoryConsumer:
    """See ``MemoryLog``; made by ``MemoryLog.consumer``, and without a group by ``MemoryLog.reader``."""

    def __init__(self, log: MemoryLog, group: str | None, sources: dict[str, str]) -> None:
        self._log = log
        self.group = self._group = group
        self._topics = sources
        self._owned: set[Partition] = set()
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._told = False
        self._closed = False

    def poll(self, *, timeout_s: float, max_records: int, max_bytes: int) -> Polled:
        with self._log._changed:
            if assignment := self._assignment():
                return Polled(assignment, ())
            ready = self._log._changed.wait_for(lambda: not self._is_owner() or self._anything(), timeout_s)
            if assignment := self._assignment():
                return Polled(assignment, ())
            return Polled(Assignment(), self._batches(max_records, max_bytes) if ready else ())

    def seek(self, partition: Partition, offset: int) -> None:
        with self._log._changed:
            if partition in self._owned:
                self._positions[partition] = offset

    def pause(self, partition: Partition) -> None:
        self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        self._paused.discard(partition)

    def commit_advisory(self, offsets: dict[Partition, int]) -> None:
        with self._log._changed:
            if self._group is not None:
                self._log.advisory.setdefault(self._group, {}).update(offsets)

    def close(self) -> None:
        with self._log._changed:
            self._closed = True
            self._owned.clear()
            self._positions.clear()
            if self._group is not None and self._is_owner():
                del self._log._owners[self._group]
                self._log._changed.notify_all()

    def _is_owner(self) -> bool:
        return self._group is None or self._log._owners.get(self._group) is self

    def is_owner(self) -> bool:
        """Whether it has the group now."""
        with self._log._changed:
            return not self._closed and self._is_owner()

    def _assignment(self) -> Assignment:
        if self._closed:
            raise LogError("this consumer is closed")
        if self._group is not None and self._log._owners.setdefault(self._group, self) is not self:
            lost, self._owned, self._told = self._owned, set(), False
            self._positions.clear()
            return Assignment(lost=tuple(sorted(lost, key=_by_name)))
        if self._told:
            return Assignment()
        self._told = True
        self._paused.clear()
        self._owned = {
            Partition(source, number)
            for source, topic in self._topics.items()
            for number in range(self._log._topic(topic).partitions)
        }
        return Assignment(assigned=tuple(sorted(self._owned, key=_by_name)))

    def _reading(self) -> list[tuple[Partition, int, _Topic]]:
        return [
            (partition, position, self._log._topic(self._topics[partition.source]))
            for partition, position in self._positions.items()
            if partition not in self._paused
        ]

    def _anything(self) -> bool:
        return any(position != state.end(partition.partition) for partition, position, state in self._reading())

    def _batches(self, max_records: int, max_bytes: int) -> tuple[Batch, ...]:
        batches: list[Batch] = []
        for partition, position, state in self._reading():
            number = partition.partition
            if not state.beginning[number] <= position <= state.end(number):
                raise OffsetOutOfRangeError(
                    f"{self._topics[partition.source]}/{number}: offset {position} is not in the log, which has "
                    f"{state.beginning[number]} to {state.end(number)}"
                )
            start = position - state.beginning[number]
            taken: list[_Stored] = []
            for stored in state.records[number][start : start + max_records]:
                max_bytes -= len(stored.record.value) + len(stored.record.key or b"")
                if max_bytes < 0 and (taken or batches):
                    break
                taken.append(stored)
            if not taken:
                continue
            max_records -= len(taken)
            batches.append(_batch(partition, position, taken))
            self._positions[partition] = position + len(taken)
            if max_records <= 0 or max_bytes <= 0:
                break
        return tuple(batches)


def _by_name(partition: Partition) -> tuple[str, int]:
    return partition.source, partition.partition


def _batch(partition: Partition, first: int, taken: list[_Stored]) -> Batch:
    traces = {}
    for offset, stored in enumerate(taken, first):
        for name, value in stored.record.headers:
            if name == TRACE_PARENT:
                traces[offset] = value.decode("ascii", "replace")
    return Batch(
        source=partition.source,
        partition=partition.partition,
        first=first,
        next=first + len(taken),
        offsets=np.arange(first, first + len(taken), dtype=np.int64),
        timestamps_us=np.array([stored.timestamp_us for stored in taken], dtype=np.int64),
        values=[stored.record.value for stored in taken],
        keys=[stored.record.key for stored in taken],
        trace_parents=traces,
    )
