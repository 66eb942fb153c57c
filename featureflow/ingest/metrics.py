"""What a worker shows of itself: Prometheus metrics, and a status to read at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from featureflow import limits

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
FRESHNESS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0)
EVENTS = (1, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, limits.POLL_RECORDS)


class WorkerMetrics:
    """The worker's metrics on a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "featureflow_ingest_events", "Events decoded and committed past.", ["source"], registry=registry
        )
        self.late = Counter(
            "featureflow_ingest_late", "Accepted events that were too old for a view.", ["source", "view"], registry=registry
        )
        self.duplicates = Counter(
            "featureflow_ingest_duplicates", "Events that a view had counted before.", ["source", "view"], registry=registry
        )
        self.dead_letters = Counter(
            "featureflow_ingest_dead_letters", "Records put aside, by reason.", ["source", "reason"], registry=registry
        )
        self.commits = Counter(
            "featureflow_ingest_commits", "Commits by outcome.", ["outcome"], registry=registry
        )
        self.commit_seconds = Histogram(
            "featureflow_ingest_commit_seconds", "From sending a commit to taking its answer.",
            registry=registry, buckets=SECONDS,
        )
        self.commit_rows = Histogram(
            "featureflow_ingest_commit_rows", "Rows that one commit changed.", registry=registry, buckets=EVENTS
        )
        self.batch_events = Histogram(
            "featureflow_ingest_batch_events", "Records in one polled batch.", registry=registry, buckets=EVENTS
        )
        self.freshness_seconds = Histogram(
            "featureflow_ingest_freshness_seconds", "From a record's timestamp in the log to its commit, of each commit's newest.",
            ["source"], registry=registry, buckets=FRESHNESS_SECONDS,
        )
        self.stage_seconds = Counter(
            "featureflow_ingest_stage_seconds", "Time spent, by step.", ["stage"], registry=registry
        )
        self.lag = Gauge(
            "featureflow_ingest_lag", "Records in the log that are not folded yet.", ["source", "partition"], registry=registry
        )
        self.partitions = Gauge("featureflow_ingest_partitions", "Partitions held.", registry=registry)
        self.ready = Gauge("featureflow_ingest_ready", "1 while every assigned partition is held and folded.", registry=registry)


@dataclass(frozen=True)
class PartitionStatus:
    """How far one partition is folded."""

    source: str
    partition: int
    offset: int                            # the lowest of its views
    end: int                               # of the log, when last asked; -1 before
    problem: str = ""                      # why it is not held, or not read, now

    @property
    def lag(self) -> int | None:
        """Records that are not folded yet; None where that is not known now."""
        return max(0, self.end - self.offset) if self.end >= 0 else None


@dataclass(frozen=True)
class WorkerStatus:
    """A moment of a worker, safe to read from any thread."""

    ready: bool
    problems: tuple[str, ...]              # what is being retried, and the store's warnings
    partitions: tuple[PartitionStatus, ...]
    events: int
    late: int
    dead_letters: int
