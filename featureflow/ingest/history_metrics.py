"""What the history writer counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class HistoryMetrics:
    """One writer's counters, in the registry that its process exposes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter("featureflow_history_rows", "Events written to history", ["source"], registry=registry)
        self.skipped = Counter("featureflow_history_skipped", "Records that are no events (the ingest worker writes their dead letters)", ["source"], registry=registry)
        self.conflicts = Counter("featureflow_history_conflicts", "Appends refused because another writer moved the offset", ["source"], registry=registry)
        self.failures = Counter("featureflow_history_failures", "Attempts that ended in an error and were backed off", ["error"], registry=registry)
        self.append_seconds = Histogram("featureflow_history_append_seconds", "One transaction: rows and offset", registry=registry, buckets=SECONDS)
        self.next_offset = Gauge("featureflow_history_offset", "Next offset of history", ["source", "partition"], registry=registry)
        self.lag = Gauge("featureflow_history_lag", "Records in the log that history does not hold yet", ["source", "partition"], registry=registry)
        self.up = Gauge("featureflow_history_up", "1 while log and database answer", registry=registry)
