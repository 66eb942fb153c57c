"""The aggregations that read sketches."""

from __future__ import annotations

from featureflow.kernel.aggregation.base import Aggregation
from featureflow.kernel.partial.basic import Count
from featureflow.kernel.partial.distinct import HyperLogLog
from featureflow.kernel.partial.frequent import FrequentValues
from featureflow.kernel.partial.quantile import LogBuckets


class ApproxDistinct(Aggregation):
    needs = (Count, HyperLogLog)


class ApproxQuantile(Aggregation):
    """The value of rank floor(q * (n - 1)) of n, counted from 0; several quantiles of one value share a sketch."""

    needs = (Count, LogBuckets)


class TopK(Aggregation):
    """The most frequent values, most frequent first."""

    needs = (Count, FrequentValues)


class TopKCount(Aggregation):
    """How often each of them occurs, in the same order: of the same sketch."""

    needs = (Count, FrequentValues)
