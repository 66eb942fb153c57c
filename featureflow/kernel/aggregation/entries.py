"""The aggregations that keep entries of events: values of the newest, the oldest, or of those with the largest or smallest of something."""

from __future__ import annotations

from typing import ClassVar

from featureflow.define import spec
from featureflow.kernel.aggregation.base import Aggregation
from featureflow.kernel.partial.base import Partial
from featureflow.kernel.partial.basic import Count
from featureflow.kernel.partial.entries import Entries
from featureflow.kernel.partial.newest import First, LastN
from featureflow.kernel.partial.ranked import MaxBy, MinBy


class Kept(Aggregation):
    """Values are read from the entries, best first; ``finalize`` is not called."""

    entries: ClassVar[type[Entries]]

    @classmethod
    def partials(cls, declared: spec.Aggregation) -> tuple[Partial, ...]:
        entries = cls.entries.of(declared)
        return Count(entries.value, entries.where), entries


class Last(Kept):
    """``last`` and ``last_n``."""

    needs = (Count, LastN)
    entries = LastN


class FirstOf(Kept):
    needs = (Count, First)
    entries = First


class MaxByOf(Kept):
    needs = (Count, MaxBy)
    entries = MaxBy


class MinByOf(Kept):
    needs = (Count, MinBy)
    entries = MinBy
