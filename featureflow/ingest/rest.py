"""How long a worker that keeps up with the log leaves the store to those who read it.

The server applies the commits of a batch one behind the other, and what a batch costs goes by the keys that it writes: a key that several
of its events change is written once. A worker that polls again at once commits a few events at a time, at several times the cost of
each, and takes all that store and machine have to give, whatever the rate of events. So it rests, as long as the store had to do with
its last batch: readers have the store for half of the time, and the next batch is larger. Where a store is slow, or a machine busy, it
rests for longer. One that is behind does not rest.
"""

from __future__ import annotations

from collections.abc import Callable

from featureflow.clock import Clock

LONGEST_US = 100_000                       # what a rest may add to the age of an event


class Rest:
    """``began`` with the first commit of a turn, ``ended`` with its last answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._began_us, self._until_us = clock, -1, 0

    def over(self, wait: Callable[[float], object]) -> None:
        """Wait for what is left of the rest after the last turn."""
        left_us = min(LONGEST_US, self._until_us - self._clock.now_us())       # also where the clock was put back
        if left_us > 0:
            wait(left_us / 1e6)

    def began(self) -> None:
        """Commits of a turn were sent."""
        if self._began_us < 0:
            self._began_us = self._clock.now_us()

    def ended(self, *, behind: bool) -> None:
        """All of them are answered. ``behind``: there is more in the log than was read."""
        began_us, self._began_us, now_us = self._began_us, -1, self._clock.now_us()
        took_us = now_us - began_us if began_us >= 0 and not behind else 0
        self._until_us = now_us + min(LONGEST_US, max(0, took_us))
