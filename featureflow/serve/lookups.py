"""Features that callers look at. What is asked for while a turn of them is under way is looked up together next, as scores are.

They have a queue and turns of their own. A score must not wait for the online store longer than its own deadline, and lookups may; so
neither queue is before the other. The event loop they share turn by turn: one of lookups holds it up for ``HELD_S`` at most, where there is
more than one request in it, and then the turn of scores that is due or under way has as long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter

import structlog

from featureflow.clock import Clock
from featureflow.errors import FeatureFlowError, RequestError, UnavailableError
from featureflow.pending import EagerTask, Pending
from featureflow.reading.features import Features, finalize, no_exact_answer
from featureflow.reading.fetch import Fetcher, Reading, Unread
from featureflow.reading.finalized import Finalized
from featureflow.reading.plan import ViewPlan
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.deadline import Deadline, budget_of
from featureflow.serve.lag import Lag
from featureflow.serve.lookup_queue import HELD_S, LookupQueue
from featureflow.serve.priority import NOBODY, Caller
from featureflow.serve.turn import DISPLACED, FAILED, Turns

DEADLINE_S = 1.0  # of a request that names none: as long as the online store is given
READS = 9  # turns whose reads are on their way at once: nobody waits any more for any but the newest
Ids = list[str | int | None]
Wanted = dict[ViewPlan, dict[str | int | None, int]]  # the ids that are read of each view, and the place of each
Read = dict[ViewPlan, Reading] | Unread
Show = Callable[[int, Features, Sequence[int]], Answer]
Told = Answer | Shed | FeatureFlowError
log = structlog.get_logger("featureflow.serve")


class Lookup:
    """One request on its way: a view's features of these ids, now or at an instant, shown by ``show``.

    ``future`` gives what to send, why it is not answered, or the error that it ends in. ``rows``: what is counted of it.
    """

    __slots__ = ("at_us", "client", "cost_s", "deadline", "future", "ids", "kind", "priority", "rows", "show", "view")

    def __init__(
        self, view: ViewPlan, ids: Ids, at_us: int | None, show: Show, deadline: Deadline, future: Pending[Told], caller: Caller
    ) -> None:
        self.view, self.ids, self.at_us, self.show, self.deadline, self.future = view, ids, at_us, show, deadline, future
        self.kind, self.client, self.priority = view.view.name, caller.client, caller.priority
        self.rows, self.cost_s = ids or [None], 0.0


class Lookups:
    """Belongs to one event loop. One turn is under way at a time. ``scores``: the turns of scores, which are let in between. ``send`` sends
    what a turn has answered.
    """

    def __init__(self, fetcher: Fetcher, clock: Clock, finalized: Finalized, lag: Lag, scores: Turns, send: Callable[[], None]) -> None:
        self._fetcher, self._clock, self._finalized, self._lag, self._scores, self._send = fetcher, clock, finalized, lag, scores, send
        self.queue = LookupQueue(lambda: bool(scores.active or scores.waiting))
        self._going: EagerTask[None] | None = None
        self._reads = asyncio.Semaphore(READS)
        self._loop = asyncio.get_running_loop()

    def ask(self, view: ViewPlan, ids: Ids, at_us: int | None, show: Show, *, since_s: float, caller: Caller = NOBODY) -> Lookup:
        """Put it into the coming turn, or refuse it; its future tells."""
        budget_s = budget_of(caller.deadline_ms, DEADLINE_S)
        lookup = Lookup(view, ids, at_us, show, Deadline(since_s + budget_s, budget_s), Pending(), caller)
        refused, displaced = self.queue.join(lookup)
        for other in displaced:
            _resolve(other, DISPLACED)
        if refused is not None:
            _resolve(lookup, refused)
        elif self._going is None:
            self._begin()
        return lookup

    # -- a turn --------------------------------------------------------------------------------------------------------

    async def _go(self) -> None:
        """Turn after turn, while somebody waits."""
        mine = self._going
        while self._going is mine and (batch := self.queue.take()):
            turn = _Turn(self._loop, batch, self._give_up)
            try:
                async with self._reads:
                    if not turn.over:
                        await self._turn(turn)
            except Exception:
                log.exception("lookups_failed", requests=len(batch))
            finally:
                turn.end()
                began_s = perf_counter()
                self._send()
                self.queue.spent(perf_counter() - began_s)
                if self._going is mine:
                    self._ended(turn)
            if self.queue.ids and (self._scores.active or self._scores.waiting):
                await self._scores.left(HELD_S)
            await asyncio.sleep(0)  # what has come with what the turn waited for is read by then, and goes along
        if self._going is mine:
            self._going = None

    def _give_up(self, turn: _Turn) -> None:
        """Nobody of the turn under way waits any more: the next one goes on, whose callers would else wait beyond their deadlines. The
        read ends by the store's own time-out, by which it is learnt that the store is away; one that has not begun is left out.
        """
        self._ended(turn)
        self._begin()

    def _begin(self) -> None:
        """Once all that this round of the loop reads is there."""
        self._going = EagerTask(self._go())
        self._going.add_done_callback(self._done)
        self._loop.call_soon(self._going.start)

    def _done(self, going: EagerTask[None]) -> None:
        """It ends by itself, or a fault would keep all that come from being answered."""
        if (error := going.exception()) is not None:
            self._loop.call_exception_handler({"message": "turns of lookups failed", "exception": error, "task": going})
            if self._going is going:
                self._going = None

    def _ended(self, turn: _Turn) -> None:
        self.queue.ended(sum([len(lookup.rows) for lookup in turn.batch]), turn.held_s, perf_counter() - turn.began_s)

    async def _turn(self, turn: _Turn) -> None:
        """Answer each: those of now from one read, each of an instant from its own."""
        now = [lookup for lookup in turn.batch if lookup.at_us is None]
        then = [([lookup], _wanted([lookup])) for lookup in turn.batch if lookup.at_us is not None]
        reads = [self._loop.create_task(self._fetch(wanted)) for _, wanted in then]
        if now:
            wanted = _wanted(now)
            self._tell(turn, now, wanted, await self._fetch(wanted))
        for (group, wanted), read in zip(then, reads, strict=True):
            self._tell(turn, group, wanted, await read)

    async def _fetch(self, wanted: Wanted) -> Read:
        return await self._fetcher.fetch({view: list(ids) for view, ids in wanted.items()}, None)

    def _tell(self, turn: _Turn, group: list[Lookup], places: Wanted, read: Read) -> None:
        """Answer the requests of one read."""
        began, now_s, q_us = perf_counter(), monotonic(), self._clock.now_us()
        found: dict[ViewPlan, Features] = {}
        for lookup in group:
            if lookup.future.done():
                continue
            try:
                told: Told = LATE if lookup.deadline.at_s <= now_s else self._answer(lookup, places[lookup.view], read, q_us, found)
            except FeatureFlowError as error:
                told = error
            except Exception:  # a fault in one must not take the others along
                log.exception("lookup_failed", view=lookup.view.view.name, ids=len(lookup.ids))
                told = FAILED
            lookup.future.set_result(told)
        ended = perf_counter()
        turn.held_s += ended - began
        self._lag.held(began, ended)

    def _answer(
        self, lookup: Lookup, place: dict[str | int | None, int], read: Read, q_us: int, found: dict[ViewPlan, Features]
    ) -> Answer:
        """``q_us``: now. ``found``: what is computed of the read already. Raises UnavailableError; RequestError as ``_check`` does."""
        if isinstance(read, Unread):
            raise UnavailableError(read.detail)
        view, reading = lookup.view, read[lookup.view]
        rows = [place[entity_id] for entity_id in lookup.ids]
        if lookup.at_us is not None:
            features = finalize(reading, lookup.at_us)
            _check(lookup, features, reading, lookup.at_us, q_us)
            return lookup.show(lookup.at_us, features, rows)
        if view not in found:
            found[view] = finalize(reading, q_us, self._finalized)
        features = found[view]
        if features.degraded:  # by another's row, perhaps
            return lookup.show(q_us, finalize(_part(reading, rows), q_us), range(len(rows)))
        return lookup.show(q_us, features, rows)


LATE = Shed("late", "its deadline passed before its features were there")


class _Turn:
    """Tells who is in it and late, as his deadline passes; ``given_up`` is told once nobody waits for it any more."""

    __slots__ = ("_given_up", "_loop", "_timer", "batch", "began_s", "held_s", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop, batch: list[Lookup], given_up: Callable[[_Turn], None]) -> None:
        self._loop, self.batch, self._given_up = loop, batch, given_up
        self.began_s, self.held_s, self.over = perf_counter(), 0.0, False
        self._timer = self._arm(batch)

    def end(self) -> None:
        self._timer.cancel()
        for lookup in self.batch:
            _resolve(lookup, FAILED)

    def _arm(self, waiting: list[Lookup]) -> asyncio.TimerHandle:
        return self._loop.call_later(max(0.0, min([lookup.deadline.at_s for lookup in waiting]) - monotonic()), self._due)

    def _due(self) -> None:
        for lookup in self.batch:
            if lookup.deadline.passed():
                _resolve(lookup, LATE)
        if waiting := [lookup for lookup in self.batch if not lookup.future.done()]:
            self._timer = self._arm(waiting)
        else:
            self.over = True
            self._given_up(self)


def _check(lookup: Lookup, features: Features, reading: Reading, at_us: int, now_us: int) -> None:
    """Raises RequestError (422) where the instant cannot be answered exactly from what is kept."""
    unanswerable = no_exact_answer(features, reading, at_us, now_us)
    if unanswerable:
        index, why = next(iter(unanswerable.items()))
        raise RequestError(
            "Cannot be answered exactly at that instant",
            f"{len(unanswerable)} of {len(features.ids)} ids, the first {features.ids[index]!r}: {why}. Ask for a later instant, or have "
            f"this one answered from history: featureflow get {lookup.view.view.name} ID --at INSTANT",
            status=422,
        )


def _wanted(group: list[Lookup]) -> Wanted:
    wanted: Wanted = {}
    for lookup in group:
        ids = wanted.setdefault(lookup.view, {})
        for entity_id in lookup.ids:
            ids.setdefault(entity_id, len(ids))
    return wanted


def _part(reading: Reading, rows: list[int]) -> Reading:
    """These rows of it, with the standings that are theirs."""
    places = [reading.places[row] for row in rows]
    own = {place: i for i, place in enumerate(dict.fromkeys(places) or (0,))}
    return Reading(
        reading.plan,
        [reading.ids[row] for row in rows],
        [own[place] for place in places],
        [reading.standings[place] for place in own],
        [reading.blobs[row] for row in rows],
    )


def _resolve(lookup: Lookup, told: Told) -> None:
    if not lookup.future.done():
        lookup.future.set_result(told)
