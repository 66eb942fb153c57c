"""What need not be read while the server tells of its changes: the offset records of a bucket, a group of keys whose values are of the same
moment as the states that stand beside them, and states that seldom change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from featureflow import limits

Group = tuple[bytes, ...]
Values = tuple[bytes | None, ...]
CACHED_GROUPS = 20_000             # a bucket's records of one view each: 625 views in 32 buckets
LOOK, CALM = 8, 3
LOOKED_AT = 100_000                # states of which the end is remembered
END_BYTES = 64                     # an event mostly changes the last row, or adds one; where it does not, one change more is told
STATE_BYTES = 200                  # of a state that is kept beside its bytes: its name, and what Python takes


class Together(NamedTuple):
    """Values of groups and of other keys, those of one bucket as they were at one moment."""

    groups: list[Values]
    values: Sequence[bytes | None]


async def read_all(
    read: Callable[[Sequence[bytes]], Awaitable[list[bytes | None]]], groups: Sequence[Group], keys: Sequence[bytes]
) -> Together:
    """By one read of everything."""
    names = [key for group in groups for key in group]
    found = await read([*names, *keys]) if names or keys else []
    at, values = 0, list[Values]()
    for group in groups:
        values.append(tuple(found[at : at + len(group)]))
        at += len(group)
    return Together(values, found[at:])


class States:
    """Values of states that are read often and seldom change, which the server tells changes of. Those that came first go first where they
    are too many.

    To keep a state and be told of its change costs as much as to read it some four times. So at one of ``LOOK`` reads it is looked whether
    what was read has the end that it had the last time; what had it ``CALM`` times in a row is kept from the next read on.
    """

    def __init__(self, most_bytes: int = limits.KEPT_STATE_BYTES) -> None:
        self._most_bytes, self.bytes = most_bytes, 0
        self._values: OrderedDict[bytes, bytes | None] = OrderedDict()
        self._ends: dict[bytes, tuple[bytes | None, int]] = {}  # of what is not kept: its end, and how often it was that again
        self._calm: set[bytes] = set()  # of these: what is to be kept
        self._reads = 0

    def __len__(self) -> int:
        return len(self._values)

    def unknown(self, keys: Sequence[bytes], *, tell: bool) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Those that are not kept: which are to be read so that their changes are told, and which as they are. ``tell``: all so."""
        values, calm = self._values, self._calm
        if not values and not calm:
            return (keys, ()) if tell else ((), keys)
        if all(map(values.__contains__, keys)):
            return (), ()
        absent = [key for key in keys if key not in values]
        if tell or calm.isdisjoint(absent):
            return (absent, ()) if tell else ((), absent)
        return [key for key in absent if key in calm], [key for key in absent if key not in calm]

    def beside(self, keys: Sequence[bytes], read: Sequence[bytes], found: Sequence[bytes | None]) -> Sequence[bytes | None] | None:
        """The value of each of the keys, of those that were just ``read`` or that are kept; None where one is neither any more."""
        if len(read) == len(keys):
            return found
        try:
            if not read:
                return list(map(self._values.__getitem__, keys))
            own = dict(zip(read, found, strict=True))
            return [own[key] if key in own else self._values[key] for key in keys]
        except KeyError:
            return None

    def look(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """At what was read as it is."""
        self._reads += 1
        if self._reads % LOOK:
            return
        if len(self._ends) + len(keys) > LOOKED_AT:
            self._ends.clear()
            self._calm.clear()
        for key, value in zip(keys, values, strict=True):
            end = value and value[-END_BYTES:]
            before, times = self._ends.get(key, (end, -1))
            times = times + 1 if before == end else 0
            self._ends[key] = end, times
            if times == CALM:
                self._calm.add(key)

    def put(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Read in a way that the server tells changes from then on."""
        for key, value in zip(keys, values, strict=True):
            self.drop(key)
            self._values[key] = value
            self.bytes += STATE_BYTES + len(value or b"")
            self._ends.pop(key, None)
        self._calm.difference_update(keys)
        while self.bytes > self._most_bytes and self._values:
            self.drop(next(iter(self._values)))

    def drop(self, key: bytes) -> None:
        """It has changed; nothing where it is not kept."""
        if key in self._values:
            self.bytes -= STATE_BYTES + len(self._values.pop(key) or b"")

    def clear(self) -> None:
        self._values.clear()
        self.bytes = 0


class Kept:
    """Values of groups that the server tells changes of, over the connection that it answers on. They die with the connection.

    The server writes into one stream, in order: that a key of a group was changed, as it is changed, and answers. So whatever is here
    when an answer is taken off the stream is what stood in the store when that answer was made.

    ``live``: there is a connection, and its server tells. ``confirmed_s``: of the monotonic clock; all changes before it have been told.
    ``listener`` is called with the keys that have changed, whoever reads them, or None: nothing is told of what was read before.
    """

    def __init__(self) -> None:
        self.live, self.confirmed_s = False, float("-inf")
        self.listener: Callable[[Sequence[bytes] | None], None] | None = None
        self.states = States()
        self._values: dict[Group, Values] = {}
        self.get = self._values.get  # of a group; None where it is not known. A turn asks for each bucket of each view, twice
        self._groups: dict[bytes, tuple[Group, ...]] = {}

    def put(self, group: Group, values: Values) -> None:
        """Read in a way that the server tells changes from then on."""
        if len(self._values) >= CACHED_GROUPS:
            self._values.clear()
            self._groups.clear()
        for key in group:
            groups = self._groups.get(key, ())
            if group not in groups:
                self._groups[key] = (*groups, group)
        self._values[group] = values

    def begin(self) -> None:
        """A connection is there whose server tells changes."""
        self.changed(None)
        self.live = True

    def end(self) -> None:
        """It is lost, or tells no more."""
        self.live, self.confirmed_s = False, float("-inf")
        self.changed(None)

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """Forget these, and the groups that have one of them; None: all."""
        if self.listener is not None:
            self.listener(keys)
        if keys is None:
            self._values.clear()
            self._groups.clear()
            self.states.clear()
            return
        for key in keys:
            self.states.drop(key)
            for group in self._groups.pop(key, ()):
                self._values.pop(group, None)
