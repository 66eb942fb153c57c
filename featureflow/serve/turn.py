"""All requests that arrive in one turn of the event loop travel as one batch: one read, one finalize per view, one inference per model.

While a turn is under way the next one gathers. It leaves when a round of the loop brings no more requests: there is no delay,
but callers who were answered together and ask again at once travel together again, which halves the turns under load.

Of a slow model, which computes beside the loop, the next turn is read while one computes: admission says how many may be under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, cast

from featureflow.pending import EagerTask
from featureflow.serve.admission import Admission, Took
from featureflow.serve.answer import Shed
from featureflow.serve.request import Request

ROUNDS = 8  # of the loop, at most, that a turn waits while each brings more
BREATHS = 8  # rounds between two turns under overload: what has come is read and refused in small parts, not in bursts that take long
Batch = list[Request]
Run = Callable[[Batch, Callable[[], None]], Awaitable[Sequence[Took]]]
FAILED = Shed("failed", "this batch of requests failed; the server's log says why")
HOPELESS = Shed("late", "what was before it took longer than was expected, so that it could no longer be answered in time")
DISPLACED = Shed("displaced", "it made way for a request of higher priority, or of a caller or model that had less")


class Turns:
    """``join`` a request; ``run(batch, computing)`` is awaited with each batch and must resolve every request's future.

    It gives what each kind of work took by itself, and calls ``computing`` where the loop has only to wait from then on. A turn lasts
    until its answers are sent, which ``send`` does.
    """

    def __init__(self, run: Run, admission: Admission, send: Callable[[], None] = lambda: None) -> None:
        self._run, self.admission, self._send = run, admission, send
        self._queue = admission.waiting
        self._scheduled = False
        self._reading: Batch | None = None  # the turn that does not compute yet: there is one at a time
        self._ended_s = 0.0
        self._gathered = self._rounds = 0
        self._tasks: set[EagerTask[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._queue)

    @property
    def active(self) -> int:
        """Turns under way."""
        return len(self._tasks)

    def join(self, request: Request, *, let_in: bool = False) -> Shed | None:
        """Queue the request for the coming turn, or say why not; ``let_in``: it was asked already."""
        refused, displaced = self.admission.admit(request, let_in=let_in)
        for other in displaced:
            _resolve(other, DISPLACED)
        if refused is None:
            self._schedule()
        return refused

    async def left(self, timeout_s: float) -> None:
        """Wait until the turn that is due or under way has ended, so long at most; not for one that comes after it."""
        for _ in range(ROUNDS + 1):
            if self._tasks or not self._queue:
                break
            await asyncio.sleep(0)
        if self._tasks:
            await asyncio.wait(cast(Any, self._tasks), timeout=timeout_s)  # it takes what is like a future, its annotation does not say so

    def _schedule(self) -> None:
        if not self._scheduled and self._reading is None and len(self._tasks) < self.admission.under_way:
            self._scheduled = True
            self._loop.call_soon(self._leave)

    def _leave(self) -> None:
        if len(self._queue) > self._gathered and self._rounds < ROUNDS and not self.admission.refusing:
            self._gathered, self._rounds = len(self._queue), self._rounds + 1
            self._loop.call_soon(self._leave)
            return
        self._scheduled = False
        self._gathered = self._rounds = 0
        if self._reading is None and (batch := self._next()):
            task = EagerTask(self._turns(batch))
            self._tasks.add(task)
            task.add_done_callback(self._done)
            task.start()
        if self._queue:
            self._schedule()

    def _next(self) -> Batch:
        batch, hopeless = self.admission.take()
        for request in hopeless:
            _resolve(request, HOPELESS)
        self._reading = batch or None
        return batch

    async def _turns(self, batch: Batch) -> None:
        """While some are refused there are enough of them: the next turn begins after BREATHS of the loop, which turns hold up, or after
        one where they compute beside it.
        """
        await self._one(batch)
        while self.admission.refusing:
            for _ in range(BREATHS if self.admission.under_way == 1 else 1):
                await asyncio.sleep(0)
            if self._reading is not None or not (batch := self._next()):
                return
            await self._one(batch)

    async def _one(self, batch: Batch) -> None:
        began_s = perf_counter()
        parts: Sequence[Took] = ()
        try:
            parts = await self._run(batch, lambda: self._read(batch))
        finally:
            self._read(batch)
            for request in batch:
                _resolve(request, FAILED)
            self._send()
            answers = [request.future.result() for request in batch if not request.future.cancelled()]
            late = sum(type(answer) is Shed and answer.reason == "late" for answer in answers)
            now_s = perf_counter()  # while the one before it computed it did not: that is told of that one
            self.admission.ended(now_s - max(began_s, self._ended_s), parts, answered=len(answers) - late, late=late)
            self._ended_s = now_s

    def _read(self, batch: Batch) -> None:
        """This turn only computes from now on, or has ended."""
        if self._reading is batch:
            self._reading = None
            if self._queue:
                self._schedule()

    def _done(self, task: EagerTask[None]) -> None:
        self._tasks.discard(task)
        if (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a turn failed", "exception": error, "task": task})
        if self._queue:
            self._schedule()


def _resolve(request: Request, answer: Shed) -> None:
    if not request.future.done():
        request.future.set_result(answer)
