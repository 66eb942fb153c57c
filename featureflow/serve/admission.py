"""Who is let in: a request that would be answered too late is refused at once, while that is still cheap.

The queue is bounded in rows, and a request is refused when the predicted wait breaks its deadline. The prediction is made from the
slow end of recent turns, ``s99 = max(p99, 1.25 x median)``, never from their mean; turns older than half a second no longer count,
so that one stall does not keep everybody out for good.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

from featureflow import limits
from featureflow.serve.answer import Shed
from featureflow.serve.deadline import Deadline

MEMORY_S = 0.5
REMEMBERED = 128
QUEUE_TURNS = 4                            # full turns that may wait


class Admission:
    """Counts rows in, predicts, and learns from each turn's duration. Belongs to one event loop."""

    def __init__(self, turn_rows: int = limits.TURN_ROWS) -> None:
        self.turn_rows = turn_rows
        self.queued_rows = 0
        self.running_turns = 0
        self.turn_s = 0.0                  # s99 of recent turns
        self._recent: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)   # (ended at, seconds)

    def admit(self, rows: int, deadline: Deadline) -> Shed | None:
        """None lets the request in and counts its rows; it must then be taken by ``started``."""
        if self.queued_rows and self.queued_rows + rows > QUEUE_TURNS * self.turn_rows:
            return Shed("queue_full", f"{self.queued_rows} rows are waiting already; send fewer at a time, or try again")
        left_s = deadline.left_s()
        wait_s = self.predicted_s(rows)
        if wait_s > left_s:
            return Shed("predicted_late", f"an answer is predicted to take {wait_s * 1e3:.1f} ms, and {max(left_s, 0) * 1e3:.1f} ms are left")
        self.queued_rows += rows
        return None

    def predicted_s(self, rows: int) -> float:
        """Seconds until ``rows`` more rows would be answered: the turns under way, those queued, and their own."""
        if self.turn_s and self._recent and monotonic() - self._recent[-1][0] > MEMORY_S:
            self._recent.clear()
            self.turn_s = 0.0
        ahead = (self.queued_rows + rows - 1) // self.turn_rows
        return self.turn_s * (1 + ahead + (1 if self.running_turns else 0))

    def started(self, rows: int) -> None:
        self.queued_rows -= rows
        self.running_turns += 1

    def ended(self, seconds: float) -> None:
        self.running_turns -= 1
        now = monotonic()
        self._recent.append((now, seconds))
        while now - self._recent[0][0] > MEMORY_S:
            self._recent.popleft()
        durations = sorted(s for _, s in self._recent)
        self.turn_s = max(durations[int(0.99 * (len(durations) - 1))], 1.25 * durations[len(durations) // 2])
