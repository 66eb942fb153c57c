"""What the history writer counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WHERE = ["source", "partition"]


class HistoryMetrics:
    """One writer's counters, in the registry that its process exposes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"featureflow_history_{name}", help_text, labels, registry=registry)

        def gauge(name: str, help_text: str, *labels: str) -> Gauge:
            return Gauge(f"featureflow_history_{name}", help_text, labels, registry=registry)

        self.rows = counter("rows", "Events written to history", "source")
        self.skipped = counter("skipped", "Records that are no events; the ingest worker dead-letters them", "source")
        self.conflicts = counter("conflicts", "Appends refused because another writer moved the offset", "source")
        self.failures = counter("failures", "Attempts that ended in an error and were backed off", "error")
        self.next_offset = gauge("offset", "Next offset of history", *WHERE)
        self.lag = gauge("lag", "Records in the log that history does not hold yet", *WHERE)
        self.up = gauge("up", "1 while log and database answer")
        self.append_seconds = Histogram(
            "featureflow_history_append_seconds", "One transaction: rows and offset", registry=registry, buckets=SECONDS
        )
