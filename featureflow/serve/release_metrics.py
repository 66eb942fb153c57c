"""What a scorer shows of releases: which is in force, what each arm and shadow did, and how right each version was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from featureflow.serve.assigned import Carried, Count
from featureflow.store.mirror import Accuracy

DIFFERENCES = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
ARM = ("model", "arm", "version")
LIVE = {
    "auc": "Live AUC", "auc_error": "What the live AUC may be off by, at most", "base_rate": "Live share of positive labels",
    "calibration_error": "Live calibration error", "labels": "Labels",
}  # fmt: skip


class ReleaseMetrics(Collector):
    """``carried`` and the others are asked when a scrape comes."""

    def __init__(
        self,
        registry: CollectorRegistry,
        carried: Callable[[], Mapping[str, Carried]] = dict,
        counts: Callable[[], Mapping[tuple[str, str, str], Count]] = dict,
        accuracy: Callable[[], Mapping[str, Mapping[str, Accuracy]]] = dict,
        processes: Callable[[str], int | None] = lambda model: None,
    ) -> None:
        self._processes = processes
        self._carried, self._counts, self._accuracy = carried, counts, accuracy
        registry.register(self)
        self._shadow = Counter(
            "featureflow_shadow_rows", "Rows that a shadow scored, failed at, skipped, lacked the inputs of, or dropped at shutdown",
            ["model", "version", "outcome"], registry=registry,
        )  # fmt: skip
        self._differs = Histogram(
            "featureflow_shadow_difference", "How far a shadow's score is from the answered one", ["model", "version"],
            buckets=DIFFERENCES, registry=registry,
        )  # fmt: skip

    def shadowed(self, model: str, version: str, outcome: str, rows: int) -> None:
        """outcome: ``scored failed skipped lacking shutdown``."""
        self._shadow.labels(model, version, outcome).inc(rows)

    def differs(self, model: str, version: str, differences: NDArray[np.float64]) -> None:
        """|shadow's score - answered score|, float64 (n,)."""
        observer = self._differs.labels(model, version)
        for difference in differences.tolist():
            observer.observe(difference)

    def collect(self) -> Iterable[Metric]:
        number = GaugeMetricFamily("featureflow_release_number", "The release that this process carries out", labels=["model"])
        ended = GaugeMetricFamily("featureflow_release_ended", "1: its candidates left their bounds", labels=["model"])
        together = GaugeMetricFamily(
            "featureflow_release_processes",
            "Whose counts of its candidates are judged together, this process among them",
            labels=["model"],
        )
        for name, carried in self._carried().items():
            if (processes := self._processes(name)) is not None:
                together.add_metric([name], processes)
            number.add_metric([name], carried.release.number)
            ended.add_metric([name], carried.ended is not None)
        rows = CounterMetricFamily("featureflow_arm_rows", "Rows that an arm of a release was asked for", labels=ARM)
        failed = CounterMetricFamily("featureflow_arm_failed_rows", "Those that have no score", labels=ARM)
        lacking = CounterMetricFamily(
            "featureflow_arm_lacking_rows", "Rows that stable answered for an arm, since they lacked what its version reads", labels=ARM
        )
        seconds = CounterMetricFamily("featureflow_arm_infer_seconds", "Seconds of its inferences", labels=ARM)
        for labels, count in list(self._counts().items()):
            rows.add_metric(labels, count.rows)
            failed.add_metric(labels, count.failed)
            lacking.add_metric(labels, count.lacking)
            seconds.add_metric(labels, count.seconds)
        yield from (number, ended, together, rows, failed, lacking, seconds)
        for field, text in LIVE.items():
            family = GaugeMetricFamily(f"featureflow_live_{field}", text, labels=["model", "version"])
            for name, versions in self._accuracy().items():
                for version, seen in versions.items():
                    value = getattr(seen, field)
                    if value is not None:
                        family.add_metric([name, version], value)
            yield family
