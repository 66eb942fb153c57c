"""Where one partition's log was seen to end, and when: what says how fresh its state is.

A record's own time cannot say it: a producer may have set it, and the last record of a quiet partition is old though nothing is
missing. That the log ended at E after the instant t says that whatever has come as far as E counts all that was there at t.
"""

from __future__ import annotations

KEPT = 64                                  # more are thinned out: a replay of hours needs no instant to the second


class Ends:
    """Of one claim. Instants are the online store's, in milliseconds, ascending."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, int]] = []             # (instant, end), the end growing

    def saw(self, at_ms: int, end: int) -> None:
        """Asked after ``at_ms``, the log said that it ends at ``end``."""
        if self._seen and self._seen[-1][1] == end:
            self._seen[-1] = (at_ms, end)
            return
        if len(self._seen) == KEPT:
            del self._seen[1::2]
        self._seen.append((at_ms, end))

    def complete_ms(self, offset: int) -> int:
        """The newest instant known at which the log ended at ``offset`` or before; 0 where none is."""
        return next((at_ms for at_ms, end in reversed(self._seen) if end <= offset), 0)

    @property
    def newest(self) -> int:
        """The end as last seen; -1 before."""
        return self._seen[-1][1] if self._seen else -1
