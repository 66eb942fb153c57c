"""Events -> history: a consumer of its own, so that a slow or absent database never delays the online features.

Where to read on from is what the history database says, never what the log's group says: a transaction holds the rows and
the offset after them, so each (partition, offset) is there once, whatever dies when.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import structlog

from featureflow import limits
from featureflow.backoff import Backoff
from featureflow.clock import Clock
from featureflow.define import system
from featureflow.define.spec import Project, Source
from featureflow.errors import LogError, OffsetConflictError, OffsetOutOfRangeError, SchemasAwayError, UnavailableError
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.ingest.filler import Filler
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.holding import Holding
from featureflow.ingest.patient_registry import PatientRegistry
from featureflow.ingest.refused import kept_as_it_came
from featureflow.kernel.decode import Decoder
from featureflow.kernel.events import Events
from featureflow.store.history.protocol import HistoryStore
from featureflow.store.ledger import Ledger
from featureflow.store.log.loss import created_again, truncated
from featureflow.store.log.protocol import Batch, Consumer, Log, Partition, TopicState
from featureflow.store.schemas.open import records_of
from featureflow.store.schemas.protocol import SchemaRegistry

POLL_S = 0.5
FIRST_WAIT_US, LONGEST_WAIT_US = 100_000, 10_000_000    # after an error
LAG_EVERY_US = 5_000_000
LOOK_US = 100_000                          # an append asks its topic's id anew after this: no topic is deleted, created and filled in it
READ_AGAIN = 500                           # records of a partition, in one round


@dataclass(frozen=True)
class HistoryStatus:
    """``ready``: every owned partition is being written. ``error``: what is in the way otherwise."""

    ready: bool
    offsets: dict[Partition, int]
    rows: int
    skipped: int
    error: str


class HistoryWriter:
    """Writes the project's sources, and the system's own two, until told to stop. One thread."""

    def __init__(
        self,
        log: Log,
        history: HistoryStore,
        project: Project,
        clock: Clock,
        metrics: HistoryMetrics,
        *,
        group: str | None = None,
        member: str | None = None,
        schemas: SchemaRegistry | None = None,
        failpoint: Failpoint = unarmed,
    ) -> None:
        self._log, self._history, self._clock, self._metrics = log, history, clock, metrics
        self._group, self._member, self._failpoint = group or system.group(project.name, "history"), member, failpoint
        self._sources: dict[str, Source] = {source.name: source for source in system.all_sources(project)}

        def decoder(source: Source) -> Decoder:
            return Decoder(source, records=records_of(source, None if schemas is None else PatientRegistry(schemas, clock), clock))

        self._decoders = {name: decoder(source) for name, source in self._sources.items()}
        self._consumer: Consumer | None = None
        self._holding = Holding[int](clock, self._gone, "featureflow.history")  # what is read on from where
        self._to_read_again: set[Partition] = set()
        self._filler = Filler(log, history, self._sources, decoder, clock)
        self._rows = self._skipped = 0
        self._error = "not started"
        self._lag_due_us = 0
        self._topic_ids: dict[str, str] = {}           # of the topics, as they were when a partition was first placed
        self._look_due_us: dict[str, int] = {}         # when they are to be compared before an append
        self._logger = structlog.get_logger("featureflow.history")

    def status(self) -> HistoryStatus:
        """A moment of the writer, safe to read from any thread."""
        adrift = [adrift.problem for adrift in self._holding.adrift.values()]
        error = self._error or next(iter(adrift), "")
        return HistoryStatus(not error, dict(self._holding.held), self._rows, self._skipped, error)

    def run(self, stop: threading.Event) -> None:
        """Step until ``stop`` is set; then leave the group. What a step has in hand is always finished.

        An unavailable log or database is waited for, however long. Raises LogError, HistoryError and others that waiting does
        not cure, and UnavailableError where the log cannot be reached at the very start.
        """
        self.open()
        backoff = Backoff(self._clock, FIRST_WAIT_US, LONGEST_WAIT_US)
        try:
            while not stop.is_set():
                try:
                    self.step()
                    backoff.succeeded()
                except UnavailableError as error:
                    wait_s = backoff.failed() / 1e6
                    self._logger.warning("history_waits", error=str(error), retry_s=wait_s)
                    stop.wait(wait_s)
        finally:
            self.close()

    def open(self) -> None:
        """Join the group."""
        if self._consumer is None:
            topics = {name: source.topic for name, source in self._sources.items()}
            self._consumer = self._log.consumer(self._group, topics, member=self._member)
            self._error = ""

    def close(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            self._consumer.close()
        self._consumer, self._error = None, "stopped"
        self._holding.clear()
        self._filler.close()

    def step(self, *, timeout_s: float = POLL_S) -> int:
        """Rows written by one round.

        1. place partitions that are adrift where history stands
        2. poll
        3. decode and append, batch by batch; look at some records again that were refused when the source was defined otherwise, and
           fill in some rows with fields that it was declared with since
        4. tell the log how far we are (advisory)

        After an error what was in hand is dropped and its partitions are adrift: they are read again from where history stands,
        which also settles a COMMIT of unknown outcome. Raises UnavailableError when the log or the database is.
        """
        assert self._consumer is not None, "open() first"
        try:
            written = self._step(self._consumer, timeout_s)
        except UnavailableError as error:
            self._metrics.up.set(0)
            self._metrics.failures.labels(type(error).__name__).inc()
            self._error = str(error)
            raise
        self._metrics.up.set(1)
        self._error = ""
        return written

    # -- inside --------------------------------------------------------------------------------------------------------

    def _step(self, consumer: Consumer, timeout_s: float) -> int:
        # 1
        away: UnavailableError | None = None
        try:
            self._place(consumer)
        except UnavailableError as error:
            away, timeout_s = error, 0.0           # poll all the same: a member that does not is thrown out of the group
        # 2
        timeout_s = 0.0 if self._filler.busy else timeout_s
        try:
            polled = consumer.poll(timeout_s=timeout_s, max_records=limits.POLL_RECORDS, max_bytes=limits.POLL_BYTES)
        except OffsetOutOfRangeError as error:
            with suppress(UnavailableError):
                for name in {partition.source for partition in self._holding.held}:
                    self._same(name, self._log.topic(self._sources[name].topic))
            raise OffsetOutOfRangeError(
                f"{error}. Events were deleted before history had them: lengthen the retention of that topic"
            ) from error
        self._failpoint("after_poll")
        if polled.assignment.revoked or polled.assignment.lost:
            self._failpoint("in_revoke")
        self._holding.assign(polled.assignment)
        # 3
        written = 0
        batches = [batch for batch in polled.batches if Partition(batch.source, batch.partition) in self._holding.held]
        for index, batch in enumerate(batches):
            try:
                written += self._append(batch)
            except OffsetConflictError as error:
                self._metrics.conflicts.labels(batch.source).inc()
                self._logger.warning("history_offset_moved", source=batch.source, partition=batch.partition, error=str(error))
                self._let_go(consumer, [batch], str(error))
            except SchemasAwayError as error:                  # this source's alone: the others go on
                self._metrics.failures.labels(type(error).__name__).inc()
                self._let_go(consumer, [batch], str(error), error.wait_us)
            except UnavailableError as error:
                self._let_go(consumer, batches[index:], str(error))
                raise
        self._read_again(consumer)
        for partition, problem in self._filler.fill().items():
            self._holding.let_go(consumer, partition, str(problem), problem.wait_us if isinstance(problem, SchemasAwayError) else 0)
        # 4
        if written:
            self._failpoint("before_advisory")
            consumer.commit_advisory(dict(self._holding.held))
            self._failpoint("after_advisory")
        self._measure_lag()
        if away is not None:
            raise away
        return written

    def _place(self, consumer: Consumer) -> None:
        """Read on from where history stands; from the log's beginning where history has never seen the partition."""
        due = self._holding.due()
        for name in sorted({partition.source for partition in due}):
            source = self._sources[name]
            topic = self._log.topic(source.topic)
            applied = Ledger(self._history).topic(name)
            if applied is not None and applied.topic == source.topic:
                self._topic_ids[name] = applied.topic_id
            self._topic_ids.setdefault(name, topic.topic_id)
            self._same(name, topic)
            offsets = self._history.offsets(name)
            for partition in sorted((p for p in due if p.source == name), key=lambda p: p.partition):
                beginning, end = topic.beginning[partition.partition], topic.end[partition.partition]
                offset = offsets.get(partition.partition)
                if offset is None:
                    self._history.create_offsets(name, {partition.partition: beginning})
                    offset = self._history.offsets(name)[partition.partition]
                if offset < beginning:
                    raise OffsetOutOfRangeError(
                        f"history of {name}/{partition.partition} stands at {offset}, but the log begins at {beginning}: "
                        f"{beginning - offset} events were deleted before history had them. Lengthen the retention of {source.topic!r}"
                    )
                self._reaches(partition, offset, end)
                self._failpoint("in_claim")
                self._holding.take(consumer, partition, offset, offset)
                self._to_read_again.add(partition)
                self._filler.take(partition, offset)
                self._moved(partition, offset)

    def _look(self, name: str) -> None:
        """Whether what was polled came from the topic that history holds. Raises LogError, UnavailableError."""
        if (now_us := self._clock.now_us()) >= self._look_due_us.get(name, 0):
            self._same(name, self._log.topic(self._sources[name].topic))
            self._look_due_us[name] = now_us + LOOK_US

    def _same(self, name: str, topic: TopicState) -> None:
        known, source = self._topic_ids[name], self._sources[name]
        if topic.topic_id != known:
            raise LogError(created_again(f"topic {source.topic!r} of event {name!r}", topic.topic_id, known))
        for partition, offset in self._holding.held.items():
            if partition.source == name:
                self._reaches(partition, offset, topic.end.get(partition.partition, offset))

    def _reaches(self, partition: Partition, offset: int, end: int) -> None:
        if offset > end:
            place = f"{self._sources[partition.source].topic}/{partition.partition}"
            raise LogError(truncated(place, end, "history holds it", offset))

    def _let_go(self, consumer: Consumer, batches: Iterable[Batch], problem: str, wait_us: int = 0) -> None:
        """To be placed where history stands once the wait is over; ``run`` waits before the next step where a server is away."""
        for partition in {Partition(batch.source, batch.partition) for batch in batches}:
            if partition in self._holding.held:
                self._holding.let_go(consumer, partition, problem, wait_us)

    def _gone(self, partition: Partition) -> None:
        self._filler.forget(partition)
        where = (partition.source, str(partition.partition))
        for gauge in (self._metrics.next_offset, self._metrics.lag):
            with suppress(KeyError):               # they are another's to tell, or nobody's now
                gauge.remove(*where)

    def _append(self, batch: Batch) -> int:
        partition = Partition(batch.source, batch.partition)
        offset = self._holding.held.get(partition)
        if offset is None or batch.next <= offset:
            return 0
        if batch.first != offset:
            raise OffsetConflictError(f"{batch.source}/{batch.partition} was read from {batch.first} while history stands at {offset}")
        decoded = batch.decoded_by(self._decoders[batch.source])
        self._failpoint("after_decode")
        events, refused = decoded.events, [kept for r in decoded.refused if (kept := kept_as_it_came(batch, r.index)) is not None]
        self._look(batch.source)
        began_us = self._clock.now_us()
        self._failpoint("before_append")
        self._history.append(self._sources[batch.source], batch.partition, events, offset, batch.next, refused)
        self._failpoint("after_append")
        self._metrics.append_seconds.observe((self._clock.now_us() - began_us) / 1e6)
        skipped = len(batch) - len(events)
        self._rows += len(events)
        self._skipped += skipped
        self._metrics.rows.labels(batch.source).inc(len(events))
        self._metrics.skipped.labels(batch.source).inc(skipped)
        self._moved(partition, batch.next)
        return len(events)

    def _read_again(self, consumer: Consumer) -> None:
        """What was refused by another definition may be events by this one: a field that was none may be null now."""
        for partition in [partition for partition in self._to_read_again if partition in self._holding.held]:
            source = self._sources[partition.source]
            records = self._history.refused(source, partition.partition, READ_AGAIN)
            if not records:
                self._to_read_again.discard(partition)
                continue
            still: list[int] = []
            events: list[Events] = []
            try:
                for append_time in (True, False):
                    some = [record for record in records if record.append_time == append_time]
                    decoded = self._decoders[partition.source].decode(
                        [record.value for record in some],
                        [record.key for record in some],
                        partition=partition.partition,
                        offsets=np.array([record.offset for record in some], np.int64),
                        timestamps_us=np.array([record.timestamp_us for record in some], np.int64),
                        append_time=append_time,
                    )
                    events.append(decoded.events)
                    still += [some[refusal.index].offset for refusal in decoded.refused]
                self._history.settle(source, partition.partition, events, still)
            except SchemasAwayError as error:                  # placed again once the wait is over, and then its records too
                self._holding.let_go(consumer, partition, str(error), error.wait_us)
                continue
            except OffsetConflictError as error:
                self._holding.let_go(consumer, partition, str(error), wait_us=0)
                continue
            found = sum(map(len, events))
            self._rows += found
            self._metrics.rows.labels(partition.source).inc(found)

    def _moved(self, partition: Partition, offset: int) -> None:
        self._holding.held[partition] = offset
        self._metrics.next_offset.labels(partition.source, str(partition.partition)).set(offset)

    def _measure_lag(self) -> None:
        now_us = self._clock.now_us()
        if now_us < self._lag_due_us:
            return
        self._lag_due_us = now_us + LAG_EVERY_US
        for name in {partition.source for partition in self._holding.held}:
            topic = self._log.topic(self._sources[name].topic)
            self._same(name, topic)
            end = topic.end
            for partition, offset in self._holding.held.items():
                if partition.source == name:
                    self._metrics.lag.labels(name, str(partition.partition)).set(max(0, end.get(partition.partition, offset) - offset))
