"""What a scrape is told of caches and circuit breakers: read from them then, so that they count in plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from featureflow.breaker import Breaker
from featureflow.reading.feature_cache import AGES_S, FeatureCache
from featureflow.serve.score_cache import ScoreCache

STATES = ("closed", "half_open", "open")


class CacheMetrics(Collector):
    """Hits, misses, bytes and ages of state that was read before, and hits of scores."""

    def __init__(self, features: FeatureCache, scores: ScoreCache) -> None:
        self._features, self._scores = features, scores

    def collect(self) -> Iterable[Metric]:
        features, scores = self._features, self._scores
        looked_up = {"hit": features.hits, "miss": features.misses}
        yield _counter("featureflow_feature_cache_lookups", "Entities looked up", "outcome", looked_up)
        yield CounterMetricFamily("featureflow_feature_cache_evicted", "Entities let go for want of room", value=features.evicted)
        yield GaugeMetricFamily("featureflow_feature_cache_bytes", "Bytes of state that was read before", value=features.bytes)
        yield GaugeMetricFamily("featureflow_feature_cache_entries", "Entities whose state is kept", value=len(features))
        running = zip((*map(repr, AGES_S), "+Inf"), map(float, accumulate(features.ages)), strict=True)
        yield HistogramMetricFamily(
            "featureflow_feature_cache_age_seconds", "Age of state that was taken", buckets=list(running), sum_value=features.age_s
        )
        yield _counter("featureflow_score_cache_lookups", "Rows looked up", "outcome", {"hit": scores.hits, "miss": scores.misses})
        yield GaugeMetricFamily("featureflow_score_cache_entries", "Scores that are remembered", value=len(scores))


class BreakerMetrics(Collector):
    """State and calls of each circuit breaker."""

    def __init__(self, breakers: Sequence[Breaker]) -> None:
        self._breakers = breakers

    def collect(self) -> Iterable[Metric]:
        calls = CounterMetricFamily("featureflow_breaker_calls", "Calls of what a scorer depends on", labels=["dependency", "outcome"])
        opened = CounterMetricFamily("featureflow_breaker_opened", "Times that a circuit breaker opened", labels=["dependency"])
        state = GaugeMetricFamily("featureflow_breaker_state", "1 for the state that it is in", labels=["dependency", "state"])
        for breaker in self._breakers:
            for outcome, count in dict(breaker.calls).items():
                calls.add_metric([breaker.name, outcome], count)
            opened.add_metric([breaker.name], breaker.opened)
            now = breaker.state
            for name in STATES:
                state.add_metric([breaker.name, name], name == now)
        yield from (calls, opened, state)


def _counter(name: str, text: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
