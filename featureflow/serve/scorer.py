"""The scorer: who asks is checked, assigned to a version and put into the coming turn, whose way is ``serve.way``. No HTTP in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from featureflow import limits
from featureflow.breaker import Breaker
from featureflow.clock import Clock, SystemClock
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.models.ensemble import Loaded
from featureflow.models.loaded import LoadedModel
from featureflow.models.store import ModelStore
from featureflow.reading import features as feature_values
from featureflow.reading.feature_cache import FeatureCache
from featureflow.reading.fetch import Fetcher, Reader, Unread
from featureflow.reading.plan import ModelPlan, Plan
from featureflow.serve.admission import Admission
from featureflow.serve.answer import Reply, Shed
from featureflow.serve.apart import Part, joined
from featureflow.serve.asked import Asked
from featureflow.serve.assigned import Assigned, Carried
from featureflow.serve.deadline import Deadline
from featureflow.serve.kept_metrics import CacheMetrics
from featureflow.serve.lag import Lag
from featureflow.serve.lanes import Lanes
from featureflow.serve.loaded import LoadedModels
from featureflow.serve.lookups import Lookups
from featureflow.serve.metrics import Metrics
from featureflow.serve.pending import Pending
from featureflow.serve.pooling import Share
from featureflow.serve.prediction_log import PredictionLog
from featureflow.serve.priority import NAMES, NOBODY, Caller, Priority
from featureflow.serve.release_metrics import ReleaseMetrics
from featureflow.serve.releases import Publish, ReleasesFollowed
from featureflow.serve.request import Request, Row
from featureflow.serve.served import Served
from featureflow.serve.shadow import Shadows
from featureflow.serve.spent import Spent
from featureflow.serve.vector_indexes import VectorIndexes
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
        self.lanes = Lanes(self.way.go, admission)
        self.way.computes = self.lanes.tell
        self.lookups = Lookups(self.fetcher, clock, self.way.finalized, self.lag, self.lanes.quick)
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
        self.served.serve(compiled)
        self.fetcher.forget()
        self.way.finalized.forget()
        await self.follow()
        await self.releases.settled()
        await self.models.refresh(m.model for m in plan.models.values())
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

        Raises RequestError: 404 for an unknown model, 400 for a body that is not JSON, 422 for one that does not fit the model.
        """
        model = self.served.model(name)
        asked = self.served.bodies[name].decode(body)
        return self.ask(model, ref, asked, request_id=request_id, since_s=since_s, trace=trace, caller=caller)

    def ask(
        self,
        model: ModelPlan,
        ref: str,
        asked: Asked,
        *,
        request_id: str,
        since_s: float,
        trace: str = "",
        caller: Caller = NOBODY,
    ) -> tuple[Deadline, Pending[Reply]]:
        """As ``score``, of what a body asks for."""
        deadline_ms = caller.deadline_ms if asked.deadline_ms is None else asked.deadline_ms
        budget_s = model.model.deadline_us * 1e-6 if deadline_ms is None else deadline_ms * 1e-3
        future: Pending[Reply] = Pending()
        deadline = Deadline(since_s + budget_s, budget_s)

        def join(
            loaded: Loaded | Shed,
            rows: list[Row] = asked.rows,
            told: Pending[Reply] = future,
            arm: Assigned | None = None,
        ) -> None:
            """Put these rows into the coming turn, or tell why not."""
            if isinstance(loaded, Shed):
                told.set_result(loaded)
                return
            refused = self.lanes.join(
                Request(
                    request_id, model, loaded, rows, deadline, told, asked.explain, trace, asked.ranking, arm,
                    kind=model.model.name, client=caller.client, priority=_priority(asked, caller),
                )
            )
            if refused is not None:
                told.set_result(refused)

        if not ref and (carried := self.releases.carried.get(model.model.name)) is not None:
            self._join_arms(carried, model, asked, request_id, future, join)
            return deadline, future
        loaded = self.models.get(model.model, ref)
        if loaded is None:
            self._beside(self._look(model, ref, future))
        else:
            join(loaded)
        return deadline, future

    def _join_arms(
        self,
        carried: Carried,
        model: ModelPlan,
        asked: Asked,
        request_id: str,
        future: Pending[Reply],
        join: Callable[[Loaded | Shed, list[Row], Pending[Reply], Assigned], None],
    ) -> None:
        """Join for the arm that a request is assigned to; as several where its rows are of several arms."""

        def of(arm: Assigned, rows: list[Row], told: Pending[Reply]) -> None:
            loaded = self.models.get(model.model, arm.arm.version)
            if not isinstance(loaded, LoadedModel):  # not in memory any more, or yet: the stable one, and it is said to be that
                arm, loaded = carried.stable, self.models.get(model.model, "")
            assert loaded is not None  # what answers where no version is named is not looked up
            join(loaded, rows, told, arm)

        assigned = carried.assign(model, request_id, asked.rows if asked.ranking is None else asked.rows[:1])  # one version ranks
        if isinstance(assigned, Assigned):
            of(assigned, asked.rows, future)
            return
        parts: list[Part] = []
        for arm in dict.fromkeys(assigned):
            places = [at for at, one in enumerate(assigned) if one is arm]
            parts.append((places, Pending()))
            of(arm, [asked.rows[at] for at in places], parts[-1][1])
        joining = self._beside(self._tell(joined(parts), future))
        future.add_done_callback(lambda _: joining.cancel())  # done already, but where the caller has gone away

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

def _priority(asked: Asked, caller: Caller) -> Priority:
    return caller.priority if asked.priority is None else NAMES[asked.priority]
