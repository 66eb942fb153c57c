"""What a scorer counts. One registry per scorer, no globals."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

STAGES = ("fetch", "finalize", "derive", "infer", "answer")
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
EDGES = (*(repr(edge) for edge in SECONDS), "+Inf")
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
LATENCIES = 1_000  # inferences that the p95 looks back on


class Seconds(Collector):
    """A histogram for what is observed at every request: one event loop writes it, so it needs no lock."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._counts = [0] * (len(SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        running = accumulate(self._counts)
        buckets = [(edge, float(count)) for edge, count in zip(EDGES, running, strict=True)]
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


class Requests(Collector):
    """Requests answered, by route and status; as lean as ``Seconds``."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}

    def add(self, route: str, status: int) -> None:
        key = (route, status)
        self._counts[key] = self._counts.get(key, 0) + 1

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily("featureflow_requests", "Requests answered", labels=["route", "status"])
        for (route, status), count in list(self._counts.items()):
            family.add_metric([route, str(status)], count)
        yield family


class Counts(Collector):
    """Counters that are kept elsewhere, by one label, read when they are scraped."""

    def __init__(self, name: str, text: str, label: str, read: Callable[[], Mapping[str, int]]) -> None:
        self._name, self._text, self._label, self._read = name, text, label, read

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=[self._label])
        for value, count in self._read().items():
            family.add_metric([value], count)
        yield family


class Metrics:
    """Instruments of the score path are touched once per turn and model, but for the two lean ones."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        stage = Histogram(
            "featureflow_request_seconds",
            "Seconds of each stage of a turn",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stage = {name: stage.labels(name) for name in STAGES}
        self.turn_rows = Histogram(
            "featureflow_turn_rows", "Rows that travelled in one turn", buckets=ROWS, registry=self.registry
        )
        self.total = Seconds("featureflow_score_seconds", "Seconds from the arrival of a score request to its answer")
        self.requests = Requests()
        self.registry.register(self.total)
        self.registry.register(self.requests)
        self.scores = Counter(
            "featureflow_scores", "Scores answered", ["model", "variant", "provider"], registry=self.registry
        )
        self.degraded = Counter(
            "featureflow_degraded", "Scores answered with something degraded", ["what"], registry=self.registry
        )
        self.shed = Counter("featureflow_shed", "Requests answered 503", ["reason"], registry=self.registry)
        self.too_slow = Counter(
            "featureflow_too_slow", "Requests that did not come whole in time", ["part"], registry=self.registry
        )
        self.inference = Histogram(
            "model_inference_duration_seconds",
            "Seconds of one inference (one batch)",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.reloads = Counter(
            "featureflow_definition_reloads", "Definitions reloaded while serving", registry=self.registry
        )
        self.events = Counter(
            "featureflow_events_posted", "Events appended to the log by POST", ["source"], registry=self.registry
        )
        self.logged = Counter(
            "featureflow_prediction_log_rows", "Predictions appended to the log", registry=self.registry
        )
        self.dropped = Counter(
            "featureflow_prediction_log_dropped", "Predictions not logged", ["reason"], registry=self.registry
        )
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        Gauge(
            "inference_latency_p95", "95th percentile of the last 1,000 inferences, seconds", registry=self.registry
        ).set_function(self._p95)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def counts(self, name: str, text: str, label: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Counters by one label that are kept elsewhere and read when they are scraped."""
        self.registry.register(Counts(name, text, label, read))

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
