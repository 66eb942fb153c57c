"""Who is let in: a request that would be answered too late is refused at once, while that is still cheap.

The queue is bounded in rows, and a request is refused when the predicted wait breaks its deadline. The prediction is
what is left of the turn under way, and ``1.25 x median`` of recent turns for each that stands before the answer. Turns
older than half a second no longer count, so that one stall does not keep everybody out for good. (The slow end of recent
turns would predict better under a steady overload, but on a shared machine one preempted turn in a hundred would then
refuse everybody: measured, 90 % of the requests at a load that is served without it.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic

from featureflow.serve.answer import Shed
from featureflow.serve.deadline import Deadline

MEMORY_S = 0.5
REMEMBERED = 64
TURN_ROWS = 256  # a turn closes at this size; one request may be larger, and then travels alone
QUEUE_TURNS = 4  # full turns that may wait
MARGIN = 1.25


class Admission:
    """Counts rows in, predicts, and learns from each turn's duration. Belongs to one event loop."""

    def __init__(self, turn_rows: int = TURN_ROWS, now_s: Callable[[], float] = monotonic) -> None:
        self.turn_rows = turn_rows
        self.queued_rows = 0
        self.running_turns = 0
        self._now_s = now_s
        self._turn_s = self._began_s = 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)  # (ended at, seconds)

    def admit(self, rows: int, deadline: Deadline) -> Shed | None:
        """None lets the request in and counts its rows; they are to be given to ``started`` later."""
        if self.queued_rows and self.queued_rows + rows > QUEUE_TURNS * self.turn_rows:
            return Shed(
                "queue_full", f"{self.queued_rows} rows are waiting already; send fewer at a time, or try again"
            )
        left_s = deadline.at_s - self._now_s()
        wait_s = self.predicted_s(rows)
        if wait_s > left_s:
            return Shed(
                "predicted_late",
                f"an answer is predicted to take {wait_s * 1e3:.1f} ms, and {max(left_s, 0) * 1e3:.1f} ms are left",
            )
        self.queued_rows += rows
        return None

    def predicted_s(self, rows: int) -> float:
        """Seconds until ``rows`` more rows would be answered: the turns under way, those queued, and their own."""
        turn_s = self.turn_s()
        left_s = max(0.0, turn_s - (self._now_s() - self._began_s)) if self.running_turns else 0.0
        return left_s + turn_s * (1 + (self.queued_rows + rows - 1) // self.turn_rows)

    def turn_s(self) -> float:
        """What a turn takes, with a margin; 0 when none has ended lately."""
        if self._recent and self._now_s() - self._recent[-1][0] > MEMORY_S:
            self._recent.clear()
            self._turn_s = 0.0
        return self._turn_s

    def started(self, rows: int) -> None:
        """A turn with so many of the queued rows has begun."""
        self.queued_rows -= rows
        self.running_turns += 1
        self._began_s = self._now_s()

    def ended(self, seconds: float) -> None:
        """A turn has ended that took so long: the next are expected to take the median of those of late, with a margin."""
        self.running_turns -= 1
        now_s = self._now_s()
        self._recent.append((now_s, seconds))
        while now_s - self._recent[0][0] > MEMORY_S:
            self._recent.popleft()
        durations = sorted([s for _, s in self._recent])
        self._turn_s = MARGIN * durations[len(durations) // 2]
