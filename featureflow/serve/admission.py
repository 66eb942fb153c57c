"""Who is let in: a request that would be answered too late is refused at once, while that is still cheap.

A request's work is its rows by what a row of a full turn takes of its kind. It is admitted where this fits into what is left of its
deadline:

    what is left of the turns under way
    + margin x as many full turns as hold the work that comes before it, of whatever model of its lane, and its own
    + tail: by how much the slow end of recent turns exceeds the typical one

Turns are taken for full because others may yet join the one that it leaves with. Where more important requests keep coming, they will
have their part of that time too.

What a turn takes is two things, measured apart: its own, by its rows and its kind; and what all turns share, the read of features and
what the loop reads and refuses of others meanwhile, which is hardly more for more rows. Taken together, a server that is asked for twice
what it can takes every turn for slow, makes it small, and reads ever more for each: it stayed at a tenth of what it can do (measured).

The work adds medians and the tail counts once: the 99th percentile of a sum of turns is near the sum of their medians and one slow turn,
and far below the sum of their 99th percentiles. The tail is bounded by a quarter of the budget, because a stall that is not caused by
load is not prevented by refusing. The margin grows while more than a hundredth of what was let in turns out late, and shrinks again.

A turn takes no more work than fits into the budget twice, since who has just missed one must wait for it and then go through another; three
times where two may be under way. Who waits and can no longer make it is dropped when its turn comes; the batch is not made smaller for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, exp, inf
from time import monotonic
from typing import NamedTuple

from featureflow.serve.answer import Shed
from featureflow.serve.durations import BUCKETS, Durations, bucket_of
from featureflow.serve.priority import Priority
from featureflow.serve.request import Request
from featureflow.serve.waiting import Waiting

TURN_ROWS = 256  # a turn closes at this size; one request may be larger, and then travels alone
QUEUE_TURNS = 4  # full turns that may wait
FIRST_ROWS = 16  # of a turn while nothing is known of its kind
FLOOR = 0.25  # the tail is at least so much of a turn: a ring without a slow turn is luck
TAIL_SHARE = 0.25  # ... and at most so much of the budget
HELD_SHARE, HELD_S = 0.2, 0.004  # of the budget, at least so many seconds: what a turn may hold the event loop up for
TRIED = 0.5  # of what is predicted: while nobody else is there, one is tried that would be in time if things are better by now
SAME = 1.25  # times as long is hardly longer
LAG_SHARE = 0.2  # of the budget, by which the event loop may lag
LATE_SHARE = 0.01  # of those let in that may turn out late
WIDER, NARROWER, MARGIN_MOST, ADJUST_S = 1.05, 0.99, 1.25, 0.05
LOAD_S, SPARE_LEAST = 0.1, 0.05  # how far back the load of more important requests is looked at; the part of the time that it leaves
BUDGETS = 64  # that are worked out at a time
HOUR_S = 3600.0
ROUNDING = 1 + 1e-6
STANDS_S = 0.005  # how long what was worked out stands
REFUSING_S = 0.1  # after a refusal, how long it is worth asking before a request is read whole


class Cost(NamedTuple):
    """For one kind under one budget, in seconds. ``known`` is False where nothing was measured yet."""

    unit_s: float  # a row of a full turn
    fixed_s: float  # what a turn takes beside its rows, at most: of a full one each row bears its part
    tail_s: float
    turn_s: float  # the most that a turn may take, and still fit into the budget as often as there may be before an answer
    most_s: float  # the same by what a row is taken to be, for the next larger size where that is to be tried
    known: bool

    @property
    def rows(self) -> int:
        """How many a turn takes at most, by what is known."""
        return max(1, round(self.turn_s / self.unit_s)) if self.known else FIRST_ROWS


@dataclass(slots=True)
class Took:
    """What one kind had in a turn. ``seconds`` is its own, without what all kinds of the turn shared; ``held_s`` is for how long the event
    loop could do nothing else meanwhile.
    """

    kind: str
    rows: int
    seconds: float
    held_s: float = 0.0


class Kind:
    """What is known of one kind of work: whole turns, and for how long they hold the event loop up."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.turns, self.holds = Durations(now_s), Durations(now_s, STANDS_S)
        self.known = False  # whether those who wait could be priced
        self.costs: dict[int, Cost] = {}
        self.costed_s = -inf


class Admission:
    """Counts work in, predicts, and learns from each turn's duration. Belongs to one event loop."""

    def __init__(self, turn_rows: int = TURN_ROWS, now_s: Callable[[], float] = monotonic) -> None:
        self.turn_rows = turn_rows
        self.waiting = Waiting()
        self.kinds: dict[str, Kind] = {}
        self.margin = 1.0
        self.lag_s = 0.0  # of the event loop, as its probe tells
        self.refused_s = -inf  # when somebody was refused last
        self._now_s = now_s
        self.shared = Durations(now_s, STANDS_S)  # by turns, whatever their rows and kinds
        self.under_way = 1  # turns, at most: one computes, those after it are read meanwhile
        self._running: deque[float] = deque()  # what each turn under way is expected to take, one after another
        self._began_s = 0.0  # the first of them
        self._adjusted_s = -inf
        self._asked = [(-inf, 0.0) for _ in Priority]  # of each: when it was looked at last, and work let in since, old work less and less
        self._late = self._answered = 0

    # -- letting in ----------------------------------------------------------------------------------------------------

    def admit(self, request: Request, *, let_in: bool = False) -> tuple[Shed | None, list[Request]]:
        """Let the request wait, or say why not; and those that had to make way for it. ``let_in``: it is part of one that may."""
        now_s, rows = self._now_s(), len(request.rows)
        cost = self.cost(request.kind, request.deadline.budget_s, now_s)
        if not let_in and (refused := self._refused(request, cost, now_s)):
            return refused, []
        request.cost_s = rows * cost.unit_s
        self.waiting.add(request)
        since_s, asked_s = self._asked[request.priority]
        self._asked[request.priority] = (now_s, asked_s * exp((since_s - now_s) / LOAD_S) + request.cost_s)
        displaced = []
        while not self._can_finish(request, now_s) and (one := self.waiting.make_way(request)) is not None:
            displaced.append(one)
        return None, displaced

    def refusal(self, kind: str, client: str, priority: Priority, rows: int, left_s: float, budget_s: float) -> str:
        """Why such a request would be refused now, as ``Shed.reason`` has it; empty where it would be let in."""
        now_s = self._now_s()
        return self._refusal(self.cost(kind, budget_s, now_s), kind, client, priority, rows, left_s, budget_s, now_s)

    def refused(self, request: Request) -> Shed | None:
        """Why it may not wait, if it may not."""
        now_s = self._now_s()
        return self._refused(request, self.cost(request.kind, request.deadline.budget_s, now_s), now_s)

    def _refused(self, request: Request, cost: Cost, now_s: float) -> Shed | None:
        left_s, budget_s = request.deadline.at_s - now_s, request.deadline.budget_s
        reason = self._refusal(cost, request.kind, request.client, request.priority, len(request.rows), left_s, budget_s, now_s)
        if not reason:
            return None
        self.refused_s = now_s
        return self._shed(reason, request, left_s)

    def _refusal(
        self, cost: Cost, kind: str, client: str, priority: Priority, rows: int, left_s: float, budget_s: float, now_s: float
    ) -> str:
        if self.lag_s > max(0.0, LAG_SHARE * budget_s):
            return "lag"
        waiting = self.waiting
        own_s = rows * cost.unit_s
        full = waiting.rows and waiting.rows + rows > QUEUE_TURNS * self.turn_rows
        if full and not waiting.would_make_way(priority, kind, client, own_s):
            return "queue_full"
        if not self._running and not waiting.requests:
            return "" if left_s > TRIED * self.kind(kind).turns.worth() * _turns_s(own_s, cost) else "predicted_late"
        left_s -= self.residual_s(now_s) + cost.tail_s
        if left_s < 0:
            return "predicted_late"
        left_s *= self._spare(priority, now_s) / self.margin
        if _turns_s(waiting.ahead_s(priority) + own_s, cost) <= left_s:
            return ""
        return "" if _turns_s(waiting.share_s(priority, kind, client, own_s) + own_s, cost) <= left_s else "predicted_late"

    def predicted_s(self, kind: str, rows: int, budget_s: float = inf, priority: Priority = Priority.NORMAL) -> float:
        """Seconds until so many rows more would be answered."""
        now_s = self._now_s()
        cost = self.cost(kind, budget_s, now_s)
        work_s = _turns_s(self.waiting.ahead_s(priority) + rows * cost.unit_s, cost)
        return self.residual_s(now_s) + work_s * self.margin / self._spare(priority, now_s) + cost.tail_s

    @property
    def refusing(self) -> bool:
        """Whether somebody was refused just now."""
        return self._now_s() - self.refused_s < REFUSING_S

    def _spare(self, priority: Priority, now_s: float) -> float:
        """The part of the time that more important requests leave, as they came lately."""
        more_s = 0.0
        for since_s, asked_s in self._asked[:priority]:
            if asked_s:
                more_s += asked_s * exp((since_s - now_s) / LOAD_S)
        return max(SPARE_LEAST, 1.0 - more_s / LOAD_S) if more_s else 1.0

    def residual_s(self, now_s: float | None = None) -> float:
        """What is left of the turns under way. One that takes longer than expected may take as long again as it is over."""
        if not self._running:
            return 0.0
        first_s = self._running[0]
        left_s = self._began_s + first_s - (self._now_s() if now_s is None else now_s)
        return (left_s if left_s > 0 else min(-left_s, first_s)) + sum(self._running) - first_s

    def _can_finish(self, request: Request, now_s: float) -> bool:
        """Whether all that waits is no more than can finish within the budget of who came last."""
        waiting, budget_s = self.waiting, request.deadline.budget_s
        if waiting.rows > QUEUE_TURNS * self.turn_rows and waiting.requests > 1:
            return False
        return self.residual_s(now_s) + self.margin * waiting.work_s <= max(budget_s, waiting.longest_s)

    def _shed(self, reason: str, request: Request, left_s: float) -> Shed:
        if reason == "queue_full":
            return Shed(reason, f"{self.waiting.rows} rows are waiting already; send fewer at a time, or try again")
        if reason == "lag":
            return Shed(reason, f"the server is behind by {self.lag_s * 1e3:.1f} ms")
        wait_s = self.predicted_s(request.kind, len(request.rows), request.deadline.budget_s, request.priority)
        return Shed(
            reason, f"an answer is predicted to take {wait_s * 1e3:.1f} ms, and {max(left_s, 0) * 1e3:.1f} ms are left"
        )

    def lags(self, seconds: float) -> None:
        """The event loop is behind by so much."""
        self.lag_s = seconds

    # -- a turn --------------------------------------------------------------------------------------------------------

    def take(self) -> tuple[list[Request], list[Request]]:
        """The next turn's requests, which has now begun with them, and those that wait in vain."""
        waiting, now_s = self.waiting, self._now_s()
        residual_s = self.residual_s(now_s)
        batch: list[Request] = []
        hopeless: list[Request] = []
        rows, work_s, fixed_s, most_s, most_rows = 0, 0.0, 0.0, inf, self.turn_rows
        kind, budget_s = "", 0.0
        while (request := waiting.first()) is not None:
            size = len(request.rows)
            if request.kind != kind or _turn_budget_s(request) != budget_s:
                kind, budget_s = request.kind, _turn_budget_s(request)
                cost = self.cost(kind, budget_s, now_s)
                most_s, fixed_s = min(most_s, cost.most_s), max(fixed_s, cost.fixed_s)
                if not cost.known:
                    most_rows = min(most_rows, FIRST_ROWS)
            own_s = size * cost.unit_s
            if batch and (rows + size > most_rows or work_s + own_s > most_s * ROUNDING):
                break
            waiting.take()
            if request.future.done():
                continue  # its caller has gone away
            coming_s = _turn_s(min(work_s + own_s + waiting.work_s, max(most_s, own_s)), fixed_s, most_s)
            if not batch and not waiting.requests:
                coming_s *= TRIED * self.kind(request.kind).turns.worth()  # nobody else waits
            if request.deadline.at_s - now_s <= residual_s + coming_s:
                hopeless.append(request)
                continue
            batch.append(request)
            rows += size
            work_s += own_s
        if batch:
            if not self._running:
                self._began_s = now_s
            self._running.append(_turn_s(work_s, fixed_s, most_s))
        return batch, hopeless

    def ended(self, seconds: float, parts: Sequence[Took], *, answered: int = 0, late: int = 0) -> None:
        """A turn has ended, its answers sent, that took so long, of which each part had its own; none where nothing was computed. Of its
        requests so many were answered, and so many not, because it was too late.
        """
        if self._running:
            self._running.popleft()
        self._began_s = self._now_s()
        if parts:
            self.shared.add(1, max(0.0, seconds - sum(part.seconds for part in parts)))
        for part in parts:
            kind = self.kind(part.kind)
            kind.turns.add(part.rows, part.seconds)
            kind.holds.add(part.rows, part.held_s)
            if not kind.known:  # those who were let in unmeasured are counted for what they are
                kind.costs.clear()
                self.waiting.price(part.kind, lambda waits: self.cost(waits.kind, waits.deadline.budget_s).unit_s)
        self.outcome(answered, late)

    def outcome(self, answered: int, late: int) -> None:
        """So many that were let in were answered, and so many not, because it was too late."""
        self._answered += answered
        self._late += late
        now_s = self._now_s()
        if now_s - self._adjusted_s < ADJUST_S or not (self._answered or self._late):
            return
        wider = self._late > LATE_SHARE * (self._answered + self._late)
        self.margin = min(MARGIN_MOST, self.margin * WIDER) if wider else max(1.0, self.margin * NARROWER)
        self._late = self._answered = 0
        self._adjusted_s = now_s

    # -- what things cost ----------------------------------------------------------------------------------------------

    def adopt(self, kind: str, other: Admission) -> None:
        """Take over what another has measured of this kind."""
        self.kinds[kind] = other.kind(kind)

    def rows_of_a_turn(self, request: Request) -> int:
        """How many rows of its kind a turn takes at most."""
        return self.cost(request.kind, _turn_budget_s(request)).rows

    def kind(self, name: str) -> Kind:
        found = self.kinds.get(name)
        if found is None:
            found = self.kinds[name] = Kind(self._now_s)
        return found

    def cost(self, name: str, budget_s: float, now_s: float | None = None) -> Cost:
        """What is expected of this kind under this budget."""
        kind = self.kinds.get(name) or self.kind(name)
        if now_s is None:
            now_s = self._now_s()
        if now_s - kind.costed_s > STANDS_S or len(kind.costs) >= BUDGETS:
            kind.costs.clear()
            kind.costed_s = now_s
        key = int(min(budget_s, HOUR_S) * 1e4)
        found = kind.costs.get(key)
        if found is None:
            found = kind.costs[key] = self._cost(kind, budget_s)
        return found

    def _cost(self, kind: Kind, budget_s: float) -> Cost:
        typical, slow, holds = kind.turns.typical(), kind.turns.slow(), kind.holds.typical()
        kind.known = typical[0] > 0.0
        if not kind.known:
            return Cost(0.0, 0.0, 0.0, inf, inf, False)
        shared_s, slow_shared_s = self.shared.typical()[0], self.shared.slow()[0]
        typical = [own_s + shared_s for own_s in typical]
        slow = [own_s and own_s + max(shared_s, slow_shared_s) for own_s in slow]
        held_s = max(HELD_S, HELD_SHARE * budget_s)

        def tail(at: int) -> float:
            return min(max(slow[at] - typical[at], FLOOR * typical[at]), TAIL_SHARE * budget_s)

        def fits(at: int, turn_s: float) -> bool:
            return (1 + self.under_way) * self.margin * turn_s + tail(at) <= budget_s and holds[at] <= held_s

        last = bucket_of(self.turn_rows)
        at = next((at for at in range(last, 0, -1) if fits(at, typical[at])), 0)
        # One that takes hardly longer does as well, for more: of what is mostly reading others, no size fits much better than another.
        most_held_s = held_s if fits(at, typical[at]) else inf
        longer_s = SAME * typical[at]
        at = next(more for more in range(last, at - 1, -1) if more == at or (typical[more] <= longer_s and holds[more] <= most_held_s))
        rows, turn_s = BUCKETS[at], typical[at]
        each_s = (turn_s - typical[0]) / (rows - 1) if rows > 1 else turn_s
        most_s = turn_s
        if at < last and not kind.turns.tried(at + 1) and fits(at, turn_s):  # the next size is tried: it may well take no longer
            most_s = turn_s * BUCKETS[at + 1] / rows
        return Cost(turn_s / rows, max(0.0, typical[0] - each_s), tail(at), turn_s, most_s, True)


def _turn_budget_s(request: Request) -> float:
    """Others wait for a turn that has begun: who has more time than most takes no more of theirs."""
    return min(request.deadline.budget_s, request.usual_s)


def _turns_s(work_s: float, cost: Cost) -> float:
    """What full turns of so much work take; work that is more than a turn by itself goes alone."""
    return ceil(work_s / (cost.turn_s * ROUNDING)) * cost.turn_s if cost.known else 0.0


def _turn_s(work_s: float, fixed_s: float, most_s: float) -> float:
    """What a turn of so much work takes: of what is fixed, a full one has its part in each row already."""
    return work_s + fixed_s * max(0.0, 1.0 - work_s / most_s) if most_s else work_s
