"""What a watching process shows of itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)


class WatchMetrics:
    """On a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.scores = Counter(
            "featureflow_watch_scores", "Scores appended.", ["model", "variant", "provider"], registry=registry
        )
        self.unscored = Counter(
            "featureflow_watch_unscored", "Events that the model gave no score for: missing | model.", ["model", "reason"],
            registry=registry,
        )  # fmt: skip
        self.skipped = Counter(
            "featureflow_watch_skipped", "Records passed by: a decoder's reason, future, no_entity, no_score.", ["source", "reason"],
            registry=registry,
        )  # fmt: skip
        self.degraded = Counter("featureflow_watch_degraded", "Scores by what was degraded.", ["model", "what"], registry=registry)
        self.score_seconds = Histogram(
            "featureflow_watch_score_seconds", "From an event's timestamp in the log until its score is appended, of each batch's newest.",
            ["model"], registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.alerts = Counter("featureflow_watch_alerts", "Alerts appended: raised | cleared.", ["rule", "level"], registry=registry)
        self.alert_seconds = Histogram(
            "featureflow_watch_alert_seconds", "From a score's timestamp in the log until averages and alerts are appended.",
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.unchanged = Counter(
            "featureflow_watch_unchanged", "Scores that changed no average: of an event seen before, or none given.", ["rule"],
            registry=registry,
        )  # fmt: skip
        self.averages = Gauge("featureflow_watch_averages", "Averages kept.", registry=registry)
        self.delivered = Counter(
            "featureflow_watch_delivered", "Alerts to the webhook: delivered | retried | refused.", ["outcome"], registry=registry
        )
        self.failures = Counter(
            "featureflow_watch_failures", "Steps that were begun anew.", ["stage", "error"], registry=registry
        )
        self.partitions = Gauge("featureflow_watch_partitions", "Partitions held.", ["stage"], registry=registry)
