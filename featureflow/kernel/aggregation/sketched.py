"""The aggregations that read sketches."""

from __future__ import annotations

from featureflow.kernel.aggregation.base import Aggregation
from featureflow.kernel.partial.basic import Count
from featureflow.kernel.partial.distinct import HyperLogLog


class ApproxDistinct(Aggregation):
    needs = (Count, HyperLogLog)
