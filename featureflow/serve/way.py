"""The way of a turn: requests in, answers out, with no HTTP in it and nothing of who is let in.

It is one page, ``Way.go``; the numbers there are the steps here:

    1. refuse what is late already        4. derive the model's inputs
    2. read state and offsets, once       5. infer, once per model
    3. finalize each view, once           6. answer each request; log the predictions
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import perf_counter

import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import Clock
from featureflow.errors import ModelError, UnavailableError
from featureflow.pending import EagerTask
from featureflow.reading import features as feature_values
from featureflow.reading.features import Features
from featureflow.reading.fetch import Fetcher, Unread
from featureflow.reading.finalized import Finalized
from featureflow.reading.plan import ModelPlan, ViewPlan
from featureflow.serve.admission import Took
from featureflow.serve.answer import Shed
from featureflow.serve.beside import Beside
from featureflow.serve.deadline import FETCH_MOST_S, fetch_budget_s
from featureflow.serve.lag import Lag
from featureflow.serve.lanes import SLOW_S
from featureflow.serve.metrics import Metrics
from featureflow.serve.prediction_log import PredictionLog
from featureflow.serve.score_cache import ScoreCache
from featureflow.serve.shadow import Shadows
from featureflow.serve.spent import Spent
from featureflow.serve.turn import Batch
from featureflow.serve.work import Wanted, Work, ages_s

HURRIED = 10  # one in so many of a turn may have less time left than its features are given
log = structlog.get_logger("featureflow.serve")


class Holding:
    """Since when a turn has held the event loop up, how long its last inference ran beside the loop, and how long that waited before."""

    __slots__ = ("_from_s", "_lag", "_paused_s", "beside_s", "waited_s")

    def __init__(self, lag: Lag, from_s: float) -> None:
        self._lag, self._from_s, self._paused_s, self.beside_s, self.waited_s = lag, from_s, 0.0, 0.0, 0.0

    def pause(self, now_s: float) -> None:
        self._paused_s = now_s
        self._lag.held(self._from_s, now_s)

    def resume(self, now_s: float) -> None:
        self._from_s, self.beside_s = now_s, now_s - self._paused_s


def _nothing() -> None:
    """The turn has more to read after this."""


class Way:
    """Belongs to one event loop. ``clock`` says what now is for features; ``wall`` is the real one."""

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        clock: Clock,
        wall: Clock,
        metrics: Metrics,
        spent: Spent,
        lag: Lag,
        shadows: Shadows,
        predictions: PredictionLog | None,
    ) -> None:
        self.finalized = Finalized(limits.FINALIZED_BYTES)
        self.score_cache = ScoreCache()
        self._fetcher, self._clock, self._wall = fetcher, clock, wall
        self._metrics, self._spent, self._lag = metrics, spent, lag
        self._shadows, self._predictions = shadows, predictions
        self._id_prefix, self._id_count = os.urandom(8).hex(), 0
        self._beside = Beside()
        self.computes: Callable[[str, float], None] = lambda model, row_s: None  # told what inference of a single row takes

    def close(self) -> None:
        """What is under way is not waited for."""
        self._beside.close()

    async def go(self, batch: Batch, computing: Callable[[], None]) -> list[Took]:
        """Answer every request of it; what each model's part took. ``computing`` is called where all that is left is computed beside the
        loop: what the next turn needs can be read meanwhile.
        """
        # 1. refuse what is late already
        entered = perf_counter()
        live: Batch = []
        for request in batch:
            if request.future.done():
                continue  # its caller has gone away
            if request.deadline.passed():
                request.future.set_result(Shed("late", "its deadline passed while it waited"))
            else:
                live.append(request)
        if not live:
            return []
        groups: dict[tuple[ModelPlan, int, int], Batch] = {}
        for request in live:
            groups.setdefault((request.plan, id(request.loaded), id(request.assigned)), []).append(request)
        wanted: Wanted = {}
        works = [Work(plan, requests[0].loaded, requests, wanted) for (plan, _, _), requests in groups.items()]
        self._metrics.turn_rows.observe(sum(len(work.rows) for work in works))

        # 2. read state and offsets, once
        began = perf_counter()
        asked = {view: list(ids) for view, ids in wanted.items()}
        reading = EagerTask(self._fetcher.fetch(asked, self._fetch_budget_s(live, works), ages_s(works))).start()
        self._lag.busy(entered, perf_counter())
        read = await reading
        fetched = perf_counter()
        holding = Holding(self._lag, fetched)
        self._metrics.stage["fetch"].observe(fetched - began)

        # 3. finalize each view, once
        q_us = self._clock.now_us()
        unread = read if isinstance(read, Unread) else None
        found = (
            {}
            if isinstance(read, Unread)
            else {view: feature_values.finalize_or_missing(reading, q_us, self.finalized) for view, reading in read.items()}
        )
        said = () if unread is None else (f"fetch:{unread.reason}",)
        finalized = perf_counter()
        self._metrics.stage["finalize"].observe(finalized - fetched)
        parts = []
        for work in works:
            spent, n = self._spent.of(work.plan.model.name), len(work.rows)
            spent["fetch"].add(n, fetched - began)
            spent["finalize"].add(n, finalized - fetched)
            own, holding.beside_s, holding.waited_s = perf_counter(), 0.0, 0.0
            try:
                if unread is not None:
                    found = {view: self._unread(work.plan, view, asked[view], q_us) for view in work.plan.views}
                work.see([found[view] for view in work.plan.views], q_us, said)
                await self._score(work, holding, computing if work is works[-1] else _nothing)
            except Exception:  # a fault of one model must not take the others' requests along
                log.exception("model_failed", model=work.plan.model.name, requests=len(work.requests))
                if (assigned := work.requests[0].assigned) is not None:
                    assigned.failed(self._wall.now_us(), len(work.rows))
                work.fail(Shed("failed", f"scoring with {work.plan.model.name} failed; the server's log says why"))
            own_s = perf_counter() - own
            held_s = own_s - holding.beside_s + finalized - fetched
            parts.append(Took(work.plan.model.name, n, own_s - holding.waited_s, held_s))
        holding.pause(perf_counter())
        return parts

    async def _score(self, work: Work, holding: Holding, computing: Callable[[], None]) -> None:
        """Steps 4 to 6 for one model."""
        began = perf_counter()
        spent, n = self._spent.of(work.plan.model.name), len(work.rows)
        inputs = work.inputs()
        derived = perf_counter()
        self._metrics.stage["derive"].observe(derived - began)
        spent["derive"].add(n, derived - began)
        scores = await self._infer(work, inputs, holding, computing)
        inferred = perf_counter()
        infer_s = inferred - derived - holding.waited_s
        self._metrics.inferred(work.plan.model.name, infer_s)
        spent["infer"].add(n, infer_s)
        assigned = work.requests[0].assigned
        if assigned is not None:
            assigned.did(self._wall.now_us(), infer_s, scores)
        answered = work.answer(scores, self._prediction_ids)
        if answered is not None:
            rows = len(answered.rows)
            self._metrics.scores.labels(answered.model, answered.variant, answered.provider).inc(rows)
            for what in answered.degraded:
                self._metrics.degraded.labels(what).inc(rows)
            if self._predictions is not None and self._predictions.offer(answered):
                asyncio.get_running_loop().call_soon(self._encode, self._predictions)  # the answers have left by then
            if assigned is not None and assigned.release.shadow is not None:
                self._shadows.offer(work, assigned.release, inputs, answered, self._read)
        ended = perf_counter()
        self._metrics.stage["answer"].observe(ended - inferred)
        spent["answer"].add(n, ended - inferred)

    async def _read(self, work: Work, wanted: Wanted) -> None:
        """Steps 2 and 3 for work that nobody waits for. Raises UnavailableError."""
        read = await self._fetcher.fetch({view: list(ids) for view, ids in wanted.items()}, FETCH_MOST_S, ages_s([work]))
        if isinstance(read, Unread):
            raise UnavailableError(read.detail)
        q_us = self._clock.now_us()
        work.see([feature_values.finalize_or_missing(read[view], q_us, self.finalized) for view in work.plan.views], q_us, ())

    def _encode(self, predictions: PredictionLog) -> None:
        began = perf_counter()
        predictions.encode()
        self._lag.busy(began, perf_counter())

    async def _infer(
        self, work: Work, inputs: NDArray[np.float64], holding: Holding, computing: Callable[[], None]
    ) -> NDArray[np.float64]:
        """Step 5, of the rows whose score is not known, if the model is declared to remember scores."""
        if not work.plan.model.cache_scores:
            return await self._compute(work, inputs, holding, computing)
        recalled = work.recalled = self.score_cache.look(work.plan, work.loaded, inputs)
        scores = await self._compute(work, inputs, holding, computing) if recalled.unknown else work.compute(inputs)
        recalled.keep(scores)
        return scores

    async def _compute(
        self, work: Work, inputs: NDArray[np.float64], holding: Holding, computing: Callable[[], None]
    ) -> NDArray[np.float64]:
        """Step 5, beside the event loop where it takes long."""
        name = work.plan.model.name
        expected_s = self._spent.infer_s(name, len(inputs))
        if expected_s is not None:
            self.computes(name, self._spent.infer_s(name, 1) or 0.0)
            if expected_s < SLOW_S and not self._beside.computes(name):
                return work.infer(inputs)
        holding.pause(perf_counter())
        computing()
        try:
            scores, holding.waited_s = await self._beside.run(name, work.compute, inputs)
            return scores
        except ModelError:
            (scores, refused), holding.waited_s = await self._beside.run(name, work.compute_each, inputs)
            work.refuse(refused)
            return scores
        finally:
            holding.resume(perf_counter())

    def _fetch_budget_s(self, live: Batch, works: list[Work]) -> float:
        """Nearly all must be in time; those that have the least left cannot make the others' features degrade."""
        left_s = sorted([request.deadline.left_s() for request in live])[len(live) // HURRIED]
        return fetch_budget_s(left_s, sum(self._spent.after_fetch_s(work.plan.model.name, len(work.rows)) for work in works))

    def _unread(self, plan: ModelPlan, view: ViewPlan, ids: list[str | int | None], q_us: int) -> Features:
        """Where the store does not answer: what was read before, if the model is declared to take it; the rest is missing."""
        if not plan.keeps_state:
            return feature_values.nothing(view, ids)
        known = self._fetcher.last_known(view, ids, plan.max_age_s, plan.stale_for_s)
        return feature_values.finalize_or_missing(known, q_us, self.finalized)

    def _prediction_ids(self, n: int) -> list[str]:
        first = self._id_count
        self._id_count += n
        prefix = self._id_prefix
        return [f"{prefix}{i:012x}" for i in range(first, first + n)]
