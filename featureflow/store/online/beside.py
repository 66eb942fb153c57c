"""What stands beside states: groups of keys whose values are read as of the same moment as the states, the offset records of a bucket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

Group = tuple[bytes, ...]
Values = tuple[bytes | None, ...]
CACHED_GROUPS = 20_000             # a bucket's records of one view each: 625 views in 32 buckets


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
        self._values: dict[Group, Values] = {}
        self._groups: dict[bytes, tuple[Group, ...]] = {}

    def get(self, group: Group) -> Values | None:
        """None where it is not known."""
        return self._values.get(group)

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
        """Forget the groups that have one of these; None: all of them."""
        if self.listener is not None:
            self.listener(keys)
        if keys is None:
            self._values.clear()
            self._groups.clear()
            return
        for key in keys:
            for group in self._groups.pop(key, ()):
                self._values.pop(group, None)
