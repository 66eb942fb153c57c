"""Every aggregation there is, by the name that definitions give it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from featureflow.errors import DefinitionError
from featureflow.kernel.aggregation.base import Aggregation
from featureflow.kernel.aggregation.basic import CountOf, MaxOf, Mean, MinOf, Stddev, SumOf, Variance
from featureflow.kernel.aggregation.decayed import DecayedCount, DecayedMean, DecayedSum
from featureflow.kernel.aggregation.entries import FirstOf, Last, MaxByOf, MinByOf
from featureflow.kernel.aggregation.sketched import ApproxDistinct, ApproxQuantile, TopK, TopKCount
from featureflow.kernel.aggregation.time import Rate, TimeSinceLast

AGGREGATIONS: Mapping[str, type[Aggregation]] = MappingProxyType({
    "count": CountOf,
    "sum": SumOf,
    "mean": Mean,
    "min": MinOf,
    "max": MaxOf,
    "variance": Variance,
    "stddev": Stddev,
    "rate": Rate,
    "time_since_last": TimeSinceLast,
    "decayed_sum": DecayedSum,
    "decayed_mean": DecayedMean,
    "decayed_count": DecayedCount,
    "last": Last,
    "last_n": Last,
    "first": FirstOf,
    "max_by": MaxByOf,
    "min_by": MinByOf,
    "approx_distinct": ApproxDistinct,
    "approx_quantile": ApproxQuantile,
    "top_k": TopK,
    "top_k_count": TopKCount,
})


def aggregation(op: str) -> type[Aggregation]:
    """The aggregation named ``op``. Raises DefinitionError for an unknown one."""
    if op not in AGGREGATIONS:
        raise DefinitionError(f"there is no aggregation {op!r}", write="one of " + ", ".join(AGGREGATIONS))
    return AGGREGATIONS[op]
