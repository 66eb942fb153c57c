"""Offset records -> how far the sources of a view had been folded when its state was read, and how fresh that is now."""

from __future__ import annotations

from dataclasses import dataclass

from featureflow.errors import StateError
from featureflow.reading.plan import ViewPlan
from featureflow.store.online import record
from featureflow.store.online.beside import Values
from featureflow.store.online.protocol import OffsetRecord

NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the sources of one view had been folded in one bucket when it was read."""

    applied: dict[str, dict[int, int]]  # source -> partition -> the offset up to which events are counted
    missing: frozenset[str] = NONE  # sources of which an offset record is absent or dirty: what was read cannot be trusted
    stale: frozenset[str] = NONE  # sources of which it is not known that all that their log held ``stale_after`` ago is counted


class Records:
    """Offset records of one view and bucket as they were read, and what they say.

    ``entries``: how many of a cache hold on to them. ``seen_s``: when they were last known to stand there.
    """

    __slots__ = ("_complete_ms", "_oldest_ms", "_standing", "entries", "seen_s", "values")

    def __init__(self, plan: ViewPlan, values: Values, seen_s: float = 0.0) -> None:
        self.values, self.entries, self.seen_s = values, 0, seen_s
        applied: dict[str, dict[int, int]] = {}
        missing: set[str] = set()
        self._complete_ms: dict[str, int] = {}  # source -> up to when all its partitions are known to be counted
        at = 0
        for source in plan.sources:
            applied[source.name] = offsets = {}
            for partition, value in enumerate(values[at : at + source.partitions]):
                stored = decoded(value)
                if stored is None or stored.dirty != -1:
                    missing.add(source.name)
                else:
                    offsets[partition] = stored.offset
                    known_ms = self._complete_ms.get(source.name, stored.complete_ms)
                    self._complete_ms[source.name] = min(stored.complete_ms, known_ms)
            at += source.partitions
        self._standing = Standing(applied, frozenset(missing))
        self._oldest_ms = min(self._complete_ms.values(), default=0)

    @classmethod
    def of(cls, standing: Standing) -> Records:
        """That say this at any time."""
        found = cls.__new__(cls)
        found.values, found.entries, found.seen_s, found._complete_ms, found._standing = (), 0, float("inf"), {}, standing
        found._oldest_ms = 1 << 62
        return found

    def standing(self, now_ms: int, stale_ms: int) -> Standing:
        """What they say now: a source is stale that is not known to be complete as of ``stale_ms`` ago."""
        if now_ms - self._oldest_ms <= stale_ms:
            return self._standing
        late = frozenset(name for name, complete_ms in self._complete_ms.items() if now_ms - complete_ms > stale_ms)
        return Standing(self._standing.applied, self._standing.missing, late - self._standing.missing)


def decoded(value: bytes | None) -> OffsetRecord | None:
    """None for what is absent, or no offset record."""
    try:
        return None if value is None else record.decode(value)
    except StateError:
        return None
