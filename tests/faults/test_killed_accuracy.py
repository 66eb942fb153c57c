"""Live accuracy on real servers, its process killed at random: every score counts once, with its label."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import until
from world import DEFINITIONS, PARTITIONS, SECOND_US, World, production

from featureflow.define import system
from featureflow.store.log.protocol import Record
from featureflow.store.mirror import ACCURACY_DOCUMENT, ACCURACY_STATE_DOCUMENT, accuracy_of
from servers import Services

WITH_LABEL = DEFINITIONS.replace("Field, Model", "Field, Label, Model") + '''

class Outcome(Event, topic="{topic}-outcomes", time="at", disorder="1s"):
    at: Field[datetime]
    rider: Field[str] = key(Rider)
    good: Field[bool | None]


class Worth(Label, of=Generous, source=Outcome, entity="rider", value=Outcome.good, within="10m"): ...
'''
KILLS = 3


@pytest.fixture
def world(tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str) -> Iterator[World]:
    with production(tmp_path / "project", services, production_redis_url, mysql_url, definitions=WITH_LABEL) as made:
        yield made


class Told:
    """What was appended, and what a naive reading of it says."""

    def __init__(self, world: World) -> None:
        self._world, self._luck = world, random.Random(7)
        self.scores: list[tuple[str, int, float]] = []
        self.outcomes: list[tuple[str, int, bool]] = []

    def more(self, number: int) -> None:
        """Scores of just now, and outcomes after them, each of an instant of its own."""
        for _ in range(number):
            rider, at_us = f"r{self._luck.randrange(30)}", time.time_ns() // 1000 - self._luck.randrange(SECOND_US)
            score = self._luck.random()
            self.scores.append((rider, at_us, score))
            row = {
                "asked_at": at_us, "prediction_id": f"p{len(self.scores)}", "request_id": "r", "model": "generous", "model_version": "1",
                "variant": "fp32", "provider": "cpu", "score": score, "entities": json.dumps({"rider": rider}), "context": "{}",
                "views": "{}", "applied": "{}", "features": "", "statuses": "", "degraded": "[]",
            }  # fmt: skip
            self._append(system.predictions(self._world.topic).topic, row)
            if self._luck.random() < 0.5:
                self.outcomes.append((rider, at_us + SECOND_US // 10, self._luck.random() < score))
                self._append(f"{self._world.topic}-outcomes", {"at": at_us + SECOND_US // 10, "rider": rider, "good": self.outcomes[-1][2]})

    def _append(self, topic: str, row: dict[str, Any]) -> None:
        self._world.context.log.append(topic, [Record(json.dumps(row).encode(), partition=self._luck.randrange(PARTITIONS))])

    def labels(self) -> list[bool]:
        """Of each score that has one, its first."""
        found = []
        for rider, at_us, _ in self.scores:
            own = [(at, good) for who, at, good in self.outcomes if who == rider and at_us <= at <= at_us + 600 * SECOND_US]
            if own:
                found.append(min(own)[1])
        return found


def test_a_killed_accuracy_counts_every_score_once(world: World) -> None:
    world.featureflow("apply")
    told, online = Told(world), world.context.online
    for _ in range(KILLS):
        told.more(40)
        before = online.get_meta(ACCURACY_STATE_DOCUMENT)
        process = world.start("accuracy")
        until(lambda before=before: online.get_meta(ACCURACY_STATE_DOCUMENT) != before, "what is saved")  # type: ignore[misc]
        told.more(20)
        process.kill()
    process = world.start("accuracy")
    expected = told.labels()

    def counted() -> int:
        return sum(one.labels for one in accuracy_of(online.get_meta(ACCURACY_DOCUMENT)).get("generous", {}).values())

    until(lambda: counted() >= len(expected), f"{len(expected)} labels", every=0.2)
    assert process.told_to_end() == 0  # it saves what is in hand
    (found,) = world.featureflow("accuracy", "--show")["generous"].values()
    assert found["labels"] == len(expected)
    assert found["base_rate"] == pytest.approx(sum(expected) / len(expected))
