"""Requests for features that wait, and who of them is let in.

What fits into the coming turn waits in the order in which it came: it is looked up at the same time whoever it is from, and to queue it as
scores are would cost a third of what a lookup takes by itself. What comes beyond that waits as scores do (``waiting``): the more
important first, and among equals a fair share for each view and client, bounded, and refused where its deadline would pass.

    until it is answered = what is left of the turn under way
                         + ids before it and its own, by what an id takes
                         + as many turns as these fill, by what a turn takes beside its ids: the store's time, and that of scores
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from featureflow import limits
from featureflow.serve.admission import LAG_SHARE, REFUSING_S
from featureflow.serve.answer import Shed
from featureflow.serve.priority import Priority
from featureflow.serve.waiting import Waiting

if TYPE_CHECKING:
    from featureflow.serve.lookups import Lookup

HELD_S = 0.004  # that a turn may hold the event loop up: a turn of scores comes then
ALONE_S = 1.0  # without a score
FIRST_IDS = 64  # of a turn while nothing is known
WEIGHT = 0.1  # of the newest turn, in what an id and a turn take: a stall is forgotten in a few tens of turns
LEAST_S = 1e-6  # that an id takes


class LookupQueue:
    """Belongs to one event loop. A turn ends with ``ended``; there is one at a time, or none.

    ``scoring``: whether scores wait for the event loop, or are on their way. While none were for ``ALONE_S``, turns hold it up as long
    as they like: larger ones read an entity once for more who ask for it.
    """

    def __init__(self, scoring: Callable[[], bool] = lambda: True) -> None:
        self._scoring, self._scored_s = scoring, -inf
        self.id_s, self.beside_s = 0.0, 0.0  # what an id holds the event loop up for; what a turn takes beside its ids
        self.turn_ids = FIRST_IDS  # the most of a turn, but for a request that is larger, which goes alone
        self.lag_s = 0.0  # of the event loop, as its probe tells
        self._coming: list[Lookup] = []
        self._coming_ids = 0
        self._waiting = Waiting()
        self._began_s: float | None = None  # of the turn under way
        self._expected_s = 0.0
        self._refused_s = -inf
        self._spent_s = 0.0

    @property
    def ids(self) -> int:
        """That wait."""
        return self._coming_ids + self._waiting.rows

    @property
    def refusing(self) -> bool:
        """Whether somebody was refused just now."""
        return monotonic() - self._refused_s < REFUSING_S

    def spent(self, seconds: float) -> None:
        """Requests were read, or answers sent, in so long: beside a turn, and for as many as are in one."""
        self._spent_s += seconds

    def lags(self, seconds: float) -> None:
        """The event loop is behind by so much."""
        self.lag_s = seconds

    # -- letting in ----------------------------------------------------------------------------------------------------

    def join(self, lookup: Lookup) -> tuple[Shed | None, list[Lookup]]:
        """Let it wait, or say why not; and those that had to make way for it."""
        rows = len(lookup.rows)
        if not self._waiting.requests and (not self._coming or self._coming_ids + rows <= self.turn_ids):
            self._coming.append(lookup)
            self._coming_ids += rows
            return None, []
        left_s, budget_s = lookup.deadline.left_s(), lookup.deadline.budget_s
        reason = self.refusal(lookup.kind, lookup.client, lookup.priority, rows, left_s, budget_s)
        if reason:
            self._refused_s = monotonic()
            return Shed(reason, self._why(reason, left_s)), []
        lookup.cost_s = rows * max(LEAST_S, self.id_s)
        request = cast(Any, lookup)  # of a request ``Waiting`` looks at nothing that a lookup lacks
        self._waiting.add(request)
        displaced: list[Any] = []
        waiting = self._waiting
        while waiting.rows > limits.LOOKUP_IDS and waiting.requests > 1 and (one := waiting.make_way(request)) is not None:
            displaced.append(one)
        return None, displaced

    def refusal(self, kind: str, client: str, priority: Priority, rows: int, left_s: float, budget_s: float) -> str:
        """Why such a request would be refused now, as ``Shed.reason`` has it; empty where it would be let in."""
        if self.lag_s > LAG_SHARE * budget_s:
            return "lag"
        if not self._waiting.requests and self._coming_ids + rows <= self.turn_ids:
            return ""
        cost_s = rows * max(LEAST_S, self.id_s)
        full = self._waiting.requests and self._waiting.rows + rows > limits.LOOKUP_IDS
        if full and not self._waiting.would_make_way(priority, kind, client, cost_s):
            return "queue_full"
        return "" if self._until_s(kind, client, priority, cost_s) <= left_s else "predicted_late"

    def _until_s(self, kind: str, client: str, priority: Priority, cost_s: float) -> float:
        """Until such a request would be answered."""
        waiting = self._waiting
        before_s = min(waiting.ahead_s(priority), waiting.share_s(priority, kind, client, cost_s))
        work_s = self._coming_ids * self.id_s + before_s + cost_s
        full_s = self.turn_ids * max(LEAST_S, self.id_s)
        residual_s = 0.0 if self._began_s is None else max(0.0, self._began_s + self._expected_s - monotonic())
        turns = min(ceil(work_s / full_s), waiting.requests + 2)  # no more than there are requests, of which large ones go alone
        return residual_s + work_s + turns * self.beside_s

    def _why(self, reason: str, left_s: float) -> str:
        if reason == "queue_full":
            return f"{self._waiting.rows} ids are waiting already; send fewer at a time, or try again"
        if reason == "lag":
            return f"the server is behind by {self.lag_s * 1e3:.1f} ms"
        return f"the features of {self.ids} ids are asked for before, and {max(left_s, 0) * 1e3:.1f} ms are left"

    # -- a turn --------------------------------------------------------------------------------------------------------

    def take(self) -> list[Lookup]:
        """The next turn's requests, which has begun with them; those whose callers have gone away are left out. Empty: nobody waits."""
        batch, most = [one for one in self._coming if not one.future.done()], self.turn_ids
        ids = sum([len(one.rows) for one in batch])
        self._coming, self._coming_ids = [], 0
        while (first := cast("Lookup | None", self._waiting.first())) is not None and (not batch or ids + len(first.rows) <= most):
            self._waiting.take()
            if not first.future.done():
                batch.append(first)
                ids += len(first.rows)
        self._began_s, self._expected_s = (monotonic(), ids * self.id_s + self.beside_s) if batch else (None, 0.0)
        return batch

    def ended(self, ids: int, held_s: float, seconds: float) -> None:
        """A turn of so many ids has ended: for how long it held the event loop up, and how long it took."""
        self._began_s = None
        spent_s, self._spent_s = self._spent_s, 0.0
        if not ids:
            return
        weight = WEIGHT if self.id_s else 1.0
        self.id_s += weight * (max(LEAST_S, (held_s + spent_s) / ids) - self.id_s)
        now_s = monotonic()
        if self._scoring():
            self._scored_s = now_s
        most = int(HELD_S / self.id_s) if now_s - self._scored_s < ALONE_S else limits.ROWS_PER_REQUEST
        self.turn_ids = max(1, min(limits.ROWS_PER_REQUEST, most))
        self.beside_s += weight * (max(0.0, seconds - held_s) - self.beside_s)
