"""The worker: events to state, exactly once.

Each turn of its loop:

(1) poll      Assignment first: what was revoked or lost is dropped, what was assigned is claimed, and read from where its
              foremost tracks stand. Then batches of records. A worker that is behind polls again, some times, for what is there
              already while commits are on their way; then the answers are taken, and the rest is seen to. One that keeps up
              leaves the store to its readers for as long as its commits took, before it polls.
(2) decode    Records become columns; each is accepted or refused by the log alone. Entities that are not cached are read. What
              is refused is appended to the dead letters, durably, before anything is committed past it.
(3) fold      The batch is folded into the slab, cut into as many commits as it needs: each may carry only so many rows.
(4) commit    State and offset in one atom for each bucket of entities, refused unless token and offset are the ones we started
              from. All commits of a batch are sent before the first is answered, and meanwhile the next batch goes through (1)
              to (3). Every bucket commits at least each second, if only its time.
(5) catch up  (2) to (4) for a slice of the past, for the tracks that are behind (a view's entities of one bucket), up to where
              the others stand: they join them there. What the log has deleted of it is read from history.
(6) tell      The log is told how far we are, for its lag tools; nothing resumes from that.

After any refusal, lost reply or unreachable server in (2)-(5), and while a view is rebuilt, the partition is *adrift*:
its rows and token are dropped, and after a wait it is claimed and read again from where the store stands. So nothing is
lost, and nothing counts twice. Where a schema registry is away, the partitions that need it are *held up*: they keep rows and token,
commit their time, and are read again from where they stand after waits that grow; all others go on.
What waiting cannot cure (state lost, log truncated, a store that evicts) is raised.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import structlog

from featureflow import limits
from featureflow.clock import Clock
from featureflow.define import system
from featureflow.define.spec import Project
from featureflow.errors import (
    BeingRebuiltError,
    HistoryAwayError,
    LogError,
    OffsetOutOfRangeError,
    SchemasAwayError,
    UnavailableError,
)
from featureflow.ingest import claim
from featureflow.ingest.backfill import Backfill
from featureflow.ingest.catching_up import CatchingUp, deleted
from featureflow.ingest.commit import Sending
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.ingest.flight import Flight, Servers, acknowledge
from featureflow.ingest.holding import FIRST_WAIT_US, Holding
from featureflow.ingest.lookout import Lookout
from featureflow.ingest.metrics import PartitionStatus, WorkerMetrics, WorkerStatus
from featureflow.ingest.owned import Owned, Stand, is_behind
from featureflow.ingest.patient_registry import PatientRegistry
from featureflow.ingest.problems import Problems
from featureflow.ingest.rest import Rest
from featureflow.ingest.source_views import SourceViews
from featureflow.ingest.tally import Tally
from featureflow.store.history.protocol import HistoryStore
from featureflow.store.log.protocol import Assignment, Batch, Consumer, Log, Partition, Polled
from featureflow.store.online.protocol import Commit, Committed, OnlineStore, Refused
from featureflow.store.schemas.open import records_of
from featureflow.store.schemas.protocol import SchemaRegistry
from featureflow.tracing import Tracer

POLL_S = 0.25
POLLS = 16                                 # at most, in one turn; while what they brought is on its way nothing else is seen to
TURN_US = 500_000                          # after which no more is polled in a turn
BUSY_POLL_S = 0.005                        # while there is a past to catch up with
FENCED_WAIT_US = 2_000_000                 # a zombie hears of its eviction before it claims what a successor holds
HISTORY_WAIT_US = 5_000_000
REBUILT_WAIT_US = 500_000                   # between two looks whether a view that is rebuilt has begun anew
BEAT_US = 1_000_000                        # a partition commits at least this often
TELL_US = 1_000_000


class Worker:
    """Folds the project's sources into the online store until told to stop. One thread."""

    def __init__(
        self,
        log: Log,
        online: OnlineStore,
        project: Project,
        clock: Clock,
        metrics: WorkerMetrics,
        *,
        group: str | None = None,
        member: str | None = None,
        failpoint: Failpoint = unarmed,
        tracer: Tracer | None = None,
        slab_bytes: int = limits.SLAB_BYTES,
        commit_rows: int = limits.COMMIT_ROWS,
        poll_records: int = limits.POLL_RECORDS,
        schemas: SchemaRegistry | None = None,
        history: HistoryStore | None = None,
        buckets: int = 1,
    ) -> None:
        self._log, self._online, self._clock, self._metrics = log, online, clock, metrics
        self._project, self._group = project.name, group or system.group(project.name, "ingest")
        self._member, self._failpoint, self._buckets = member, failpoint, buckets
        used = [source for source in project.sources if project.views_of(source.name)]
        asked = {source.name: None if schemas is None else PatientRegistry(schemas, clock) for source in used}
        self._sources = {
            source.name: SourceViews(
                project, source, slab_bytes=slab_bytes // len(used), commit_rows=commit_rows, buckets=buckets,
                one_server=online.one_server, records=records_of(source, asked[source.name], clock),
            )
            for source in used
        }
        # One poll brings records of any source, and so few that they are not too many of any.
        records = min(views.batch_records for views in self._sources.values())
        self._poll_records = min(records, poll_records)
        self._topics = {source.name: source.topic for source in used}
        self._consumer: Consumer | None = None
        read = {name: (views.source, views.columns) for name, views in self._sources.items()}
        self._backfill = Backfill(history, read, clock, records)
        self._holding = Holding[Owned](clock, self._gone)
        self._problems = Problems("not started")
        held = self._holding.held
        self._past = CatchingUp(log, self._topics, self._backfill, clock, held, self._problems, records)
        self._lookout = Lookout(log, online, self._topics, self._backfill, clock, held, self._problems)
        self._tell_due_us = 0
        self._tally = Tally(metrics, clock, tracer)
        self._servers = Servers(log, online, project, clock, self._tally, failpoint)
        self._flight: Flight | None = None
        self._rest = Rest(clock)
        self._status = WorkerStatus(False, self._problems.all, (), 0, 0, 0)
        self._logger = structlog.get_logger("featureflow.ingest")

    def status(self) -> WorkerStatus:
        """How the worker is, as of its last turn. From any thread."""
        return self._status

    def run(self, stop: threading.Event) -> None:
        """Step until ``stop`` is set, then leave the group. A batch in hand is always finished.

        A server that goes away is waited for, however long. Raises UnavailableError where one cannot be reached at the very
        start, and StateError, OffsetMissingError, LogError, OffsetOutOfRangeError, which waiting does not cure.
        """
        self.open()
        try:
            while not stop.is_set():
                self.step(wait=stop.wait)
        finally:
            self.close()

    def open(self) -> None:
        """Check the servers and join the group."""
        if self._consumer is None:
            self._online.ping()
            self._lookout.settings()
            self._consumer = self._log.consumer(self._group, self._topics, member=self._member)
            self._problems.none()

    def close(self) -> None:
        """Tell the log how far we are and leave the group. What fails is raised, once nothing is left open."""
        consumer, self._consumer, self._flight = self._consumer, None, None
        with ExitStack() as last:                              # the last one first
            for step in (self._show, self._problems.stopped, self._holding.clear, self._past.close):
                last.callback(step)
            if consumer is not None:
                last.callback(consumer.close)
                self._tell(consumer)

    def step(self, *, timeout_s: float = POLL_S, wait: Callable[[float], object] = time.sleep) -> int:
        """One turn, as the module says. How many events were committed past."""
        assert self._consumer is not None, "open() first"
        consumer, before, pressing = self._consumer, self._tally.events, self._past.pressing
        self._rest.over(wait)
        polled = self._poll(consumer, min(timeout_s, BUSY_POLL_S) if pressing else timeout_s, wait)       # (1)
        self._holding_changes(consumer, polled.assignment)
        until_us, polls = self._clock.now_us() + TURN_US, 1 if pressing else POLLS
        for left in reversed(range(polls)):
            for batch in polled.batches:
                self._fold(consumer, batch)                                                  # (2) (3) (4)
            behind = pressing or is_behind(self._holding.held, polled.batches, self._poll_records)
            if self._flight is None or not left or not behind or self._clock.now_us() >= until_us:
                break
            polled = self._poll(consumer, 0.0, wait)                                         # (1)
            self._holding_changes(consumer, polled.assignment)
            if not polled.batches:
                break
        self._land(consumer)                                                                 # (4)
        self._rest.ended(behind=behind)
        self._catch_up(consumer)                                                             # (5)
        self._beat(consumer)                                                                 # (4)
        self._claim(consumer)                                                                # (1) what is adrift
        for partition in self._holding.to_read_again():                                      # (1) what was held up
            self._follow(consumer, self._holding.held[partition])
        if self._clock.now_us() >= self._tell_due_us:
            self._tell(consumer)                                                             # (6)
        self._lookout.look()
        self._lookout.inspect()
        self._show()
        return self._tally.events - before

    def _fold(self, consumer: Consumer, batch: Batch) -> None:
        """Fold the batch while another one's commits are on their way; send it once they are answered."""
        owned = self._holding.held.get(Partition(batch.source, batch.partition))
        if owned is None or self._holding.waits(owned.partition):
            return                                             # since an earlier batch
        before = self._flight
        stand = before.onward if before is not None and before.owned is owned else owned.foremost
        if batch.first != stand.offset:
            self._land(consumer)
            if self._holding.held.get(owned.partition) is owned:
                self._follow(consumer, owned)                  # read before the last seek
            return
        try:
            flight = self._folded(consumer, owned, batch, stand)
        except SchemasAwayError as error:
            self._land(consumer)
            if self._holding.held.get(owned.partition) is owned:
                self._holding.hold_up(consumer, owned.partition, str(error), error.wait_us)
            return
        self._holding.goes_on(owned.partition)
        self._land(consumer, flight)
        if flight is None:
            return
        if self._stands(flight):
            self._send(consumer, flight)
            return
        flight.forget()                                        # with the one before it, which was refused
        if self._holding.held.get(owned.partition) is owned:
            self._holding.let_go(consumer, owned.partition, "what was folded ahead does not follow what was committed")

    def _folded(self, consumer: Consumer, owned: Owned, batch: Batch, stand: Stand) -> Flight | None:
        """A batch that begins where these tracks stand, or will soon. Raises SchemasAwayError."""
        self._metrics.batch_events.observe(len(batch))
        source = self._sources[batch.source]
        try:
            with self._tally.timed("decode"):                                                # (2)
                judged = source.judge(batch, stand)
                self._failpoint("after_decode")
            flight = Flight(self._servers, source, owned, judged)
            flight.fold()
        except SchemasAwayError:
            raise
        except UnavailableError as error:
            self._land(consumer)
            self._holding.let_go_all(consumer, str(error))
            return None
        return flight

    def _stands(self, flight: Flight) -> bool:
        """Whether its tracks stand where it begins: not where anything before it was refused."""
        owned = flight.owned
        return self._holding.held.get(owned.partition) is owned and owned.foremost == flight.judged.stand

    def _send(self, consumer: Consumer, flight: Flight) -> None:
        try:
            if not flight.folded:
                flight.fold()                                  # anew: keys had expired of the one before it
            flight.send()
        except UnavailableError as error:
            self._holding.let_go_all(consumer, str(error))
        else:
            self._flight = flight
            self._rest.began()

    def _land(self, consumer: Consumer, behind: Flight | None = None) -> None:
        """Take the answers of what is on its way, if anything is. ``behind``: what was folded meanwhile."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        self._failpoint("in_flight")
        try:
            refused = flight.land(behind if behind is not None and behind.owned is flight.owned else None)
        except UnavailableError as error:
            self._holding.let_go_all(consumer, str(error))
            return
        if refused is not None:
            self._refused(consumer, flight.owned.partition, refused)

    # -- around a turn -------------------------------------------------------------------------------------------------

    def _poll(self, consumer: Consumer, timeout_s: float, wait: Callable[[float], object]) -> Polled:
        try:
            polled = consumer.poll(timeout_s=timeout_s, max_records=self._poll_records, max_bytes=limits.POLL_BYTES)
        except OffsetOutOfRangeError as error:
            self._land(consumer)
            raise deleted(error) from error
        except LogError:
            self._land(consumer)
            raise
        except UnavailableError as error:
            self._problems.failed("poll", error)
            wait(timeout_s)
            return Polled(Assignment(), ())
        self._problems.over("poll")
        self._failpoint("after_poll")
        return polled

    def _holding_changes(self, consumer: Consumer, assignment: Assignment) -> None:
        if assignment:
            self._land(consumer)
        if assignment.revoked or assignment.lost:
            self._failpoint("in_revoke")
        self._holding.assign(assignment)

    def _catch_up(self, consumer: Consumer) -> None:
        for owned, batch, stand in self._past.slices():
            cut_off = owned.cut_off
            try:
                flight = self._folded(consumer, owned, batch, stand)
            except SchemasAwayError as error:
                self._past.put_off(owned.partition, error)
                continue
            self._past.goes_on(owned.partition)
            if flight is not None:
                self._send(consumer, flight)
                self._land(consumer)
            if cut_off and owned.partition in self._holding.held and not owned.cut_off:
                self._follow(consumer, owned)

    def _follow(self, consumer: Consumer, owned: Owned) -> None:
        """Read on from where the foremost views stand; where the log begins only after them, not yet."""
        if owned.cut_off:
            consumer.pause(owned.partition)
        else:
            consumer.seek(owned.partition, owned.foremost.offset)
            consumer.resume(owned.partition)

    def _beat(self, consumer: Consumer) -> None:
        """An empty commit for each track of each partition that has had none for a second, so that lost state and lag show."""
        for partition, owned in list(self._holding.held.items()):
            if not (beats := owned.beats(self._clock.now_us() - BEAT_US, one_server=self._online.one_server)):
                continue
            try:
                answers = self._send_beats(owned, beats)
            except UnavailableError as error:
                self._holding.let_go_all(consumer, str(error))
                return
            if refused := [answer for answer in answers if isinstance(answer, Refused)]:
                self._refused(consumer, partition, refused[0])

    def _send_beats(self, owned: Owned, beats: Sequence[Commit]) -> list[Committed | Refused]:
        sending, sent_us = Sending(self._online, self._failpoint), self._clock.now_us()
        sending.send(beats)
        answers = []
        for commit, answer in zip(beats, sending.outcomes(), strict=True):
            acknowledge(self._servers, self._sources[commit.source], owned, commit, 0, sent_us, answer)
            answers.append(answer)
        return answers

    def _claim(self, consumer: Consumer) -> None:
        for partition in self._holding.due():
            source, topic, now_us = self._sources[partition.source], self._topics[partition.source], self._clock.now_us()
            try:
                owned = claim.take(
                    self._log, self._online, partition, topic, source.view_ids, self._buckets, now_us, self._backfill, self._failpoint
                )
            except BeingRebuiltError as error:                 # its new offsets are made in a moment, or by the next rebuild
                self._holding.wait(partition, str(error), REBUILT_WAIT_US)
                continue
            except HistoryAwayError as error:                  # nothing of this partition alone can be told to be whole
                self._holding.wait(partition, str(error), HISTORY_WAIT_US)
                continue
            except UnavailableError as error:
                self._holding.let_go_all(consumer, str(error))
                self._holding.put_off(partition)
                return
            offset = owned.foremost.offset
            self._holding.take(consumer, partition, owned, max(offset, owned.beginning))
            self._follow(consumer, owned)
            self._logger.info("claimed", source=partition.source, partition=partition.partition, offset=offset, lowest=owned.position)

    def _tell(self, consumer: Consumer) -> None:
        self._tell_due_us = self._clock.now_us() + TELL_US
        if self._holding.held:
            self._failpoint("before_advisory")
            consumer.commit_advisory({partition: owned.position for partition, owned in self._holding.held.items()})
            self._failpoint("after_advisory")

    # -- what is held --------------------------------------------------------------------------------------------------

    def _refused(self, consumer: Consumer, partition: Partition, refused: Refused) -> None:
        wait_us = FENCED_WAIT_US if refused.reason == "fenced" else FIRST_WAIT_US
        self._holding.let_go(consumer, partition, f"{refused.reason}: {refused.detail}", wait_us)

    def _gone(self, partition: Partition) -> None:
        with suppress(KeyError):           # its lag is another's to tell, or nobody's now
            self._metrics.lag.remove(partition.source, str(partition.partition))
        self._sources[partition.source].drop(partition.partition)

    def _show(self) -> None:
        held, adrift, held_up = self._holding.held, self._holding.adrift, self._holding.held_up
        partitions = [
            PartitionStatus(p.source, p.partition, owned.position, owned.ends.newest, held_up[p].problem if p in held_up else "")
            for p, owned in held.items()
        ]
        partitions += [PartitionStatus(p.source, p.partition, -1, -1, a.problem) for p, a in adrift.items()]
        for status in partitions:
            if status.lag is not None:
                self._metrics.lag.labels(status.source, str(status.partition)).set(status.lag)
        waiting = [other.problem for others in (adrift, held_up) for other in others.values()]
        problems = tuple(dict.fromkeys((*self._problems.all, *waiting)))
        ready = self._consumer is not None and not problems
        self._metrics.partitions.set(len(held))
        self._metrics.ready.set(ready)
        tally = self._tally
        self._status = WorkerStatus(ready, (*problems, *self._lookout.warnings), tuple(partitions), tally.events, tally.late, tally.dead)
