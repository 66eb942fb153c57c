"""The worker: events to state, exactly once.

Each turn of its loop:

(1) poll      Assignment first: what was revoked or lost is dropped, what was assigned is claimed, and read from the
              lowest offset of its views (a view that is further skips what it has). Then batches of records.
(2) decode    Records become columns; each is accepted or refused by the log alone. What is refused is appended to the
              dead letters, durably, before anything is committed past it.
(3) fold      Entities that are not cached are read; as many events as one commit may carry are folded into the slab.
(4) commit    State and offset in one atom, refused unless token and offset are the ones we started from. (3) and (4)
              repeat until the batch is done. Every partition commits at least each second, if only its time.
(5) tell      The log is told how far we are, for its lag tools; nothing resumes from that.

After any refusal, lost reply or unreachable server in (2)-(4) the partition is *adrift*: its rows and token are dropped,
and after a wait it is claimed and read again from where the store stands. So nothing is lost, and nothing counts twice.
What waiting cannot cure (state lost, log truncated, a store that evicts) is raised.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from featureflow import limits
from featureflow.clock import Clock
from featureflow.define import system
from featureflow.define.spec import Project
from featureflow.errors import OffsetOutOfRangeError, UnavailableError
from featureflow.ingest import claim, dead_letter
from featureflow.ingest.claim import Owned
from featureflow.ingest.commit import send
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.ingest.metrics import PartitionStatus, WorkerMetrics, WorkerStatus
from featureflow.ingest.source_views import Judged, SourceViews
from featureflow.store.log.protocol import Assignment, Batch, Consumer, Log, Partition, Polled
from featureflow.store.online.protocol import Commit, Committed, OnlineStore, Refused
from featureflow.tracing import Tracer

POLL_S = 0.25
FIRST_WAIT_US, LONGEST_WAIT_US = 100_000, 5_000_000
FENCED_WAIT_US = 2_000_000                 # a zombie hears of its eviction before it claims what a successor holds
BEAT_US = 1_000_000                        # a partition commits at least this often
TELL_US = 1_000_000
INSPECT_US = 5_000_000


@dataclass
class _Adrift:
    """An assigned partition that is not held now."""

    due_us: int = 0
    wait_us: int = FIRST_WAIT_US
    problem: str = "not claimed yet"


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
    ) -> None:
        self._log, self._online, self._clock, self._metrics = log, online, clock, metrics
        self._project, self._group = project.name, group or system.group(project.name, "ingest")
        self._member, self._failpoint, self._tracer = member, failpoint, tracer
        used = [source for source in project.sources if project.views_of(source.name)]
        self._sources = {
            source.name: SourceViews(project, source, slab_bytes=slab_bytes // len(used), commit_rows=commit_rows)
            for source in used
        }
        self._topics = {source.name: source.topic for source in used}
        self._consumer: Consumer | None = None
        self._owned: dict[Partition, Owned] = {}
        self._adrift: dict[Partition, _Adrift] = {}
        self._ends: dict[Partition, int] = {}
        self._inspect_due_us = self._tell_due_us = 0
        self._events = self._late = self._dead = 0
        self._problem = "not started"
        self._warnings: tuple[str, ...] = ()
        self._status = WorkerStatus(False, (self._problem,), (), 0, 0, 0)
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
            self._warnings = tuple(claim.fit(self._online))
            self._consumer = self._log.consumer(self._group, self._topics, member=self._member)
            self._problem = ""

    def close(self) -> None:
        """Tell the log how far we are and leave the group."""
        if self._consumer is not None:
            self._tell(self._consumer)
            self._consumer.close()
        for partition in (*self._owned, *self._adrift):
            self._forget(partition)
        self._consumer, self._problem = None, "stopped"
        self._show()

    def step(self, *, timeout_s: float = POLL_S, wait: Callable[[float], object] = time.sleep) -> int:
        """One turn, as the module says. How many events were committed past."""
        assert self._consumer is not None, "open() first"
        consumer, before = self._consumer, self._events
        polled = self._poll(consumer, timeout_s, wait)                                       # (1)
        self._assign(polled.assignment)
        for batch in polled.batches:
            self._fold(consumer, batch)                                                      # (2) (3) (4)
        self._beat(consumer)                                                                 # (4)
        self._claim(consumer)                                                                # (1) what is adrift
        if self._clock.now_us() >= self._tell_due_us:
            self._tell(consumer)                                                             # (5)
        self._inspect()
        self._show()
        return self._events - before

    def _turn(self, owned: Owned, batch: Batch) -> Refused | None:
        """One batch of a partition that is held: steps (2) to (4)."""
        source = self._sources[batch.source]
        with self._timed("decode"):                                                          # (2)
            judged = source.judge(batch, owned)
            self._failpoint("after_decode")
            dead_letter.append(self._log, self._project, judged.dead, self._clock)
            self._failpoint("after_dead_letters")
        with self._timed("load"):                                                            # (3)
            source.load(self._online, judged)
        n, start, max_time_us = len(judged.events), 0, owned.max_time_us
        while owned.position < batch.next:
            with self._timed("fold"):
                stop = source.fold(judged, start)
                self._failpoint("after_fold")
                if stop > start:
                    max_time_us = int(judged.running_max_us[stop - 1])
                to_offset = int(judged.events.offsets[stop]) if stop < n else batch.next
                commit = source.commit(owned, to_offset, max_time_us)
            with self._timed("commit"):                                                      # (4)
                answer = self._send(owned, commit, source)
            if isinstance(answer, Refused):
                return answer
            self._fresh(judged, start, stop, answer)
            start = stop
        source.evict()
        self._count(judged)
        return None

    def _send(self, owned: Owned, commit: Commit, source: SourceViews) -> Committed | Refused:
        rows = source.rows_touched
        started_us = self._clock.now_us()
        commit, answer = send(self._online, commit, source.whole, self._failpoint)
        now_us = self._clock.now_us()
        self._metrics.commit_seconds.observe((now_us - started_us) / 1e6)
        if isinstance(answer, Refused):
            self._metrics.commits.labels(answer.reason).inc()
            return answer
        self._metrics.commits.labels("committed").inc()
        self._metrics.commit_rows.observe(rows)
        source.committed(answer.committed_ms)
        owned.moved(commit, now_us)
        return answer

    # -- around a turn -------------------------------------------------------------------------------------------------

    def _poll(self, consumer: Consumer, timeout_s: float, wait: Callable[[float], object]) -> Polled:
        try:
            polled = consumer.poll(timeout_s=timeout_s, max_records=limits.POLL_RECORDS, max_bytes=limits.POLL_BYTES)
        except OffsetOutOfRangeError as error:
            raise OffsetOutOfRangeError(
                f"{error}: events were deleted before they were folded; run `featureflow rebuild` for the views of that topic"
            ) from error
        except UnavailableError as error:
            self._log_problem(str(error))
            wait(timeout_s)
            return Polled(Assignment(), ())
        self._problem = ""
        self._failpoint("after_poll")
        return polled

    def _assign(self, assignment: Assignment) -> None:
        if assignment.revoked or assignment.lost:
            self._failpoint("in_revoke")
        for partition in (*assignment.revoked, *assignment.lost):
            self._forget(partition)
        for partition in assignment.assigned:
            self._forget(partition)
            self._adrift[partition] = _Adrift()                # the log keeps it paused until its first seek

    def _fold(self, consumer: Consumer, batch: Batch) -> None:
        partition = Partition(batch.source, batch.partition)
        owned = self._owned.get(partition)
        if owned is None:
            return                                             # adrift since an earlier batch of this poll
        if batch.first != owned.position:
            consumer.seek(partition, owned.position)           # read before the last seek
            return
        self._metrics.batch_events.observe(len(batch))
        try:
            refused = self._turn(owned, batch)
        except UnavailableError as error:
            self._all_adrift(consumer, str(error))
            return
        if refused is not None:
            self._refused(consumer, partition, refused)

    def _beat(self, consumer: Consumer) -> None:
        """An empty commit for each view of each partition that has had none for a second, so that lost state and lag show."""
        for partition, owned in list(self._owned.items()):
            for commit in owned.beats(self._clock.now_us() - BEAT_US):
                try:
                    answer = self._send(owned, commit, self._sources[partition.source])
                except UnavailableError as error:
                    self._all_adrift(consumer, str(error))
                    return
                if isinstance(answer, Refused):
                    self._refused(consumer, partition, answer)
                    break

    def _claim(self, consumer: Consumer) -> None:
        for partition, adrift in list(self._adrift.items()):
            now_us = self._clock.now_us()
            if adrift.due_us > now_us:
                continue
            source, topic = self._sources[partition.source], self._topics[partition.source]
            try:
                owned = claim.take(
                    self._log, self._online, partition, topic, source.view_ids, now_us, self._failpoint
                )
            except UnavailableError as error:
                self._all_adrift(consumer, str(error))
                for other in self._adrift.values():            # one attempt finds out for all of them
                    other.due_us = max(other.due_us, now_us + adrift.wait_us)
                adrift.wait_us = min(2 * adrift.wait_us, LONGEST_WAIT_US)
                return
            del self._adrift[partition]
            self._owned[partition] = owned
            consumer.seek(partition, owned.position)
            consumer.resume(partition)
            self._logger.info("claimed", source=partition.source, partition=partition.partition, offset=owned.position)

    def _tell(self, consumer: Consumer) -> None:
        self._tell_due_us = self._clock.now_us() + TELL_US
        if self._owned:
            consumer.commit_advisory({partition: owned.position for partition, owned in self._owned.items()})
            self._failpoint("after_advisory")

    def _inspect(self) -> None:
        """Every few seconds: settings that lose state, topics that were recreated or grew, lag."""
        now_us = self._clock.now_us()
        if now_us < self._inspect_due_us:
            return
        self._inspect_due_us = now_us + INSPECT_US
        try:
            self._warnings = tuple(claim.fit(self._online))
            for name in {partition.source for partition in self._owned}:
                topic = self._log.topic(self._topics[name])
                for partition in [partition for partition in self._owned if partition.source == name]:
                    claim.listed(self._online, partition, topic)
                    claim.readable(partition, self._topics[name], self._owned[partition], topic)
                    self._ends[partition] = topic.end[partition.partition]
        except UnavailableError as error:
            self._log_problem(str(error))

    # -- what is held --------------------------------------------------------------------------------------------------

    def _refused(self, consumer: Consumer, partition: Partition, refused: Refused) -> None:
        wait_us = FENCED_WAIT_US if refused.reason == "fenced" else FIRST_WAIT_US
        self._set_adrift(consumer, partition, f"{refused.reason}: {refused.detail}", wait_us)

    def _set_adrift(self, consumer: Consumer, partition: Partition, problem: str, wait_us: int) -> None:
        self._forget(partition)
        consumer.pause(partition)
        self._adrift[partition] = _Adrift(self._clock.now_us() + wait_us, problem=problem)
        self._logger.warning("adrift", source=partition.source, partition=partition.partition, problem=problem)

    def _all_adrift(self, consumer: Consumer, problem: str) -> None:
        """A server is away: nothing that is held can be trusted to be committed."""
        for partition in list(self._owned):
            self._set_adrift(consumer, partition, problem, FIRST_WAIT_US)
        for adrift in self._adrift.values():
            adrift.problem = problem

    def _forget(self, partition: Partition) -> None:
        self._owned.pop(partition, None)
        self._adrift.pop(partition, None)
        self._ends.pop(partition, None)
        with suppress(KeyError):           # its lag is another's to tell, or nobody's now
            self._metrics.lag.remove(partition.source, str(partition.partition))
        self._sources[partition.source].drop(partition.partition)

    def _log_problem(self, problem: str) -> None:
        if problem != self._problem:
            self._logger.warning("waiting", problem=problem)
        self._problem = problem

    # -- what is shown -------------------------------------------------------------------------------------------------

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started_us = self._clock.now_us()
        yield
        self._metrics.stage_seconds.labels(stage).inc(max(0, self._clock.now_us() - started_us) / 1e6)

    def _fresh(self, judged: Judged, start: int, stop: int, committed: Committed) -> None:
        source = judged.batch.source
        self._events += stop - start
        self._metrics.events.labels(source).inc(stop - start)
        if stop > start:
            age_ms = committed.committed_ms - int(judged.events.timestamps_us[stop - 1]) // 1000
            self._metrics.freshness_seconds.labels(source).observe(max(0, age_ms) / 1e3)
        if self._tracer is not None and judged.batch.trace_parents:
            self._trace(self._tracer, judged, start, stop, committed)

    def _count(self, judged: Judged) -> None:
        source = judged.batch.source
        self._dead += len(judged.dead)
        for reason, count in Counter(letter.reason for letter in judged.dead).items():
            self._metrics.dead_letters.labels(source, reason).inc(count)
        for view_id, late in judged.late.items():
            self._late += late
            self._metrics.late.labels(source, view_id).inc(late)

    @staticmethod
    def _trace(tracer: Tracer, judged: Judged, start: int, stop: int, committed: Committed) -> None:
        """A span for each event that came with a traceparent: from the log's timestamp to the commit that made it count."""
        batch, events = judged.batch, judged.events
        for offset, time_us in zip(events.offsets[start:stop].tolist(), events.timestamps_us[start:stop].tolist(), strict=True):
            if parent := batch.trace_parents.get(offset):
                place: dict[str, str | int] = {"source": batch.source, "partition": batch.partition, "offset": offset}
                tracer.span("ingest", parent, time_us * 1_000, committed.committed_ms * 1_000_000, place)

    def _show(self) -> None:
        partitions = [
            PartitionStatus(p.source, p.partition, owned.position, self._ends.get(p, -1)) for p, owned in self._owned.items()
        ]
        partitions += [PartitionStatus(p.source, p.partition, -1, -1, a.problem) for p, a in self._adrift.items()]
        for status in partitions:
            if status.lag is not None:
                self._metrics.lag.labels(status.source, str(status.partition)).set(status.lag)
        problems = tuple(dict.fromkeys(filter(None, (self._problem, *(a.problem for a in self._adrift.values())))))
        ready = self._consumer is not None and not problems
        self._metrics.partitions.set(len(self._owned))
        self._metrics.ready.set(ready)
        self._status = WorkerStatus(
            ready, (*problems, *self._warnings), tuple(partitions), self._events, self._late, self._dead
        )
