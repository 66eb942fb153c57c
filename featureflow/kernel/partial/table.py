"""Every partial there is."""

from __future__ import annotations

from featureflow.kernel.partial.base import Partial
from featureflow.kernel.partial.basic import Count, Max, Min, Sum, SumOfSquares
from featureflow.kernel.partial.decayed import Decayed, Weight
from featureflow.kernel.partial.distinct import HyperLogLog
from featureflow.kernel.partial.frequent import FrequentValues
from featureflow.kernel.partial.newest import First, LastN
from featureflow.kernel.partial.quantile import LogBuckets
from featureflow.kernel.partial.ranked import MaxBy, MinBy
from featureflow.kernel.partial.sketch import Sketch
from featureflow.kernel.partial.time import Earliest, Latest

PARTIALS: tuple[type[Partial], ...] = (
    Count, Sum, SumOfSquares, Max, Min, Latest, Earliest, Decayed, Weight, LastN, First, MaxBy, MinBy,
)  # fmt: skip
SKETCHES: tuple[type[Sketch], ...] = (HyperLogLog, LogBuckets, FrequentValues)
