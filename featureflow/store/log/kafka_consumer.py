"""Reading Apache Kafka, through kafka-python: as a member of a group, or all partitions without one.

What Kafka does by itself and must not do here: choose where to read on from, and give out records of a partition before its
stored offset has been looked up. So a newly assigned partition is put at offset 0 and paused in the very callback that reports
it, and nothing of it is handed on until the caller has sought; there is no automatic reset and no automatic commit.
The callbacks run on the client's I/O thread, where waiting would stop heartbeats: they only note what happened.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import kafka
import kafka.errors
import numpy as np
from kafka import TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

from featureflow import limits
from featureflow.errors import FencedError, OffsetOutOfRangeError
from featureflow.store.log.columns import Columns, batch_of
from featureflow.store.log.kafka_columns import WholeBatch, decode, decode_whole_batches
from featureflow.store.log.kafka_error import translated
from featureflow.store.log.kafka_fetches import take_fetches
from featureflow.store.log.kafka_gaps import Gaps
from featureflow.store.log.kafka_joins import keep_joins
from featureflow.store.log.protocol import Assignment, Batch, Partition, Polled

FETCHED_BATCHES = 256                      # record batches that one poll of kafka-python may return
SLICE_MS = 50                              # how long a poll goes on before it looks whether the assignment changed
CLOSE_MS = 15_000
UNDECIDED_S = 0.05                         # until it is asked again what a transaction has come to
HEARTBEAT_MS = 1_000                       # by its answer a member hears of a rebalance, which waits for every member


class KafkaConsumer:
    """Made by ``KafkaLog.consumer`` as a member of a group, and by ``KafkaLog.reader`` with all ``places`` and no group.

    A member with a durable name (``member``) keeps its partitions over a restart shorter than the session time-out, so its
    ``close`` does not leave the group; one without leaves at once.
    """

    def __init__(
        self,
        group: str | None,
        sources: dict[str, str],
        member: str | None,
        places: Sequence[TopicPartition],
        options: dict[str, Any],
        *,
        whole_batches: bool,
        describe: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """``describe``: the group as the broker has it, asked for a member with a durable name."""
        self._group = group
        self._topics = dict(sources)
        self._sources = {topic: source for source, topic in sources.items()}
        self._noted: deque[tuple[str, tuple[TopicPartition, ...]]] = deque()
        self._next: dict[TopicPartition, int] = {}             # where the caller sought or we read to; absent: not started
        self._told: set[TopicPartition] = set()                # what the caller knows to be its own
        self._held: dict[TopicPartition, list[Columns]] = {}   # fetched, beyond the last poll's bounds
        self._paused: set[TopicPartition] = set()
        self._consumer = kafka.KafkaConsumer(
            group_id=group,
            group_instance_id=member,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            isolation_level="read_committed",
            partition_assignment_strategy=[CooperativeStickyAssignor],
            heartbeat_interval_ms=min(HEARTBEAT_MS, options["session_timeout_ms"] // 3),
            fetch_max_bytes=limits.POLL_BYTES,
            max_partition_fetch_bytes=limits.FETCH_BYTES,
            metrics_enabled=False,
            **options,
        )
        self._joins = keep_joins(self._consumer) if group is not None else None
        self._gaps: Gaps | None = None
        if describe is not None and member is not None and self._joins is not None:
            self._gaps = Gaps(describe, self._all, self._joins.again)
        self._whole_batches = whole_batches and decode_whole_batches(self._consumer)
        self._fetches = take_fetches(self._consumer) if whole_batches else None
        notes = _Notes(self._consumer, self._noted)
        if group is None:
            self._consumer.assign(list(places))
            notes.on_partitions_assigned(places)
        else:
            self._consumer.subscribe(list(self._sources), listener=notes)

    def poll(self, *, timeout_s: float, max_records: int, max_bytes: int) -> Polled:
        until = time.monotonic() + timeout_s
        at_once = FETCHED_BATCHES if self._whole_batches else max_records
        while not self._noted:
            while self._lacks(max_records, max_bytes) and self._keep(self._fetch(0, at_once)):
                pass                       # another fetch, which has arrived as well
            if not self._noted and (batches := self._batches(max_records, max_bytes)):
                return Polled(Assignment(), batches)
            left_ms = max(0, int((until - time.monotonic()) * 1000))
            if not self._keep(self._fetch(min(left_ms, SLICE_MS), at_once)) and not left_ms and not self._noted:
                return Polled(Assignment(), self._skipped())
        return Polled(self._assignment(), ())

    def seek(self, partition: Partition, offset: int) -> None:
        place = self.place(partition)
        self._held.pop(place, None)
        try:
            self._consumer.seek(place, offset)
            if place not in self._paused:
                self._consumer.resume(place)
        except (ValueError, KeyError):     # taken away meanwhile: the next poll says so
            return
        self._next[place] = offset

    def pause(self, partition: Partition) -> None:
        if (place := self.place(partition)) in self._next:
            self._paused.add(place)
            self._while_assigned(self._consumer.pause, place)

    def resume(self, partition: Partition) -> None:
        if (place := self.place(partition)) in self._paused:
            self._paused.discard(place)
            self._while_assigned(self._consumer.resume, place)

    def commit_advisory(self, offsets: dict[Partition, int]) -> None:
        if self._group is None:
            return
        try:
            self._consumer.commit_async(
                {self.place(partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
            )
        except Exception:                  # for lag tools only: losing one costs nothing, and the next one follows
            return

    def membership(self, partitions: Iterable[Partition]) -> Any:
        """kafka-python's ConsumerGroupMetadata, by which a broker fences who is no member any more.

        Raises FencedError where that may be one of after these partitions were taken away, of which the caller has not heard yet: the
        broker would let it pass. A join, and the loss that comes before it, happen on the I/O thread, between any two polls.
        """
        membership = self._consumer.group_metadata()           # before what was noted is looked at: a loss is noted before the next join
        if self._noted or membership.generation_id < 0 or not membership.member_id:
            raise FencedError(f"group {self._group!r} is being shared out anew")
        if lost := [partition for partition in partitions if self.place(partition) not in self._told]:
            raise FencedError(f"group {self._group!r}: {lost[0].source}/{lost[0].partition} is not this member's")
        return membership

    def committed(self, partitions: Iterable[Partition], timeout_s: float) -> dict[Partition, int]:
        """Where the group stands, once no transaction that moves it there is under way. Raises UnavailableError, LogError."""
        until, found = time.monotonic() + timeout_s, {}
        for partition in partitions:
            while True:
                left_ms = max(1, int((until - time.monotonic()) * 1000))
                try:
                    offset = self._consumer.committed(self.place(partition), timeout_ms=left_ms)
                    break
                except kafka.errors.KafkaError as error:
                    if time.monotonic() >= until or not error.retriable:
                        raise translated(error, f"where group {self._group!r} stands cannot be read") from error
                    time.sleep(UNDECIDED_S)
            if offset is not None:
                found[partition] = offset
        return found

    def close(self) -> None:
        self._consumer.close(autocommit=False, timeout_ms=CLOSE_MS)

    def _fetch(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        try:
            fetched: dict[TopicPartition, list[Any]] = self._consumer.poll(timeout_ms=timeout_ms, max_records=max_records)
        except kafka.errors.NoOffsetForPartitionError:
            return {}                      # assigned a moment ago; its callback is about to place it
        except kafka.errors.OffsetOutOfRangeError as error:
            raise self._out_of_range(error.args[0]) from error
        except kafka.errors.KafkaError as error:
            if error.retriable:
                return {}                  # the client reconnects by itself
            reader = "the log's past cannot be read" if self._group is None else f"the log cannot be read by group {self._group!r}"
            raise translated(error, reader) from error
        if self._joins is not None:
            self._joins.take_up()
        if self._gaps is not None:
            self._gaps.look()
        return fetched

    def _all(self) -> set[TopicPartition]:
        return {TopicPartition(topic, n) for topic in self._sources for n in self._consumer.partitions_for_topic(topic) or ()}

    def _keep(self, records: dict[TopicPartition, list[Any]]) -> bool:
        """Whether there were any."""
        for place, found in records.items():
            if place in self._next:
                parts = [part.since(self._next[place]) for part in parts_of(found)]
                self._held.setdefault(place, []).extend(part for part in parts if len(part))
        return bool(records)

    def _lacks(self, max_records: int, max_bytes: int) -> bool:
        """Whether more has arrived, and is wanted: so no more is held than a poll may give and one fetch."""
        if self._noted or self._fetches is None or not self._fetches.more():
            return False
        held = [part for place, parts in self._held.items() if place not in self._paused for part in parts]
        return sum(map(len, held)) < max_records and sum(int(part.sizes.sum()) for part in held) < max_bytes

    def _assignment(self) -> Assignment:
        """What was noted since the last poll, as the caller's change: told apart by what it knew and what is so now."""
        told: dict[str, list[TopicPartition]] = {"assigned": [], "revoked": [], "lost": []}
        while self._noted:
            kind, places = self._noted.popleft()
            if kind == "assigned" and self._gaps is not None:
                self._gaps.assigned()
            for place in places:
                self._held.pop(place, None)
                self._next.pop(place, None)
                self._paused.discard(place)
                if kind != "assigned" and place in told["assigned"]:
                    told["assigned"].remove(place)
                if place not in told[kind]:
                    told[kind].append(place)
                (self._told.add if kind == "assigned" else self._told.discard)(place)
        return Assignment(**{kind: self._partitions(places) for kind, places in told.items()})

    def _batches(self, max_records: int, max_bytes: int) -> tuple[Batch, ...]:
        batches: list[Batch] = []
        for place in [place for place in self._held if place not in self._paused]:
            taken, rest = cut(self._held.pop(place), max_records, max_bytes, at_least=0 if batches else 1)
            if rest:
                self._held[place] = rest   # behind the others, so that each has its turn
            if taken:
                batch = batch_of(self._sources[place.topic], place.partition, self._next[place], taken)
                self._next[place] = batch.next
                batches.append(batch)
                max_records -= len(batch)
                max_bytes -= sum(int(part.sizes.sum()) for part in taken)
        return tuple(batches)

    def _skipped(self) -> tuple[Batch, ...]:
        """Batches without records, where the log goes on with some that are not read: markers of transactions, and what was aborted.
        Without them a partition that ends so would never be known to be read to its end."""
        batches = []
        for place, at in self._next.items():
            try:
                position = None if place in self._held or place in self._paused else self._consumer.position(place, timeout_ms=0)
            except kafka.errors.KafkaError:    # taken away meanwhile, or its leader moves: the next poll says so
                continue
            if position is not None and position > at:
                nothing = np.zeros(0, np.int64)
                batches.append(Batch(self._sources[place.topic], place.partition, at, position, nothing, nothing, [], []))
                self._next[place] = position
        return tuple(batches)

    def _out_of_range(self, places: Any) -> OffsetOutOfRangeError:
        text = ", ".join(f"{p.topic}/{p.partition} at offset {o}" for p, o in dict(places).items())
        return OffsetOutOfRangeError(
            f"the log no longer (or not yet) has {text}: events were deleted, or the topic was recreated"
        )

    def place(self, partition: Partition) -> TopicPartition:
        """As kafka-python names it."""
        return TopicPartition(self._topics[partition.source], partition.partition)

    def _partitions(self, places: Iterable[TopicPartition]) -> tuple[Partition, ...]:
        return tuple(Partition(self._sources[place.topic], place.partition) for place in sorted(places))

    def _while_assigned(self, do: Callable[[TopicPartition], None], place: TopicPartition) -> None:
        try:
            do(place)
        except KeyError:
            return


class _Notes(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no type information
    """Runs on the I/O thread: places and pauses what is new, and notes everything for the next poll."""

    def __init__(self, consumer: kafka.KafkaConsumer, noted: deque[tuple[str, tuple[TopicPartition, ...]]]) -> None:
        self._consumer = consumer
        self._noted = noted

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        places = tuple(assigned)
        for place in places:
            self._consumer.pause(place)
            self._consumer.seek(place, 0)
        if places:
            self._noted.append(("assigned", places))

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if places := tuple(revoked):
            self._noted.append(("revoked", places))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        if places := tuple(lost):
            self._noted.append(("lost", places))


def parts_of(found: list[Any]) -> list[Columns]:
    """What a poll of kafka-python gave for one partition: whole batches, or records (of format 1, or by the public path)."""
    parts: list[Columns] = []
    for (whole, _), group in itertools.groupby(found, lambda r: (isinstance(r.value, WholeBatch), r.timestamp_type)):
        records = list(group)
        parts.append(decode([record.value for record in records]) if whole else Columns.of_records(records))
    return parts


def cut(
    parts: list[Columns], max_records: int, max_bytes: int, *, at_least: int
) -> tuple[list[Columns], list[Columns]]:
    """(what one batch may take, the rest): inside the bounds, and ending where the kind of timestamp changes."""
    taken: list[Columns] = []
    for index, part in enumerate(parts):
        if part.timestamp_kind != parts[0].timestamp_kind:
            return taken, parts[index:]
        count = part.fit(max_records, max_bytes)
        if not taken:
            count = max(count, at_least)
        if count:
            taken.append(part.part(0, count))
        if count < len(part):
            return taken, [part.part(count, len(part)), *parts[index + 1 :]]
        max_records -= count
        max_bytes -= int(part.sizes.sum())
    return taken, []
