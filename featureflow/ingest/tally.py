"""What a worker did, counted: its metrics, its spans, and the numbers of its status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from featureflow.clock import Clock
from featureflow.ingest.judged import Judged
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.store.online.protocol import Committed, Refused
from featureflow.tracing import Tracer


class Tally:
    """Since the worker was made. ``metrics`` may go on from an earlier worker of the process."""

    def __init__(self, metrics: WorkerMetrics, clock: Clock, tracer: Tracer | None) -> None:
        self._metrics, self._clock, self._tracer = metrics, clock, tracer
        self.events = self.late = self.dead = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what the block takes to the time of that stage. A block that raises is not counted."""
        started_us = self._clock.now_us()
        yield
        self._metrics.stage_seconds.labels(stage).inc(max(0, self._clock.now_us() - started_us) / 1e6)

    def sent(self, answer: Committed | Refused, rows: int, took_us: int) -> None:
        """A commit that changed so many rows, and its outcome."""
        self._metrics.commit_seconds.observe(took_us / 1e6)
        if isinstance(answer, Refused):
            self._metrics.commits.labels(answer.reason).inc()
        else:
            self._metrics.commits.labels("committed").inc()
            self._metrics.commit_rows.observe(rows)

    def committed(self, judged: Judged, start: int, stop: int, committed_ms: int, *, fresh: bool) -> None:
        """These events count since that moment of the store's clock. ``fresh``: they are the newest that the source's views have."""
        source = judged.batch.source
        self.events += stop - start
        self._metrics.events.labels(source).inc(stop - start)
        if stop > start and fresh:
            age_ms = committed_ms - int(judged.events.timestamps_us[stop - 1]) // 1000
            self._metrics.freshness_seconds.labels(source).observe(max(0, age_ms) / 1e3)
        if self._tracer is not None and judged.batch.trace_parents:
            self._trace(self._tracer, judged, start, stop, committed_ms)

    def done(self, judged: Judged) -> None:
        """All of the batch is committed past."""
        source = judged.batch.source
        self.dead += len(judged.dead)
        for reason, count in Counter(letter.reason for letter in judged.dead).items():
            self._metrics.dead_letters.labels(source, reason).inc(count)
        for view_id, late in judged.late.items():
            self.late += late
            self._metrics.late.labels(source, view_id).inc(late)
        for view_id, duplicates in judged.duplicates.items():
            self._metrics.duplicates.labels(source, view_id).inc(duplicates)

    @staticmethod
    def _trace(tracer: Tracer, judged: Judged, start: int, stop: int, committed_ms: int) -> None:
        """A span for each event that came with a traceparent: from the log's timestamp to the commit that made it count."""
        batch, events = judged.batch, judged.events
        for offset, time_us in zip(events.offsets[start:stop].tolist(), events.timestamps_us[start:stop].tolist(), strict=True):
            if parent := batch.trace_parents.get(offset):
                place: dict[str, str | int] = {"source": batch.source, "partition": batch.partition, "offset": offset}
                tracer.span("ingest", parent, time_us * 1_000, committed_ms * 1_000_000, place)
