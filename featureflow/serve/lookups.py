"""Features that callers look at now. What is asked for while a read is on its way is read together next, once per view, as scores are."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import numpy as np

from featureflow import limits
from featureflow.clock import Clock
from featureflow.errors import UnavailableError
from featureflow.reading.features import Features, finalize
from featureflow.reading.fetch import Fetcher, Reading, Unread
from featureflow.reading.finalized import Finalized
from featureflow.reading.plan import ViewPlan

Ids = list[str | int | None]


@dataclass(slots=True, eq=False)
class _Asked:
    plan: ViewPlan
    ids: Ids
    future: asyncio.Future[tuple[int, Features]]


class Lookups:
    """Belongs to one event loop. One read is under way at a time, of at most ``limits.ROWS_PER_REQUEST`` ids, or of one request."""

    def __init__(self, fetcher: Fetcher, clock: Clock, finalized: Finalized) -> None:
        self._fetcher, self._clock, self._finalized = fetcher, clock, finalized
        self._waiting: deque[_Asked] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def ask(self, plan: ViewPlan, ids: Ids) -> asyncio.Future[tuple[int, Features]]:
        """(q, features) of these ids in their order, from one atomic read. The future may raise UnavailableError."""
        future: asyncio.Future[tuple[int, Features]] = self._loop.create_future()
        self._waiting.append(_Asked(plan, ids, future))
        if self._reading is None:
            self._reading = self._loop.create_task(self._read())
        return future

    async def _read(self) -> None:
        try:
            while batch := self._batch():
                try:
                    await self._one(batch)
                except Exception as error:
                    for asked in batch:
                        if not asked.future.done():
                            asked.future.set_exception(error)
        finally:
            self._reading = None

    def _batch(self) -> list[_Asked]:
        batch: list[_Asked] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].ids) <= limits.ROWS_PER_REQUEST):
            asked = self._waiting.popleft()
            if asked.future.done():  # its caller has gone away
                continue
            rows += len(asked.ids)
            batch.append(asked)
        return batch

    async def _one(self, batch: list[_Asked]) -> None:
        wanted: dict[ViewPlan, dict[str | int | None, int]] = {}
        for asked in batch:
            ids = wanted.setdefault(asked.plan, {})
            for entity_id in asked.ids:
                ids.setdefault(entity_id, len(ids))
        read = await self._fetcher.fetch({plan: list(ids) for plan, ids in wanted.items()}, None)
        if isinstance(read, Unread):
            raise UnavailableError(read.detail)
        q_us = self._clock.now_us()
        found = {plan: finalize(reading, q_us, self._finalized) for plan, reading in read.items()}
        for asked in batch:
            if asked.future.done():
                continue
            place = wanted[asked.plan]
            rows = [place[entity_id] for entity_id in asked.ids]
            features = found[asked.plan]
            if features.degraded:  # by another's row, perhaps
                features = finalize(_part(read[asked.plan], rows), q_us)
            else:
                features = features.take(np.array(rows, np.intp), asked.ids)
            asked.future.set_result((q_us, features))


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
