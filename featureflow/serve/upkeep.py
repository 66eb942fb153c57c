"""What a scorer does beside answering: follows the definitions and models, and knows what is down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from featureflow.errors import FeatureFlowError, UnavailableError
from featureflow.serve.guarded_log import GuardedLog
from featureflow.serve.scorer import Scorer
from featureflow.serve.wire.v1 import Ready
from featureflow.store.log.protocol import Log

DEFINITIONS_S = 1.0
MODELS_S = 0.5
RELEASES_S = 0.25  # a release is in force in every process within a second, as long as its versions load in what is left of it
LOG_S = 5.0
log = structlog.get_logger("featureflow.serve")


class Upkeep:
    """Loops on the event loop, none of which blocks it. ``start`` does each once, so that what is wrong at start is known then."""

    def __init__(self, scorer: Scorer, log_store: Log | GuardedLog) -> None:
        self._scorer, self._log = scorer, log_store
        self.breakers = [scorer.fetcher.breaker, *([log_store.breaker] if isinstance(log_store, GuardedLog) else [])]
        self._problems: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.draining = False

    async def start(self) -> None:
        """Raises UnavailableError when the online store or the log does not answer at start."""
        await asyncio.to_thread(self._log.ping)
        await self._scorer.refresh()
        await self._scorer.vectors.refresh()
        self._tasks = [
            asyncio.create_task(self._every(DEFINITIONS_S, "online store", self._definitions)),
            asyncio.create_task(self._every(MODELS_S, "models", self._models)),
            asyncio.create_task(self._every(LOG_S, "log", self._ping)),
            asyncio.create_task(self._every(MODELS_S, "vector indexes", self._scorer.vectors.refresh)),
            asyncio.create_task(self._every(RELEASES_S, "releases", self._scorer.follow)),
        ]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def ready(self) -> Ready:
        """``ready``: scores can be answered from fresh state. ``down`` names all that does not work, also what can be done without."""
        down = dict(self._problems)
        scorer = self._scorer
        if self.draining:
            down["server"] = "it is shutting down"
        if scorer.served.problem:
            down["definitions"] = scorer.served.problem
        states = {breaker.name: breaker.state for breaker in self.breakers}
        for breaker in self.breakers:
            if states[breaker.name] != "closed":
                down.setdefault(breaker.name, f"it is not asked, but by one call now and then: {breaker.problem}")
        predictions = scorer.predictions
        if predictions is not None and predictions.problem:
            down["log"] = predictions.problem
        warnings = {f"vector index {name}": problem for name, problem in scorer.vectors.problems.items()}
        loading = False
        if scorer.served.plan is not None:
            down.update(
                {
                    f"view {name}": f"the partition count of {sources} is not in the online store: run `featureflow apply`"
                    for name, sources in scorer.served.plan.waiting.items()
                }
            )
            for name in scorer.served.plan.models:
                problem = scorer.models.problem(name)
                if name in scorer.releases.problems:
                    warnings[f"release of {name}"] = scorer.releases.problems[name]
                warnings.update(self._on_trial(name))
                if problem is not None:
                    warnings[f"model {name}"] = problem
                elif scorer.models.latest(name) is None and not scorer.models.is_cold(name):
                    loading = True
                    down[f"model {name}"] = "it is being loaded"
        ready = not (self.draining or loading or scorer.served.plan is None or scorer.served.lost or "online store" in down)
        return Ready(ready, down, warnings, dict(states))

    def _on_trial(self, name: str) -> dict[str, str]:
        """What is wrong with a candidate, for which the stable version answers then, and with a shadow, which scores nothing."""
        scorer = self._scorer
        carried = scorer.releases.carried.get(name)
        if carried is None:
            return {}
        candidates = carried.release.candidates if carried.on_trial else ()
        found = {f"{arm.name} of {name}": scorer.models.problem(name, arm.version) for arm in candidates}
        found[f"shadow of {name}"] = scorer.shadows.problem(carried.release)
        return {what: problem for what, problem in found.items() if problem is not None}

    async def _definitions(self) -> None:
        await self._scorer.fetcher.look_again()
        await self._scorer.refresh()

    async def _models(self) -> None:
        await self._scorer.models.refresh()

    async def _ping(self) -> None:
        await asyncio.to_thread(self._log.ping)

    async def _every(self, seconds: float, part: str, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await do()
                if self._problems.pop(part, None) is not None:
                    log.info("back", part=part)
            except UnavailableError as error:
                if part not in self._problems:
                    log.warning("down", part=part, error=str(error))
                self._problems[part] = str(error)
            except FeatureFlowError as error:
                self._problems[part] = str(error)
                log.error("failed", part=part, error=str(error))
            except Exception as error:  # whatever it is, the loop goes on: nobody would start another
                self._problems[part] = str(error) or type(error).__name__
                log.exception("failed", part=part)
