"""Vectors the whole way on a laptop's installation: events, state, scores, the prediction log, its audit, and training sets."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import until
from pyarrow import parquet
from world import MODEL, SECOND_US, World, answered, embedded

from featureflow.kernel.derive import features_to_inputs
from featureflow.store.log.protocol import Record
from featureflow.train.as_served import as_served, find
from featureflow.train.audit import recompute_predictions
from featureflow.train.prediction import Prediction, view_definitions

DEFINITIONS = '''"""What riders like, as vectors of several numbers and of one; and sequences of one value beside them."""

from datetime import datetime

from featureflow import Entity, Event, Field, Model, Vector, View, count, key, last, last_n, len, max, max_by, mean, top_k


class Rider(Entity[str]): ...


class Ride(Event, topic="{topic}-rides", time="at", disorder="1m", keyed_by="rider"):
    at: Field[datetime]
    rider: Field[str] = key(Rider)
    fare: Field[float]
    car: Field[str]
    taste: Field[Vector[3] | None]
    one: Field[Vector[1]]


class RiderNow(View, of=Rider, ttl="2d"):
    rides = count(Ride, over=("1h",))
    taste = last(Ride.taste, over=("10m", "1h"))
    best = max_by(Ride.taste, by=Ride.fare, over=("1h",))
    one = last(Ride.one, over=("1h",))
    fare = last_n(Ride.fare, 1)
    car = top_k(Ride.car, 1, over=("1h",))


class Generous(Model, deadline="60s", drift=0.05):
    apart = RiderNow.taste["10m"] - RiderNow.best["1h"]
    average = mean(RiderNow.one["1h"])
    difference = RiderNow.one["1h"] - RiderNow.rides["1h"]
    largest = max(RiderNow.fare)
    known = len(RiderNow.car["1h"])
    inputs = (
        RiderNow.taste["1h"], RiderNow.one["1h"], RiderNow.fare, apart, average, difference, largest, known, RiderNow.rides["1h"],
    )
    defaults = {{value: 0.0 for value in (RiderNow.taste["1h"], RiderNow.one["1h"], RiderNow.fare, apart, average, difference, largest)}}
'''
RIDERS = ("ada", "bob:{0}", "é*", "of no ride")
WIDTH = 3 + 1 + 1 + 3 + 1 + 1 + 1 + 1 + 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with embedded(tmp_path / "project") as made:
        (made.folder / "features.py").write_text(DEFINITIONS.format(topic=made.topic))
        yield made


def rides(luck: random.Random, now_us: int) -> list[dict[str, Any]]:
    """Of all riders but the last, some of them at the same time as others. The newest of each is seconds old."""
    return [
        {
            "at": now_us - luck.randrange(1, 900) * SECOND_US,
            "rider": luck.choice(RIDERS[:-1]),
            "fare": luck.choice((1.5, 7.25, luck.random())),
            "car": luck.choice(("van", "cab")),
            "taste": luck.choice((None, *[[luck.uniform(-1e9, 1e9), 0.1, luck.random()]] * 4)),
            "one": [luck.random()],
        }
        for _ in range(120)
    ]


def expected(made: list[dict[str, Any]], rider: str) -> list[float]:
    """The model's inputs, of one rider: ties of the newest go to the later record."""
    mine = sorted((one for one in made if one["rider"] == rider), key=lambda one: one["at"])
    if not mine:
        return [0.0] * WIDTH
    newest, count = mine[-1], float(len(mine))
    tasted = [one for one in mine if one["taste"]]
    best = max(tasted, key=lambda one: (one["fare"], one["at"], mine.index(one)))["taste"]
    late = [one["taste"] for one in tasted if one["at"] > made[0]["now"] - 590 * SECOND_US]
    apart = [a - b for a, b in zip(late[-1], best, strict=True)]
    (one,) = newest["one"]
    return [*tasted[-1]["taste"], one, newest["fare"], *apart, one, one - count, newest["fare"], 1.0, count]


def test_vectors_are_served_logged_audited_and_given_to_training_as_they_were_written(world: World) -> None:
    world.featureflow("apply")
    world.add_model()
    luck, now_us = random.Random(11), time.time_ns() // 1000
    made = rides(luck, now_us)
    records = [Record(json.dumps(one).encode(), str(one["rider"]).encode()) for one in made]
    world.context.log.append(world.topic_of("ride"), records)
    made[0]["now"] = now_us
    for verb in ("ingest", "history"):
        world.start(verb)
    until(world.folded, "the rides in state")
    server, scorer = world.serve()
    features = answered(lambda: scorer.get("/v1/features/rider_now/ada"))
    shown: Mapping[str, Any] = {name: one["value"] for name, one in features["features"].items()}
    assert [len(shown[name]) for name in ("taste_1h", "best_1h", "one_1h", "fare", "car_1h")] == [3, 3, 1, 1, 1]

    def whole() -> Any:
        """On a busy machine the store may take longer than the scorer waits."""
        status, answer = scorer.post(f"/v1/score/{MODEL}", {"rows": [{"entities": {"rider": rider}} for rider in RIDERS]})
        assert status == 200, answer
        return answer if not answer["degraded"] else None

    answer = until(whole, "a score with its features")
    ids = answer["prediction_ids"]
    assert server.told_to_end() == 0                           # what it logged is in the log
    until(lambda: world.recorded(("ride", "featureflow_predictions")), "the log in history")
    history, project = world.context.history, world.project

    # the log holds the numbers themselves, and the audit finds them again
    logged = find(history, project, set(ids))
    wanted = np.array([expected(made, rider) for rider in RIDERS])
    assert [inputs_of(world, logged[name]).tobytes() for name in ids] == [row.tobytes() for row in wanted]
    everything = {"model": MODEL, "from_us": 0, "to_us": 2**62}
    rows = [row for row in history.query("predictions_between", everything) if row["prediction_id"] in ids]
    audited = recompute_predictions(history, project, rows)
    assert [(one.compared, one.differences) for one in audited] == [(len(project.view("rider_now").features), ())] * len(RIDERS)

    # training gets the same inputs: of what was served, and of history at the same instants
    label = {"prediction_id": ids, "label": [0, 1, 0, 1]}
    served = as_served(history, project, label, model=MODEL, label="label")
    assert served.inputs.tobytes() == wanted.tobytes()
    asked = [datetime.fromtimestamp(logged[name].asked_at_us / SECOND_US, UTC).isoformat() for name in ids]
    spine, out = world.folder / "spine.csv", world.folder / "out.parquet"
    spine.write_text("at,rider\n" + "".join(f'{at},"{rider}"\n' for at, rider in zip(asked, RIDERS, strict=True)))
    said = world.featureflow("dataset", MODEL, spine, out, "--delay", "0s")
    table = parquet.read_table(out)
    assert said["inputs"][:8] == ["rider_now:taste_1h[0]", "rider_now:taste_1h[1]", "rider_now:taste_1h[2]", "rider_now:one_1h",
                                  "rider_now:fare", "apart[0]", "apart[1]", "apart[2]"]  # fmt: skip
    found = np.array([table.column(name).to_pylist() for name in said["inputs"]], np.float64).T
    assert found.tobytes() == wanted.tobytes()


def inputs_of(world: World, prediction: Prediction) -> np.ndarray[Any, Any]:
    """The model's inputs from the logged features."""
    (served,) = prediction.sliced(view_definitions(world.context.history, world.project)).values()
    columns: dict[str, Any] = {}
    for place, feature in enumerate(served.view.features):
        values = served.values(place)
        one: Any = np.array([values], object if feature.is_text else np.float64)
        columns[feature.reference] = one if feature.is_sequence else one[:, 0]
    return features_to_inputs(world.project.model(MODEL), columns)[0]
