"""Watching over the worker's rig: log and store in memory, a clock that is told, real kernel, real models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry
from serve_rig import train
from worker_rig import PROJECT, Rig

from featureflow.define import system
from featureflow.define.spec import Alert as Rule
from featureflow.define.spec import Column, Field, Input, Model, Project, Request
from featureflow.errors import FencedError, UnavailableError
from featureflow.models.export import export_mlp
from featureflow.models.manifest import inputs_of
from featureflow.models.store import ModelStore
from featureflow.models.transform import fit
from featureflow.reading.plan import Plan
from featureflow.store.log.protocol import Log, Partition
from featureflow.watch.alerting import Alerting
from featureflow.watch.average import Average, fold
from featureflow.watch.current import CurrentModel
from featureflow.watch.failpoint import Failpoint, Name, unarmed
from featureflow.watch.features import FeatureReader
from featureflow.watch.metrics import WatchMetrics
from featureflow.watch.score import ALERT, SCORE, Alert, Score
from featureflow.watch.scoring import Scoring

ASK = Request(name="ask", fields=(Field(name="fare", type="float", nullable=True),))
INPUTS = (
    Input(name="count", expr=Column("rider_now:count_1h")),
    Input(name="last", expr=Column("zone_now:last_n"), size=3),
    Input(name="fare", expr=Column("ask:fare")),
)
RISK = Model(name="risk", inputs=INPUTS, deadline_us=60_000_000, drift=0.1)
BY_RIDER = Rule(
    name="by_rider", model="risk", source="trip", entity="rider", field="rider", ids={"rider": "rider", "zone": "zone"},
    context={"ask:fare": Column("fare")}, average=0.3, above=0.55, until=0.5,
)  # fmt: skip
AT_ONCE = msgspec.structs.replace(BY_RIDER, name="at_once", average=1.0, above=0.6, until=0.6)
BY_ZONE = msgspec.structs.replace(BY_RIDER, name="by_zone", entity="zone", field="zone")
WATCHED: Project = msgspec.structs.replace(PROJECT, requests=(ASK,), models=(RISK,), alerts=(BY_RIDER, AT_ONCE, BY_ZONE))
SCORES, ALERTS = system.scores(WATCHED.name), system.alerts(WATCHED.name)


def models_in(folder: Path) -> ModelStore:
    """One version of the model."""
    store = ModelStore(folder, provider="cpu")
    train(store, RISK, seed=3)
    return store


def model_of_the_fare(folder: Path) -> ModelStore:
    """One version, whose score grows with the fare and looks at nothing else."""
    store = ModelStore(folder, provider="cpu")
    inputs = inputs_of(RISK)
    transforms = fit(np.random.default_rng(1).normal(3.0, 10.0, (200, 5)), inputs)
    weights = np.zeros((transforms.width_out, 1))
    weights[-1] = 1.0
    folder.mkdir(parents=True, exist_ok=True)
    export_mlp([weights], [np.zeros(1)], folder / "fare.onnx")
    store.add("risk", folder / "fare.onnx", inputs=inputs, transforms=transforms, model=RISK)
    return store


class Crash(Exception):  # what stands for kill -9 where there is one process
    """Everything in memory is gone."""


@dataclass
class CrashAt:
    """Raise ``Crash`` at the ``nth`` passing of ``name``."""

    name: Name | None = None
    nth: int = 1

    def __call__(self, name: Name) -> None:
        if name == self.name:
            self.nth -= 1
            if self.nth == 0:
                raise Crash(name)


BEGUN: list[Scoring] = []                  # ended after each test


@dataclass
class WatchRig:
    """``wait_us``: how long an event waits for its features."""

    models: ModelStore
    rig: Rig = field(default_factory=Rig)
    project: Project = WATCHED
    wait_us: int = 2_000_000
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        for topic in (SCORES.topic, ALERTS.topic):
            self.log.ensure_topic(topic, 3)
        self.log.ensure_topic(system.averages_topic(self.project.name), 3, compacted=True)
        self.metrics = WatchMetrics(self.registry)
        self._ingest: Any = None

    @property
    def log(self) -> Log:
        return self.rig.log

    def ingest(self) -> None:
        """Fold everything that the log holds."""
        if self._ingest is None:
            self._ingest = self.rig.worker()
            self._ingest.open()
        self.rig.drain(self._ingest)

    def scoring(self, failpoint: Failpoint = unarmed, begins: dict[Partition, int] | None = None, model: str = "risk") -> Scoring:
        plan = Plan(self.project, {"trip": self.rig.partitions}, self.rig.buckets)
        reader = FeatureReader(self.rig.online, self.rig.clock, self.rig.clock, stale_after_us=30_000_000, wait_us=self.wait_us)
        current = CurrentModel(self.models, self.rig.online, plan, model, "")
        current.get()
        current.wait(60.0)
        stage = Scoring(
            self.log, plan, model, current, reader, self.rig.clock, self.rig.clock,
            self.metrics, failpoint, group="score", member="", begins=begins or {},
        )  # fmt: skip
        BEGUN.append(stage)
        stage.open()
        return stage

    def alerting(self, failpoint: Failpoint = unarmed, project: Project | None = None) -> Alerting:
        stage = Alerting(
            self.log, project or self.project, self.rig.clock, self.metrics, failpoint, group="alerts", member=""
        )
        stage.open()
        return stage

    def stands(self, group: str, topic: str, source: str) -> bool:
        """Whether the group has read the topic to its end."""
        stands = self.rig.memory_log.stands.get(group, {})
        end = self.log.topic(topic).end
        return all(stands.get(Partition(source, partition), 0) == offset for partition, offset in end.items())

    def drain(self, made: Scoring | Alerting) -> None:
        group, topic, source = (
            ("score", self.rig.source.topic, "trip") if isinstance(made, Scoring) else ("alerts", SCORES.topic, SCORES.name)
        )
        for _ in range(1_000):
            try:
                made.step(timeout_s=0.0)
            except (UnavailableError, FencedError):
                made.start_over()
            if self.stands(group, topic, source):
                return
            self.rig.clock.advance(10_000)
        raise AssertionError(f"{made.name} does not come to the end of {topic}")

    def steps(self, stage: Scoring | Alerting, count: int, before: Callable[[], None] = lambda: None) -> None:
        for _ in range(count):
            before()
            stage.step(timeout_s=0.0)

    def more(self) -> None:
        """A few events, folded."""
        self.rig.produce(3)
        self.ingest()

    def scores(self) -> dict[int, list[Score]]:
        """By partition of their topic."""
        return {p: [SCORE.decode(value) for value in values if b'"high"' not in value] for p, values in self._values(SCORES.topic).items()}

    def alerts(self) -> list[Alert]:
        return [ALERT.decode(value) for values in self._values(ALERTS.topic).values() for value in values]

    def _values(self, topic: str) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {partition: [] for partition in range(self.log.topic(topic).partitions)}
        for batch in self.rig.read(topic, self.log.topic(topic).end):
            found[batch.partition] += [value for value in batch.values if value is not None]
        return found

    def expected_alerts(self) -> list[Alert]:
        """What the score topic comes to, folded here in one go."""
        return expected(self.project, self.scores())


def expected(project: Project, scores: dict[int, list[Score]]) -> list[Alert]:
    averages: dict[tuple[str, str], Average] = {}
    told = []
    for score in (score for own in scores.values() for score in own):
        for rule in project.alerts:
            if (rule.model, rule.source, rule.entity) == (score.model, score.source, score.entity):
                found = fold(rule, averages.get((rule.name, score.id)), score)
                if found is not None:
                    averages[rule.name, score.id] = found[0]
                    told += [found[1]] if found[1] is not None else []
    return told


def by_id(alerts: Sequence[Alert]) -> list[Alert]:
    return sorted(alerts, key=lambda alert: alert.alert_id)

