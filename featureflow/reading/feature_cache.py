"""State that was read before, for models that are declared to take it: as bytes, with the offset records of the same atomic read.

What is kept is what was read, not what it means: features are computed from it for the instant that is asked about, and name the
offsets that it was folded to. Bounded in bytes; what was not used for longest goes first. Of one event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence

from featureflow import limits
from featureflow.reading.plan import ViewPlan
from featureflow.reading.standing import Records

ENTRY_BYTES = 400  # of an entry beside its values and their names: itself, its id, its place in the map
VALUE_BYTES = 41  # of a value beside its bytes: what Python takes, and a place in a tuple
NAME_BYTES = 150  # of a value's name beside its bytes: as much, and a place among those that are told of
AGES_S = (0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0)
Key = tuple[ViewPlan, str | int | None]  # and the entity; a plan is of one version of a view, in one form


class Entry:
    """One entity's state from all sources of a view: ``names`` of its keys, their values, and when they were asked for.

    ``told``: the server was asked to tell when one of them changes, and has not. ``changed``: it has.
    """

    __slots__ = ("blobs", "changed", "names", "read_s", "records", "told")

    def __init__(self, names: tuple[bytes, ...], read_s: float) -> None:
        self.names, self.read_s = names, read_s
        self.told = self.changed = False
        self.blobs: Sequence[bytes | None] = ()
        self.records: Records


class FeatureCache:
    """Entries by view version and entity."""

    def __init__(self, capacity_bytes: int = limits.FEATURE_CACHE_BYTES) -> None:
        self._capacity_bytes = capacity_bytes
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._told: dict[bytes, Entry] = {}  # by the names of state keys
        self.bytes = 0
        self.hits = self.misses = self.evicted = 0
        self.ages = [0] * (len(AGES_S) + 1)  # hits by age: up to each of AGES_S, and above the last
        self.age_s = 0.0  # of all hits together

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        """What is kept of it, however old."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def hit(self, age_s: float) -> None:
        """What was got is taken."""
        self.hits += 1
        self.age_s += age_s
        self.ages[bisect_left(AGES_S, age_s)] += 1

    def put(self, key: Key, entry: Entry) -> None:
        """Keep it in place of what was kept."""
        if (before := self._entries.pop(key, None)) is not None:
            self._let_go(before)
        self._entries[key] = entry
        self.bytes += _size_of(entry)
        self._hold_on_to(entry.records)
        while self.bytes > self._capacity_bytes and self._entries:
            self._let_go(self._entries.popitem(last=False)[1])
            self.evicted += 1

    def renew(self, entry: Entry, records: Records, read_s: float) -> None:
        """Its state is known to be the same at a later moment, at which these records stood beside it. It is one that is kept."""
        if entry.records is not records:
            self._let_go_of(entry.records)
            self._hold_on_to(records)
            entry.records = records
        entry.read_s = read_s

    def listen(self, entry: Entry) -> None:
        """Its state is about to be read in a way that the server tells changes of."""
        entry.told = True
        for name in entry.names:
            before = self._told.get(name)
            if before is not None:
                before.told = False
            self._told[name] = entry

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """The states of these keys have changed; None: nobody tells any more."""
        for entry in list(self._told.values()) if keys is None else [self._told[key] for key in keys if key in self._told]:
            entry.changed = keys is not None
            self.deaf(entry)

    def deaf(self, entry: Entry) -> None:
        """Nothing is told of it any more."""
        entry.told = False
        for name in entry.names:
            if self._told.get(name) is entry:
                del self._told[name]

    def clear(self) -> None:
        """Keep nothing (the definitions changed)."""
        while self._entries:
            self._let_go(self._entries.popitem()[1])

    def _let_go(self, entry: Entry) -> None:
        self.deaf(entry)
        self.bytes -= _size_of(entry)
        self._let_go_of(entry.records)

    def _hold_on_to(self, records: Records) -> None:
        if not records.entries:
            self.bytes += _size(records.values)
        records.entries += 1

    def _let_go_of(self, records: Records) -> None:
        records.entries -= 1
        if not records.entries:
            self.bytes -= _size(records.values)


def _size_of(entry: Entry) -> int:
    return ENTRY_BYTES + _size(entry.blobs) + sum([NAME_BYTES + len(name) for name in entry.names])


def _size(values: Sequence[bytes | None]) -> int:
    return sum([VALUE_BYTES + len(value) for value in values if value is not None])
