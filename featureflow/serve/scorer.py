"""The scorer: who asks is checked, assigned to a version and put into the coming turn, whose way is ``serve.way``. No HTTP in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog

from featureflow import limits
from featureflow.breaker import Breaker
from featureflow.clock import Clock, SystemClock
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.models.loaded import LoadedModel
from featureflow.models.store import ModelStore
from featureflow.pending import Pending
from featureflow.reading import features as feature_values
from featureflow.reading.feature_cache import FeatureCache
from featureflow.reading.fetch import Fetcher, Reader, Unread
from featureflow.reading.plan import ModelPlan, Plan
from featureflow.serve.admission import Admission
from featureflow.serve.answer import Reply, Shed
from featureflow.serve.apart import apart
from featureflow.serve.arms import shares
from featureflow.serve.asked import Asked
from featureflow.serve.assigned import Assigned
from featureflow.serve.deadline import Deadline, budget_of
from featureflow.serve.kept_metrics import CacheMetrics
from featureflow.serve.lag import Lag
from featureflow.serve.lanes import Lanes
from featureflow.serve.loaded import LoadedModels
from featureflow.serve.lookups import Lookups
from featureflow.serve.metrics import Metrics
from featureflow.serve.pooling import Share
from featureflow.serve.prediction_log import PredictionLog
from featureflow.serve.priority import NAMES, NOBODY, Caller, Priority
from featureflow.serve.release_metrics import ReleaseMetrics
from featureflow.serve.releases import Publish, ReleasesFollowed
from featureflow.serve.request import Request, Row
from featureflow.serve.sent import Sent, SentScore
from featureflow.serve.served import Served
from featureflow.serve.shadow import Shadows
from featureflow.serve.spent import Spent
from featureflow.serve.vector_indexes import VectorIndexes
from featureflow.serve.version import Version, Versions
from featureflow.serve.way import Way
from featureflow.store.keys import Keys

log = structlog.get_logger("featureflow.serve")


class Scorer:
    """Belongs to one event loop. ``clock`` says what now is for features; ``wall`` what it is for the store's commit times."""

    def __init__(
        self,
        reader: Reader,
        models: ModelStore,
        *,
        project: str = DEFAULT_PROJECT,
        clock: Clock,
        wall: Clock | None = None,
        stale_after_us: int = 30_000_000,
        predictions: PredictionLog | None = None,
        metrics: Metrics | None = None,
        admission: Callable[[], Admission] = Admission,
        publish: Publish | None = None,
        share: Share | None = None,
        breaker: Breaker | None = None,
        feature_cache_bytes: int = limits.FEATURE_CACHE_BYTES,
        vectors: VectorIndexes | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.clock = clock
        self.wall = wall or SystemClock()
        self.predictions = predictions
        self.models = LoadedModels(models, self._loaded)
        self.vectors = vectors or VectorIndexes()
        self.served = Served(reader, keys := Keys(project))
        self.lag = Lag(self._lags)
        self.spent = Spent()
        self.fetcher = Fetcher(reader, self.wall, stale_after_us, breaker=breaker, cache=FeatureCache(feature_cache_bytes))
        self.releases = ReleasesFollowed(reader, keys, self.models, self.wall, publish, share)
        self.release_metrics = ReleaseMetrics(
            self.metrics.registry, lambda: self.releases.carried, lambda: self.releases.counts, lambda: self.releases.accuracy,
            self.releases.processes,
        )  # fmt: skip
        self.shadows = Shadows(
            models.apart(),
            logged=lambda scored: None if predictions is None else predictions.offer(scored),
            counted=self.release_metrics.shadowed,
            differs=self.release_metrics.differs,
        )
        self.way = Way(
            self.fetcher, clock=clock, wall=self.wall, metrics=self.metrics, spent=self.spent, lag=self.lag, shadows=self.shadows,
            predictions=predictions,
        )  # fmt: skip
        self.send: Callable[[], None] = lambda: None  # answers that a turn gave, by whoever has the connections
        self.lanes = Lanes(self.way.go, admission, lambda: self.send())
        self.way.computes = self.lanes.tell
        self.lookups = Lookups(self.fetcher, clock, self.way.finalized, self.lag, self.lanes.quick, lambda: self.send())
        self.metrics.registry.register(CacheMetrics(self.fetcher.cache, self.way.score_cache))
        self._looking: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    # -- definitions ---------------------------------------------------------------------------------------------------

    async def refresh(self) -> bool:
        """Read the mirrored definitions and partition counts; serve them where they changed. True if they did.

        Raises UnavailableError. Definitions that cannot be compiled leave all as it is, and stand in ``served.problem``.
        """
        compiled = await self.served.changed()
        if compiled is None:
            return False
        plan = compiled.plan
        await self._warm(plan)
        versions = Versions(plan)
        await self.models.prepare(versions)
        self.models.declare(versions)  # in one piece with what is served: no request comes between
        self.shadows.declare(versions)
        self.served.serve(compiled)
        self.fetcher.forget()
        self.way.finalized.forget()
        await self.follow()
        await self.releases.settled()
        await self.models.refresh()
        self.metrics.reloads.inc()
        log.info(
            "definitions_loaded",
            views=[v.view.id for v in plan.views.values()],
            models=list(plan.models),
            waiting=plan.waiting,
        )
        return True

    async def follow(self) -> None:
        """Follow the releases of the models that are served now. Raises UnavailableError where the online store is away."""
        if self.served.plan is not None:
            await self.releases.follow(self.served.plan)
            self.shadows.keep([name for name, carried in self.releases.carried.items() if carried.release.shadow is not None])

    async def _warm(self, plan: Plan) -> None:
        """Go each view's way once before anybody waits for it: what is made at first use may take longer than a tight deadline."""
        read = await self.fetcher.fetch({view: [None] for view in plan.views.values()}, None)
        if not isinstance(read, Unread):
            for reading in read.values():
                feature_values.finalize(reading, self.clock.now_us())

    # -- asking --------------------------------------------------------------------------------------------------------

    def score(
        self,
        name: str,
        ref: str,
        body: bytes,
        *,
        request_id: str,
        since_s: float,
        trace: str = "",
        caller: Caller = NOBODY,
    ) -> tuple[Deadline, Pending[Reply]]:
        """Check the request and put it into the coming turn; the future gives its answer, or RequestError (404) for an unknown version.

        ``caller``: what its headers say; what its body says of deadline and priority counts instead.

        Raises RequestError: 404 for an unknown model, 400 for a body that is not JSON, 422 for one that the version which is to answer
        cannot be asked with.
        """
        sent = SentScore(body)
        return self.ask(self.served.model(name), ref, sent, request_id=request_id, since_s=since_s, trace=trace, caller=caller)

    def ask(
        self,
        model: ModelPlan,
        ref: str,
        sent: Sent,
        *,
        request_id: str,
        since_s: float,
        trace: str = "",
        caller: Caller = NOBODY,
    ) -> tuple[Deadline, Pending[Reply]]:
        """As ``score``, of what was sent. ``model``: the plan of its definition."""
        future: Pending[Reply] = Pending()
        carried = None if ref else self.releases.carried.get(model.model.name)
        asked: Asked | None
        if carried is None or not carried.on_trial:
            version = self.models.get(model.model, ref)
            if not isinstance(version, Version):
                sent.check()
                if version is None:
                    self._beside(self._look(model, ref, future))
                else:
                    future.set_result(version)
                return _due(model, None, since_s, caller), future
            asked = sent.of(version)
            deadline = _due(model, asked, since_s, caller)
            arm = None if carried is None else carried.stable
            self._join(version, asked, asked.rows, None, arm, future, deadline, request_id, trace, caller, sent)
            return deadline, future
        versions = {one: self.models.get(model.model, "" if one is carried.stable else one.arm.version) for one in carried.arms}
        asked, found = shares(carried, versions, sent, request_id)
        deadline = _due(model, asked, since_s, caller)
        parts = [future] if len(found) == 1 else apart(future, [places or () for _, _, _, places in found])
        for (arm, of, rows, places), told in zip(found, parts, strict=True):
            if told.done():
                continue  # a part before it is not answered
            if isinstance(of, Shed) or asked is None:
                assert isinstance(of, Shed)  # who is there has read it
                told.set_result(of)
            else:
                self._join(of, asked, rows, places, arm, told, deadline, request_id, trace, caller, sent)
        return deadline, future

    def plan_of(self, model: ModelPlan, ref: str) -> ModelPlan:
        """By which plan the version reads that answers for ``ref``; of one that is not there, that of the definition."""
        version = self.models.get(model.model, ref)
        return version.plan if isinstance(version, Version) else model

    def answering(self) -> dict[str, ModelPlan]:
        """By model, the plan of the version that answers where none is named."""
        models = {} if self.served.plan is None else self.served.plan.models
        latest = {name: self.models.latest(name) for name in models}
        return {name: plan if (version := latest[name]) is None else version.plan for name, plan in models.items()}

    def _join(
        self,
        version: Version,
        asked: Asked,
        rows: list[Row],
        places: Sequence[int] | None,
        arm: Assigned | None,
        told: Pending[Reply],
        deadline: Deadline,
        request_id: str,
        trace: str,
        caller: Caller,
        sent: Sent,
    ) -> None:
        """Put these rows into the coming turn, or tell why not."""
        refused = self.lanes.join(
            Request(
                request_id, version.plan, version.loaded, rows, deadline, told, asked.explain, trace, asked.ranking, arm,
                kind=version.plan.model.name, client=caller.client, priority=_priority(asked, caller),
                usual_s=version.plan.deadline_s, again=None if arm is None or arm.release.shadow is None else (sent, places),
            )
        )  # fmt: skip
        if refused is not None:
            told.set_result(refused)

    def _beside(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(what)
        self._looking.add(task)  # or it may be collected before it ends
        task.add_done_callback(self._looking.discard)
        return task

    async def _look(self, model: ModelPlan, ref: str, future: Pending[Reply]) -> None:
        """Tell a caller who names a version that is not ready whether there is such a version."""
        await self._tell(self.models.find(model.model, ref), future)

    async def _tell(self, found: Awaitable[Reply], future: Pending[Reply]) -> None:
        try:
            answer = await found
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(answer)

    async def drain(self, within_s: float) -> None:
        """Once nobody is answered any more: let shadows score what was, for at most ``within_s``; what is left is dropped and counted."""
        await self.shadows.drain(within_s)
        self.shadows.close()

    def close(self) -> None:
        """Let go of threads and tasks. What is under way is not waited for."""
        self.releases.close()
        self.shadows.close()
        self.models.close()
        self.vectors.close()
        self.lag.close()
        self.way.close()

    def _lags(self, seconds: float) -> None:
        self.lanes.lags(seconds)
        self.lookups.queue.lags(seconds)

    def _loaded(self, loaded: LoadedModel) -> None:
        log.info(
            "model_loaded", model=loaded.name, version=loaded.version, variant=loaded.variant, provider=loaded.provider
        )


def _due(model: ModelPlan, asked: Asked | None, since_s: float, caller: Caller) -> Deadline:
    deadline_ms = caller.deadline_ms if asked is None or asked.deadline_ms is None else asked.deadline_ms
    budget_s = budget_of(deadline_ms, model.deadline_s)
    return Deadline(since_s + budget_s, budget_s)


def _priority(asked: Asked, caller: Caller) -> Priority:
    return caller.priority if asked.priority is None else NAMES[asked.priority]
