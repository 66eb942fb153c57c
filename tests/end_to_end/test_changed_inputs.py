"""A model's inputs are changed under load: the version before goes on, and the one that has the new inputs is tried, released, and rolled
back, with not one request refused, and each score is what its own model makes of its own inputs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import until
from rides import ENTITIES, RIDE, TIP
from world import Http, World, new_topic

from featureflow.models.export import export_mlp
from featureflow.models.manifest import with_inputs_of
from featureflow.train.as_served import as_served, find, newest

HEAD = '''"""Rides, for tests."""

from datetime import datetime

from featureflow import Entity, Event, Field, Model, Request, View, count, key, max, sum

''' + ENTITIES + RIDE + TIP
BEFORE = HEAD + '''

class RiderNow(View, of=Rider):
    rides = count(Ride, over=("10m", "1h"))
    spent = sum(Ride.fare, over=("10m", "1h"))


class Ask(Request):
    hour: Field[int]


class Fraud(Model, deadline="60s", drift=0.05):
    share = RiderNow.spent["10m"] / RiderNow.spent["1h"]
    inputs = (RiderNow.rides["1h"], share, Ask.hour)
    defaults = {{share: -1.0}}
'''
AFTER = HEAD + '''

class RiderNow(View, of=Rider):
    rides = count(Ride, over=("10m", "1h"))
    spent = sum(Ride.fare, over=("10m", "1h"))
    largest = max(Ride.fare, over=("1h",))


class ZoneNow(View, of=Zone):
    cash = count(Ride, where=Ride.cash, over=("1h",))


class Ask(Request):
    hour: Field[int]
    amount: Field[float]


class Fraud(Model, deadline="60s", drift=0.05):
    share = Ask.amount / RiderNow.spent["1h"]
    inputs = (share, RiderNow.largest["1h"], ZoneNow.cash["1h"], Ask.amount)
    defaults = {{share: -2.0, RiderNow.largest["1h"]: -3.0}}
'''
OTHERWISE = AFTER.replace("rides = count(Ride, over", "rides = count(Ride, where=Ride.cash, over")
WEIGHTS = {"1": (1.0, 10.0, 0.5), "2": (2.0, 0.25, 4.0, 1.5)}
RIDERS = [f"rider-{i}" for i in range(24)]
Value = float | None


def expected(version: str, features: dict[str, dict[str, Any]], context: dict[str, float]) -> float:
    """What a version says of what it was given, written apart from what calculates it there."""

    def value(name: str) -> Value:
        found: Value = features[name]["value"]
        return found

    def divided(a: Value, b: Value, otherwise: float) -> float:
        return otherwise if a is None or not b else a / b

    if version == "1":
        share = divided(value("rider_now:spent_10m"), value("rider_now:spent_1h"), -1.0)
        assert len(features) == 3
        inputs: list[Value] = [value("rider_now:rides_1h"), share, context["hour"]]
    else:
        largest = value("rider_now:largest_1h")
        assert len(features) == 3
        inputs = [
            divided(context["amount"], value("rider_now:spent_1h"), -2.0), -3.0 if largest is None else largest,
            value("zone_now:cash_1h"), context["amount"],
        ]  # fmt: skip
    return sum(weight * one for weight, one in zip(WEIGHTS[version], inputs, strict=True) if one is not None)


class Callers:
    """Ask without a pause that would let a gap slip through. ``body``: what a caller sends now, of its number."""

    def __init__(self, port: int, body: Callable[[int], dict[str, Any]]) -> None:
        self.body = body
        self.answers: list[tuple[int, dict[str, Any], Any]] = []       # status, what was sent, the answer
        self._leave, self._http = threading.Event(), Http(port)
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        number = 0
        while not self._leave.is_set():
            sent = self.body(number)
            status, answer = self._http.post("/v1/score/fraud", sent)
            self.answers.append((status, sent, answer))
            number += 1
            time.sleep(0.002)

    def more(self, count: int) -> list[tuple[int, dict[str, Any], Any]]:
        """So many that were asked after this was called."""
        begin = len(self.answers) + 1
        until(lambda: len(self.answers) >= begin + count, "callers to be answered")
        return self.answers[begin : begin + count]

    def end(self) -> None:
        self._leave.set()
        self._thread.join()
        self._http.close()


def old_caller(number: int) -> dict[str, Any]:
    return {"entities": {"rider": RIDERS[number % len(RIDERS)]}, "context": {"hour": number % 24}, "explain": True}


def new_caller(number: int) -> dict[str, Any]:
    entities = {"rider": RIDERS[number % len(RIDERS)], "zone": number % 5}
    return {"entities": entities, "context": {"hour": number % 24, "amount": 0.5 + number % 7}, "explain": True}


def both(number: int) -> dict[str, Any]:
    return old_caller(number // 2) if number % 2 else new_caller(number // 2)


def rides(now_us: int, count: int) -> list[dict[str, object]]:
    """Of the last half hour."""
    begin, step = now_us - 1_800_000_000, 1_800_000_000 // count
    return [
        {"at": begin + i * step, "rider": RIDERS[i % len(RIDERS)], "zone": i % 5, "fare": 1.0 + i % 11, "cash": i % 3 == 0}
        for i in range(count)
    ]


def add(world: World, version: str) -> None:
    weights = np.array(WEIGHTS[version])[:, None]
    export_mlp([weights], [np.zeros(1)], world.folder / "fraud.onnx", output="identity")
    assert world.featureflow("model", "add", "fraud", world.folder / "fraud.onnx")["version"] == version


def redefine(world: World, definitions: str) -> None:
    (world.folder / "features.py").write_text(definitions.format(topic=world.topic))


def versions(answers: list[tuple[int, dict[str, Any], Any]]) -> set[str]:
    return {answer.get("version", str(status)) for status, _, answer in answers}


def test_a_version_goes_on_with_its_inputs_and_one_with_others_is_released_without_a_gap(world: World) -> None:
    redefine(world, BEFORE)
    world.featureflow("apply")
    world.start("ingest")
    world.start("history")
    add(world, "1")
    _, scorer = world.serve()
    status, said = scorer.post("/v1/events/ride", rides(world.context.clock.now_us(), 300))
    assert status == 200, said
    world.featureflow("model", "release", "fraud", "1")
    callers = Callers(world.serve_port, old_caller)
    world.ended_with(callers.end)
    until(lambda: any(answer["features"][0]["rider_now:rides_1h"]["value"] for _, _, answer in callers.more(10)), "rides to be counted")

    def followed(*words: str) -> None:
        number = world.featureflow("model", *words)["number"]
        until(lambda: scorer.get("/v1/models/fraud")[1]["release"]["release"] == number, f"release {number}")

    # inputs of other names, expressions, views, entities and request fields
    redefine(world, AFTER)
    assert world.featureflow("apply", "--plan")["models"] == {}, "version 1 goes on: nothing is to be warned of"
    world.featureflow("apply")
    until(lambda: "/v1/features/zone_now" in scorer.get("/openapi.json")[1]["paths"], "the scorer to follow")
    assert versions(callers.more(50)) == {"1"}
    assert scorer.get("/v1/models/fraud")[1]["inputs"] == ["rider_now:rides_1h", "share", "hour"]

    # callers begin to send what the next version reads, one after the other
    callers.body = both
    assert versions(callers.more(50)) == {"1"}
    add(world, "2")
    assert versions(callers.more(50)) == {"1"}
    assert scorer.post("/v1/score/fraud@2", new_caller(1))[1].get("version", "2") == "2"       # or it is being loaded
    assert "sticky may be rider, zone" in world.featureflow("model", "canary", "fraud", "2", "--sticky", "driver", code=1)
    followed("canary", "fraud", "2", "--weight", "50", "--sticky", "rider")
    tried = callers.more(300)
    assert versions([one for one in tried if "amount" in one[1]["context"]]) == {"1", "2"}
    assert versions([one for one in tried if "amount" not in one[1]["context"]]) == {"1"}, "who cannot ask it is not given it"
    sides = {(sent["entities"]["rider"], answer["version"]) for _, sent, answer in tried if "amount" in sent["context"]}
    assert len(sides) == len(RIDERS), "an entity keeps its version"

    # all send it
    callers.body = new_caller
    callers.more(5)
    followed("promote", "fraud")
    assert versions(callers.more(50)) == {"2"}
    followed("rollback", "fraud")
    assert versions(callers.more(50)) == {"1"}
    followed("release", "fraud", "2")
    assert versions(callers.more(50)) == {"2"}

    # what each version was given stands in history, and gives its scores again
    for version in ("1", "2"):
        project = with_inputs_of(world.context.models.manifest("fraud", version), world.project)
        of_it = [answer for _, _, answer in callers.answers if answer["version"] == version][-40:]
        scores = {answer["prediction_ids"][0]: answer["scores"][0] for answer in of_it}
        until(lambda wanted=set(scores): find(world.context.history, world.project, wanted).keys() == wanted, "history to have them")
        made = as_served(world.context.history, project, {"prediction_id": list(scores)}, model="fraud")
        assert np.nan_to_num(made.inputs) @ np.array(WEIGHTS[version]) == pytest.approx(list(scores.values()), rel=1e-5)
        assert newest(world.context.history, project, "fraud", 3)

    # a feature that version 1 reads has another meaning under its name: version 2 goes on, and to go back is refused
    redefine(world, OTHERWISE)
    assert world.featureflow("apply")["models"] == {}
    until(lambda: "calculated otherwise" in str(scorer.post("/v1/score/fraud@1", new_caller(1))[1]), "version 1 to be refused")
    assert versions(callers.more(50)) == {"2"}
    assert "the feature rider_now:rides_1h is calculated otherwise now" in world.featureflow("model", "release", "fraud", "1", code=1)
    callers.end()

    refused = [(status, sent, answer) for status, sent, answer in callers.answers if status != 200]
    assert refused == []
    for _, sent, answer in callers.answers:
        wanted = expected(answer["version"], answer["features"][0], sent["context"])
        assert answer["scores"] == [pytest.approx(wanted, rel=1e-5)]


def test_what_a_version_reads_that_is_removed_is_warned_of_before_and_refused_by_name(tmp_path: Path) -> None:
    with World(tmp_path / "project", {}, new_topic(), BEFORE) as world:
        world.featureflow("apply")
        add(world, "1")
        _, scorer = world.serve()
        redefine(world, OTHERWISE)
        warned = world.featureflow("apply", "--plan")["models"]
        assert "fraud@1 reads what is not there" in warned["fraud"]
        assert "the feature rider_now:rides_1h is calculated otherwise now" in warned["fraud"]
        assert scorer.post("/v1/score/fraud", old_caller(1))[0] == 200
        assert world.featureflow("apply")["models"] == warned
        until(lambda: scorer.post("/v1/score/fraud", new_caller(1))[0] == 503, "the scorer to follow")
        assert warned["fraud"] in scorer.post("/v1/score/fraud", new_caller(1))[1]["detail"]


def test_a_version_is_quantized_on_what_it_was_given_when_the_definition_has_other_inputs(tmp_path: Path) -> None:
    with World(tmp_path / "project", {}, new_topic(), BEFORE) as world:
        world.featureflow("apply")
        world.start("history")
        weights = np.array([[0.2], [0.1], [0.15]])
        export_mlp([weights], [np.zeros(1)], world.folder / "fraud.onnx", mean=np.array([0.0, 0.0, 12.0]), deviation=np.ones(3))
        world.featureflow("model", "add", "fraud", world.folder / "fraud.onnx")
        world.featureflow("model", "release", "fraud", "1")
        _, scorer = world.serve()
        rows = [{"entities": {"rider": "ada"}, "context": {"hour": hour % 24}} for hour in range(256)]
        status, before = scorer.post("/v1/score/fraud", {"rows": rows})
        assert status == 200
        redefine(world, AFTER)
        world.featureflow("apply")
        add(world, "2")
        until(lambda: "/v1/features/zone_now" in scorer.get("/openapi.json")[1]["paths"], "the scorer to follow")
        more = {"entities": {"rider": "ada", "zone": 1}, "context": {"amount": 1.0}}
        until(lambda: scorer.post("/v1/score/fraud@2", more)[0] == 200, "version 2 to be loaded")
        ids = set(before["prediction_ids"])
        until(lambda: find(world.context.history, world.project, ids).keys() == ids, "history to have what was scored")
        said = world.featureflow("model", "quantize", "fraud", "--ref", "1", "--logged", "1000")
        assert said["version"] == "1"
        assert said["report"]["calibration_rows"] + said["report"]["held_out_rows"] == len(rows), "who asked version 2 sent no hour"
        until(lambda: scorer.post("/v1/score/fraud", {"rows": rows})[1]["variant"] == said["chosen"]["cpu"]["variant"], "what was chosen")
        after = scorer.post("/v1/score/fraud", {"rows": rows})[1]
        assert after["version"] == "1"
        assert after["scores"] == pytest.approx(before["scores"], abs=0.05)
