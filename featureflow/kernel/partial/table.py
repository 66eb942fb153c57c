"""Every partial there is."""

from __future__ import annotations

from featureflow.kernel.partial.base import Partial
from featureflow.kernel.partial.basic import Count, Max, Min, Sum, SumOfSquares
from featureflow.kernel.partial.newest import LastN
from featureflow.kernel.partial.time import Earliest, Latest

PARTIALS: tuple[type[Partial], ...] = (Count, Sum, SumOfSquares, Max, Min, LastN, Latest, Earliest)
