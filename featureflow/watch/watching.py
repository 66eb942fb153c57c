"""Watching in one process: each model's scoring, the alerts of all of them, and the webhook, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from featureflow.clock import Clock, SystemClock
from featureflow.define import spec, system
from featureflow.errors import SettingsError, StateError
from featureflow.models.loader import ModelLoader
from featureflow.reading.plan import Plan
from featureflow.store.log.protocol import Log, Partition
from featureflow.store.online.protocol import OnlineStore
from featureflow.store.schemas.protocol import SchemaRegistry
from featureflow.watch.alerting import Alerting
from featureflow.watch.current import CurrentModel
from featureflow.watch.failpoint import Failpoint, unarmed
from featureflow.watch.features import FeatureReader
from featureflow.watch.metrics import WatchMetrics
from featureflow.watch.scoring import Scoring
from featureflow.watch.stage import Stage, run_stage
from featureflow.watch.watched import by_source
from featureflow.watch.webhook import Webhook

log = structlog.get_logger("featureflow.watch")


@dataclass(frozen=True)
class WatchOptions:
    """``group``: what its groups' names begin with, empty for the project's own. ``member``: see ``watch.member``.

    ``wait_us``: how long an event waits for the features that count it. ``webhook``: an address, or empty.
    """

    group: str = ""
    member: str = ""
    wait_us: int = 2_000_000
    stale_after_us: int = 30_000_000
    webhook: str = ""


@dataclass(frozen=True)
class Applied:
    """What is applied, as the online store mirrors it. ``begins``: (model, source) -> partition -> the first event that is scored."""

    project: spec.Project
    partitions: Mapping[str, int]
    buckets: int
    begins: Mapping[tuple[str, str], Mapping[int, int]]


class Watching:
    """Until told to stop. ``models``: name -> the version or alias that scores, or empty; none: all that an alert watches."""

    def __init__(
        self,
        log: Log,
        online: OnlineStore,
        loader: ModelLoader,
        applied: Applied,
        clock: Clock,
        metrics: WatchMetrics,
        options: WatchOptions,
        *,
        models: Mapping[str, str] | None = None,
        schemas: SchemaRegistry | None = None,
        wall: Clock | None = None,
        failpoint: Failpoint = unarmed,
    ) -> None:
        """Raises SettingsError for a model that no alert watches, StateError where a view that it reads waits for its source."""
        self._log, self._online, self._loader, self._applied = log, online, loader, applied
        self._clock, self._wall, self._metrics, self._options = clock, wall or SystemClock(), metrics, options
        self._schemas, self._failpoint = schemas, failpoint
        self._plan = Plan(applied.project, applied.partitions, applied.buckets)
        self._models = dict(models or {alert.model: "" for alert in applied.project.alerts})
        for model in self._models:
            _check(self._plan, model)
        self._group = options.group or system.group(applied.project.name, "watch")
        self._leave = threading.Event()
        self.stages: Sequence[Stage] = self._made()

    def run(self, stop: threading.Event) -> None:
        """Each stage until ``stop`` is set, or one of them fails for good: the others then end too, and why is raised.

        Raises UnavailableError where the log does not answer at the start.
        """
        self._log.ping()
        raised: list[BaseException] = []

        def run(stage: Stage) -> None:
            try:
                run_stage(stage, self._leave, lambda error: self._metrics.failures.labels(stage.name, type(error).__name__).inc())
            except BaseException as error:
                raised.append(error)
                self._leave.set()

        threads = [threading.Thread(target=run, args=(stage,), name=stage.name) for stage in self.stages]
        for thread in threads:
            thread.start()
        log.info("watching", models=list(self._models), alerts=[alert.name for alert in self._applied.project.alerts])
        while not stop.wait(0.05) and not self._leave.is_set():
            continue
        self._leave.set()
        for thread in threads:
            thread.join()
        if raised:
            raise raised[0]

    @property
    def made(self) -> dict[str, int]:
        """How many scores and alerts this process has appended."""
        scores = sum(stage.scores for stage in self.stages if isinstance(stage, Scoring))
        return {"scores": scores, "alerts": sum(stage.alerts for stage in self.stages if isinstance(stage, Alerting))}

    def _made(self) -> list[Stage]:
        applied, options = self._applied, self._options
        alerting = Alerting(
            self._log, applied.project, self._wall, self._metrics, self._failpoint, group=f"{self._group}.alerts", member=options.member
        )
        stages: list[Stage] = [self._scoring(model, ref) for model, ref in self._models.items()]
        stages.append(alerting)
        if options.webhook:
            stages.append(Webhook(
                self._log, applied.project.name, options.webhook, self._metrics, self._failpoint, self._leave,
                group=f"{self._group}.webhook", member=options.member,
            ))
        return stages

    def _scoring(self, model: str, ref: str) -> Scoring:
        begins = {
            Partition(source, partition): offset
            for (of, source), offsets in self._applied.begins.items()
            if of == model
            for partition, offset in offsets.items()
        }
        reader = FeatureReader(
            self._online, self._clock, self._wall, stale_after_us=self._options.stale_after_us, wait_us=self._options.wait_us
        )
        current = CurrentModel(self._loader.apart(), self._online, self._plan, model, ref)
        return Scoring(
            self._log, self._plan, model, current, reader, self._clock, self._wall, self._metrics, self._failpoint,
            group=f"{self._group}.score.{model}", member=self._options.member, begins=begins, schemas=self._schemas,
        )  # fmt: skip


def _check(plan: Plan, model: str) -> None:
    project = plan.project
    if not by_source(project, model):
        watched = ", ".join(dict.fromkeys(alert.model for alert in project.alerts)) or "none"
        raise SettingsError(
            f"no alert watches the model {model} (watched: {watched}). Declare one, and apply it: "
            "class Suspicious(Alert, model=Fraud, on=Payment, of=User, above=0.87)"
        )
    if model not in plan.models:
        raise StateError(f"model {model}: a view that it reads waits for {plan.waiting}; run: featureflow apply")
