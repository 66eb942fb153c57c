"""All requests that arrive in one turn of the event loop travel as one batch: one read, one finalize per view, one inference per model.

While a turn is under way the next one gathers. It leaves when a round of the loop brings no more requests: there is no delay,
but callers who were answered together and ask again at once travel together again, which halves the turns under load.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter

from featureflow.serve.admission import Admission
from featureflow.serve.answer import Shed
from featureflow.serve.request import Request

ROUNDS = 8  # of the loop, at most, that a turn waits while each brings more
Batch = list[Request]


class Turns:
    """``join`` a request; ``run(batch)`` is awaited with each batch and must resolve every request's future."""

    def __init__(self, run: Callable[[Batch], Awaitable[None]], admission: Admission, *, under_way: int = 1) -> None:
        self._run, self._admission, self._limit = run, admission, under_way
        self._queue: deque[Request] = deque()
        self._scheduled = False
        self._gathered = self._rounds = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._queue)

    @property
    def active(self) -> int:
        """Turns under way."""
        return len(self._tasks)

    def join(self, request: Request) -> Shed | None:
        """Queue the request for the coming turn, or say why not."""
        refused = self._admission.admit(len(request.rows), request.deadline)
        if refused is None:
            self._queue.append(request)
            self._schedule()
        return refused

    async def drain(self) -> None:
        """Wait until nothing is queued or under way."""
        while self._queue or self._tasks:
            await asyncio.sleep(0.001)

    def _schedule(self) -> None:
        if not self._scheduled and len(self._tasks) < self._limit:
            self._scheduled = True
            self._loop.call_soon(self._leave)

    def _leave(self) -> None:
        if len(self._queue) > self._gathered and self._rounds < ROUNDS:
            self._gathered, self._rounds = len(self._queue), self._rounds + 1
            self._loop.call_soon(self._leave)
            return
        self._scheduled = False
        self._gathered = self._rounds = 0
        batch: Batch = []
        rows = 0
        while self._queue and (not batch or rows + len(self._queue[0].rows) <= self._admission.turn_rows):
            request = self._queue.popleft()
            rows += len(request.rows)
            batch.append(request)
        if batch:
            self._admission.started(rows)
            task = self._loop.create_task(self._one(batch))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            if self._queue:
                self._schedule()

    async def _one(self, batch: Batch) -> None:
        began = perf_counter()
        try:
            await self._run(batch)
        finally:
            self._admission.ended(perf_counter() - began)
            for request in batch:
                if not request.future.done():
                    request.future.set_result(
                        Shed("failed", "this batch of requests failed; the server's log says why")
                    )

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a turn failed", "exception": error, "task": task})
        if self._queue:
            self._schedule()
