"""What a scorer counts. One registry per scorer, no globals."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGES = ("fetch", "finalize", "derive", "infer", "answer", "total")
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
LATENCIES = 1_000                          # inferences that the p95 looks back on


class Metrics:
    """Instruments of the score path are touched once per turn and model, not once per request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        stage = Histogram(
            "featureflow_request_seconds", "Seconds by stage; total: from the door to the answer of the turn's oldest request",
            ["stage"], buckets=SECONDS, registry=self.registry,
        )
        self.stage = {name: stage.labels(name) for name in STAGES}
        self.turn_rows = Histogram("featureflow_turn_rows", "Rows that travelled in one turn", buckets=ROWS, registry=self.registry)
        self.requests = Counter("featureflow_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self.scores = Counter("featureflow_scores", "Scores answered", ["model", "variant", "provider"], registry=self.registry)
        self.degraded = Counter("featureflow_degraded", "Scores answered with something degraded", ["what"], registry=self.registry)
        self.shed = Counter("featureflow_shed", "Requests answered 503", ["reason"], registry=self.registry)
        self.inference = Histogram(
            "model_inference_duration_seconds", "Seconds of one inference (one batch)", ["model"], buckets=SECONDS, registry=self.registry,
        )
        self.reloads = Counter("featureflow_definition_reloads", "Definitions reloaded while serving", registry=self.registry)
        self.events = Counter("featureflow_events_posted", "Events appended to the log by POST", ["source"], registry=self.registry)
        self.logged = Counter("featureflow_prediction_log_rows", "Predictions appended to the log", registry=self.registry)
        self.dropped = Counter("featureflow_prediction_log_dropped", "Predictions not logged", ["reason"], registry=self.registry)
        self._requests: dict[tuple[str, int], Counter] = {}
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        Gauge("inference_latency_p95", "95th percentile of the last 1,000 inferences, seconds", registry=self.registry).set_function(self._p95)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def request(self, route: str, status: int) -> None:
        """One request answered. The labelled counter is looked up once per pair."""
        counter = self._requests.get((route, status))
        if counter is None:
            counter = self._requests[(route, status)] = self.requests.labels(route, str(status))
        counter.inc()

    def inferred(self, model: str, seconds: float) -> None:
        self.inference.labels(model).observe(seconds)
        self.stage["infer"].observe(seconds)
        self._latencies.append(seconds)

    def text(self) -> bytes:
        """The exposition text of all instruments."""
        return generate_latest(self.registry)

    def _p95(self) -> float:
        known = sorted(self._latencies)
        return known[int(0.95 * (len(known) - 1))] if known else 0.0
