"""The scorer: requests in, answers out, with no HTTP in it.

A request's way is one page, ``Scorer._turn``; the numbers there are the steps here:

    1. refuse what is late already        4. derive the model's inputs
    2. read state and offsets, once       5. infer, once per model
    3. finalize each view, once           6. answer each request; log the predictions
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow import limits
from featureflow.breaker import Breaker
from featureflow.clock import Clock, SystemClock
from featureflow.define.spec import DEFAULT_PROJECT, Project
from featureflow.errors import ModelError, RequestError, UnavailableError
from featureflow.models.loaded import LoadedModel
from featureflow.models.store import ModelStore
from featureflow.reading import features as feature_values
from featureflow.reading.feature_cache import FeatureCache
from featureflow.reading.features import Features
from featureflow.reading.fetch import Fetcher, Reader, Reading, Unread
from featureflow.reading.finalized import Finalized
from featureflow.reading.plan import ModelPlan, Plan, ViewPlan
from featureflow.serve.admission import Admission, Took
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.apart import Part, joined
from featureflow.serve.asked import Asked, BodyDecoder
from featureflow.serve.assigned import Assigned, Carried
from featureflow.serve.deadline import Deadline, fetch_budget_s
from featureflow.serve.kept_metrics import CacheMetrics
from featureflow.serve.lag import Lag
from featureflow.serve.loaded import LoadedModels
from featureflow.serve.lookups import Lookups
from featureflow.serve.metrics import Metrics
from featureflow.serve.prediction_log import PredictionLog
from featureflow.serve.priority import NAMES, NOBODY, Caller, Priority
from featureflow.serve.release_metrics import ReleaseMetrics
from featureflow.serve.releases import Publish, ReleasesFollowed
from featureflow.serve.request import Request, Row
from featureflow.serve.score_cache import ScoreCache
from featureflow.serve.shadow import Shadows
from featureflow.serve.spent import Spent
from featureflow.serve.turn import Batch, Turns
from featureflow.serve.vector_indexes import VectorIndexes
from featureflow.serve.work import Wanted, Work, ages_s
from featureflow.store.keys import Keys
from featureflow.store.mirror import BUCKETS_DOCUMENT, PROJECT_DOCUMENT, partitions_document

INFERENCE_S = 0.001  # an inference that takes longer does not hold the event loop up: who must be refused hears of it meanwhile
HURRIED = 10  # one in so many of a turn may have less time left than its features are given
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
        admission: Admission | None = None,
        publish: Publish | None = None,
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
        self.plan: Plan | None = None
        self.problem = "the definitions have not been read yet"  # why there is no plan
        self.admission = admission or Admission()
        self.lag = Lag(self.admission.lags)
        self.spent = Spent()
        self.turns = Turns(self._turn, self.admission)
        self.finalized = Finalized(limits.FINALIZED_BYTES)
        self.fetcher = Fetcher(reader, self.wall, stale_after_us, breaker=breaker, cache=FeatureCache(feature_cache_bytes))
        self.score_cache = ScoreCache()
        self.metrics.registry.register(CacheMetrics(self.fetcher.cache, self.score_cache))
        self.lookups = Lookups(self.fetcher, clock, self.finalized)
        self._reader, self._keys = reader, Keys(project)
        self.releases = ReleasesFollowed(reader, self._keys, self.models, self.wall, publish)
        self.release_metrics = ReleaseMetrics(
            self.metrics.registry, lambda: self.releases.carried, lambda: self.releases.counts, lambda: self.releases.accuracy
        )
        self.shadows = Shadows(
            models.apart(),
            logged=lambda scored: None if predictions is None else predictions.offer(scored),
            counted=self.release_metrics.shadowed,
            differs=self.release_metrics.differs,
        )
        self._bodies: dict[str, BodyDecoder] = {}
        self._definitions: tuple[bytes | None, ...] = ()
        self._id_prefix, self._id_count = os.urandom(8).hex(), 0
        self._looking: set[asyncio.Task[None]] = set()
        self._inference = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._held_from_s = 0.0  # since when the turn under way has held the event loop up
        self._beside_s = 0.0  # how long its last inference ran beside the loop
        self._loop = asyncio.get_running_loop()

    # -- definitions ---------------------------------------------------------------------------------------------------

    async def refresh(self) -> bool:
        """Read the mirrored definitions and partition counts; replace the plan where they changed. True if it was replaced.

        Raises UnavailableError. Definitions that cannot be compiled leave the plan as it is, and stand in ``problem``.
        """
        document, of = await self._reader.read([self._keys.meta(name) for name in (PROJECT_DOCUMENT, BUCKETS_DOCUMENT)])
        if document is None:
            self.problem = "no definitions are registered in the online store: run `featureflow apply`"
            return False
        try:
            project = msgspec.json.decode(document, type=Project)
            names = [source.name for source in project.sources]
            counts = await self._reader.read([self._keys.meta(partitions_document(name)) for name in names]) if names else []
            definitions = (document, of, *counts)
            if definitions == self._definitions:
                return False
            partitions = {
                name: int(msgspec.json.decode(c)) for name, c in zip(names, counts, strict=True) if c is not None
            }
            plan = Plan(project, partitions, int(of or 1))
            bodies = {name: BodyDecoder(model) for name, model in plan.models.items()}
        except UnavailableError:
            raise
        except Exception as error:
            self.problem = (
                f"the registered definitions cannot be served ({error}): run `featureflow apply` of this version"
            )
            log.error("definitions_refused", error=str(error))
            return False
        await self._warm(plan)
        self.plan, self._bodies = plan, bodies
        self.fetcher.forget()
        self.finalized.forget()
        self._definitions, self.problem = definitions, ""
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
        if self.plan is not None:
            await self.releases.follow(self.plan)
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
    ) -> tuple[Deadline, asyncio.Future[Answer | Shed]]:
        """Check the request and put it into the coming turn; the future gives its answer, or RequestError (404) for an unknown version.

        ``caller``: what its headers say; what its body says of deadline and priority counts instead.

        Raises RequestError: 404 for an unknown model, 400 for a body that is not JSON, 422 for one that does not fit the model.
        """
        model = self.model(name)
        asked = self._bodies[name].decode(body)
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
    ) -> tuple[Deadline, asyncio.Future[Answer | Shed]]:
        """As ``score``, of what a body asks for."""
        deadline_ms = caller.deadline_ms if asked.deadline_ms is None else asked.deadline_ms
        budget_s = model.model.deadline_us * 1e-6 if deadline_ms is None else deadline_ms * 1e-3
        future: asyncio.Future[Answer | Shed] = self._loop.create_future()
        deadline = Deadline(since_s + budget_s, budget_s)
        if not ref and (carried := self.releases.carried.get(model.model.name)) is not None:
            self._join_arms(carried, model, asked, request_id, deadline, future, trace, caller)
            return deadline, future
        loaded = self.models.get(model.model, ref)
        if loaded is None:
            looking = self._loop.create_task(self._look(model, ref, future))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)
            return deadline, future
        if isinstance(loaded, Shed):
            refused: Shed | None = loaded
        else:
            refused = self.turns.join(
                Request(
                    request_id, model, loaded, asked.rows, deadline, future, asked.explain, trace, asked.ranking,
                    kind=model.model.name, client=caller.client, priority=_priority(asked, caller),
                )
            )
        if refused is not None:
            future.set_result(refused)
        return deadline, future

    def _join_arms(
        self,
        carried: Carried,
        model: ModelPlan,
        asked: Asked,
        request_id: str,
        deadline: Deadline,
        future: asyncio.Future[Answer | Shed],
        trace: str,
        caller: Caller,
    ) -> None:
        """Put a request into the coming turn for the arm that it is assigned to; as several where its rows are of several arms."""

        def join(arm: Assigned, rows: list[Row], future: asyncio.Future[Answer | Shed]) -> None:
            loaded = self.models.get(model.model, arm.arm.version)
            if not isinstance(loaded, LoadedModel):  # not in memory any more, or yet: the stable one, and it is said to be that
                arm, loaded = carried.stable, self.models.get(model.model, "")
            assert loaded is not None  # what answers where no version is named is not looked up
            refused = (
                loaded
                if isinstance(loaded, Shed)
                else self.turns.join(
                    Request(
                        request_id, model, loaded, rows, deadline, future, asked.explain, trace, asked.ranking, arm,
                        kind=model.model.name, client=caller.client, priority=_priority(asked, caller),
                    )
                )
            )
            if refused is not None:
                future.set_result(refused)

        assigned = carried.assign(model, request_id, asked.rows if asked.ranking is None else asked.rows[:1])  # one version ranks
        if isinstance(assigned, Assigned):
            join(assigned, asked.rows, future)
            return
        parts: list[Part] = []
        for arm in dict.fromkeys(assigned):
            places = [at for at, one in enumerate(assigned) if one is arm]
            parts.append((places, self._loop.create_future()))
            join(arm, [asked.rows[at] for at in places], parts[-1][1])
        joining = self._loop.create_task(self._tell(joined(parts), future))
        self._looking.add(joining)
        joining.add_done_callback(self._looking.discard)
        future.add_done_callback(lambda _: joining.cancel())  # done already, but where the caller has gone away

    async def _look(self, model: ModelPlan, ref: str, future: asyncio.Future[Answer | Shed]) -> None:
        """Tell a caller who names a version that is not ready whether there is such a version."""
        await self._tell(self.models.find(model.model, ref), future)

    async def _tell(self, found: Awaitable[Answer | Shed], future: asyncio.Future[Answer | Shed]) -> None:
        try:
            answer = await found
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(answer)

    async def features(
        self, view: ViewPlan, ids: Sequence[str | int | None], at_us: int | None
    ) -> tuple[int, Features]:
        """(q, features) of one view for these ids, all from one atomic read.

        Raises UnavailableError; RequestError (422) where ``at_us`` cannot be answered exactly from what is kept.
        """
        if at_us is None:
            return await self.lookups.ask(view, list(ids))
        unique = list(dict.fromkeys(ids))
        read = await self.fetcher.fetch({view: unique}, None)
        if isinstance(read, Unread):
            raise UnavailableError(read.detail)
        found = feature_values.finalize(read[view], at_us)
        unanswerable = feature_values.no_exact_answer(found, read[view], at_us, self.clock.now_us())
        if unanswerable:
            index, why = next(iter(unanswerable.items()))
            raise RequestError(
                "Cannot be answered exactly at that instant",
                f"{len(unanswerable)} of {len(unique)} ids, the first {found.ids[index]!r}: {why}. Ask for a later instant, or have "
                f"this one answered from history: featureflow get {view.view.name} ID --at INSTANT",
                status=422,
            )
        if len(unique) != len(ids):
            place = {entity_id: i for i, entity_id in enumerate(unique)}
            found = found.take(np.array([place[i] for i in ids], np.intp), list(ids))
        return at_us, found

    def view(self, name: str) -> ViewPlan:
        """Raises RequestError (404)."""
        plan = self.current()
        if name not in plan.views:
            if name in plan.waiting:
                raise UnavailableError(
                    f"view {name}: the partition count of {plan.waiting[name]} is not in the online store; run `featureflow apply`"
                )
            raise RequestError("No such view", f"views: {', '.join(plan.views) or 'none'}", status=404)
        return plan.views[name]

    def model(self, name: str) -> ModelPlan:
        """Raises RequestError (404), UnavailableError while a view that it reads waits."""
        plan = self.current()
        found = plan.models.get(name)
        if found is None:
            if any(m.name == name for m in plan.project.models):
                raise UnavailableError(
                    f"model {name}: a view that it reads waits for {plan.waiting}; run `featureflow apply`"
                )
            raise RequestError("No such model", f"models: {', '.join(plan.models) or 'none'}", status=404)
        return found

    def current(self) -> Plan:
        """The definitions that are served now. Raises UnavailableError before there are any."""
        if self.plan is None:
            raise UnavailableError(self.problem)
        return self.plan

    def close(self) -> None:
        """Let go of threads and tasks. What is under way is not waited for."""
        self.releases.close()
        self.shadows.close()
        self.models.close()
        self.vectors.close()
        self.lag.close()
        self._inference.shutdown(wait=False, cancel_futures=True)

    # -- one turn ------------------------------------------------------------------------------------------------------

    async def _turn(self, batch: Batch) -> list[Took]:
        # 1. refuse what is late already
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
        self.metrics.turn_rows.observe(sum(len(work.rows) for work in works))

        # 2. read state and offsets, once
        began = perf_counter()
        asked = {view: list(ids) for view, ids in wanted.items()}
        read = await self.fetcher.fetch(asked, self._fetch_budget_s(live, works), ages_s(works))
        fetched = self._held_from_s = perf_counter()
        self.metrics.stage["fetch"].observe(fetched - began)

        # 3. finalize each view, once
        q_us = self.clock.now_us()
        unread = read if isinstance(read, Unread) else None
        found = {} if isinstance(read, Unread) else {view: self._finalize(reading, q_us) for view, reading in read.items()}
        said = () if unread is None else (f"fetch:{unread.reason}",)
        finalized = perf_counter()
        self.metrics.stage["finalize"].observe(finalized - fetched)
        parts = []
        for work in works:
            spent, n = self.spent.of(work.plan.model.name), len(work.rows)
            spent["fetch"].add(n, fetched - began)
            spent["finalize"].add(n, finalized - fetched)
            own, self._beside_s = perf_counter(), 0.0
            try:
                if unread is not None:
                    found = {view: self._unread(work.plan, view, asked[view], q_us) for view in work.plan.views}
                work.see([found[view] for view in work.plan.views], q_us, said)
                await self._score(work)
            except Exception:  # a fault of one model must not take the others' requests along
                log.exception("model_failed", model=work.plan.model.name, requests=len(work.requests))
                if (assigned := work.requests[0].assigned) is not None:
                    assigned.failed(self.wall.now_us(), len(work.rows))
                work.fail(Shed("failed", f"scoring with {work.plan.model.name} failed; the server's log says why"))
            own_s = perf_counter() - own
            parts.append(Took(work.plan.model.name, n, own_s, own_s - self._beside_s + finalized - fetched))
        self.lag.held(self._held_from_s, perf_counter())
        return parts

    async def _score(self, work: Work) -> None:
        """Steps 4 to 6 for one model."""
        began = perf_counter()
        spent, n = self.spent.of(work.plan.model.name), len(work.rows)
        inputs = work.inputs()
        derived = perf_counter()
        self.metrics.stage["derive"].observe(derived - began)
        spent["derive"].add(n, derived - began)
        scores = await self._infer(work, inputs)
        inferred = perf_counter()
        self.metrics.inferred(work.plan.model.name, inferred - derived)
        spent["infer"].add(n, inferred - derived)
        assigned = work.requests[0].assigned
        if assigned is not None:
            assigned.did(self.wall.now_us(), inferred - derived, scores)
        answered = work.answer(scores, self._prediction_ids)
        if answered is not None:
            rows = len(answered.rows)
            self.metrics.scores.labels(answered.model, answered.variant, answered.provider).inc(rows)
            for what in answered.degraded:
                self.metrics.degraded.labels(what).inc(rows)
            if self.predictions is not None:
                self.predictions.offer(answered)
            if assigned is not None and assigned.release.shadow is not None:
                self.shadows.offer(work.plan.model, assigned.release, inputs, answered)
        ended = perf_counter()
        self.metrics.stage["answer"].observe(ended - inferred)
        spent["answer"].add(n, ended - inferred)

    async def _infer(self, work: Work, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Step 5, of the rows whose score is not known, if the model is declared to remember scores."""
        if not work.plan.model.cache_scores:
            return await self._compute(work, inputs)
        recalled = work.recalled = self.score_cache.look(work.plan, work.loaded, inputs)
        scores = await self._compute(work, inputs) if recalled.unknown else work.compute(inputs)
        recalled.keep(scores)
        return scores

    async def _compute(self, work: Work, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Step 5, beside the event loop where it takes long: ONNX Runtime computes without the interpreter's lock."""
        expected_s = self.spent.infer_s(work.plan.model.name, len(inputs))
        if expected_s is not None and expected_s < INFERENCE_S:
            return work.infer(inputs)
        began = perf_counter()
        self.lag.held(self._held_from_s, began)
        try:
            return await self._loop.run_in_executor(self._inference, work.compute, inputs)
        except ModelError:
            return work.infer(inputs)  # row by row, as far as it takes them
        finally:
            self._held_from_s = perf_counter()
            self._beside_s = self._held_from_s - began

    def _fetch_budget_s(self, live: Batch, works: list[Work]) -> float:
        """Nearly all must be in time; those that have the least left cannot make the others' features degrade."""
        left_s = sorted([request.deadline.left_s() for request in live])[len(live) // HURRIED]
        return fetch_budget_s(left_s, sum(self.spent.after_fetch_s(work.plan.model.name, len(work.rows)) for work in works))

    def _unread(self, plan: ModelPlan, view: ViewPlan, ids: list[str | int | None], q_us: int) -> Features:
        """Where the store does not answer: what was read before, if the model is declared to take it; the rest is missing."""
        if not plan.keeps_state:
            return feature_values.nothing(view, ids)
        return self._finalize(self.fetcher.last_known(view, ids, plan.max_age_s, plan.stale_for_s), q_us)

    def _prediction_ids(self, n: int) -> list[str]:
        first = self._id_count
        self._id_count += n
        prefix = self._id_prefix
        return [f"{prefix}{i:012x}" for i in range(first, first + n)]

    def _loaded(self, loaded: LoadedModel) -> None:
        log.info(
            "model_loaded", model=loaded.name, version=loaded.version, variant=loaded.variant, provider=loaded.provider
        )

    def _finalize(self, reading: Reading, q_us: int) -> Features:
        """A view that cannot be computed is missing, which the models that read it answer as they declare; others go on."""
        try:
            return feature_values.finalize(reading, q_us, self.finalized)
        except Exception:
            log.exception("view_failed", view=reading.plan.view.id, entities=len(reading.ids))
            return feature_values.nothing(reading.plan, reading.ids)


def _priority(asked: Asked, caller: Caller) -> Priority:
    return caller.priority if asked.priority is None else NAMES[asked.priority]
