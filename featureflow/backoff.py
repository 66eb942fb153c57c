"""How long to wait for what is away, before it is asked again."""

from __future__ import annotations

from featureflow.clock import Clock


class Backoff:
    """The first wait, twice as long after each further failure, and never longer than the longest."""

    def __init__(self, clock: Clock, first_us: int, longest_us: int) -> None:
        self._clock, self._first_us, self._longest_us = clock, first_us, longest_us
        self._next_us, self._due_us = first_us, 0

    @property
    def waiting(self) -> bool:
        """Whether it is too early to ask again."""
        return self._clock.now_us() < self._due_us

    @property
    def left_us(self) -> int:
        """Until it may be asked again."""
        return max(0, self._due_us - self._clock.now_us())

    def failed(self) -> int:
        """How long to wait from now on (us)."""
        wait_us = self._next_us
        self._due_us, self._next_us = self._clock.now_us() + wait_us, min(2 * wait_us, self._longest_us)
        return wait_us

    def succeeded(self) -> None:
        """The next failure is a first one again."""
        self._next_us, self._due_us = self._first_us, 0
