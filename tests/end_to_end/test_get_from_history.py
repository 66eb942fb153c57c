"""``featureflow get --at`` where the state has rolled that instant up: computed from history, to the bit, or refused."""

from __future__ import annotations

import json
import random
import time
from typing import Any

from naive import Naive
from processes import until
from world import SECOND_US, World

import oracle
from featureflow.clock import from_us
from featureflow.store.log.protocol import Record

RIDERS = ("ada", "bob:{0}", "r1", "r2")
HOUR_US = 3_600 * SECOND_US
STATUS = {"p": "present", "d": "default", "x": "expired"}


EVER = """

from featureflow import lifetime


class RiderEver(View, of=Rider, ttl=None):
    rides = count(Ride, over=(lifetime,))
    fares = last_n(Ride.fare, 3)
"""


def rides(world: World, seed: int, end_us: int) -> int:
    """Five hours of them, in order; some late. The newest event time."""
    luck = random.Random(seed)
    times = sorted(end_us - luck.randrange(5 * HOUR_US) for _ in range(160))
    for time_us in times:
        rider = luck.choice(RIDERS)
        at_us = time_us - luck.choice((0, 0, luck.randrange(40 * SECOND_US)))
        value = {"at": at_us, "rider": rider, "zone": luck.choice((1, 2)), "fare": luck.choice((None, luck.random() * 90)), "cash": True}
        world.context.log.append(world.topic_of("ride"), [Record(json.dumps(value).encode(), rider.encode())])
    return times[-1]


def run(world: World, verb: str, done: Any) -> None:
    process = world.start(verb)
    until(done, verb)
    assert process.told_to_end() == 0, process.said()


def test_values_of_all_events_are_computed_as_of_an_instant_before_the_newest(world: World) -> None:
    with (world.folder / "features.py").open("a") as definitions:
        definitions.write(EVER)
    world.featureflow("apply")
    newest_us = rides(world, 5, time.time_ns() // 1000)
    run(world, "ingest", world.folded)
    before, at_us = "2020-01-01T00:00:00Z", newest_us - 3 * HOUR_US
    said = world.featureflow("get", "rider_ever", "r1", "--at", before, code=1)
    assert "no exact answer" in said, "state is of all events, and history has none yet"
    run(world, "history", world.recorded)
    view, records = world.project.view("rider_ever"), world.records()
    now = world.featureflow("get", "rider_ever", *RIDERS)
    assert now["from_history"] == [], "the state answers for now"
    then = world.featureflow("get", "rider_ever", *RIDERS, "--at", from_us(at_us).isoformat())
    assert then["from_history"] == list(RIDERS)
    everything = sum(row["value"] for row in now["features"] if row["feature"] == "rider_ever:rides_lifetime")
    for answer, end_us in ((then, at_us), (now, 2**62)):
        expected, found = Naive(world.project, records), iter(answer["features"])
        for entity_id in RIDERS:
            mine = [record for record in expected.records(view, entity_id) if record.time_us <= end_us]
            for feature, wanted in zip(view.features, oracle.answer(view, mine, answer["q"]), strict=True):
                row = next(found)
                several = row["value"] if isinstance(row["value"], list) else [row["value"]]
                assert (row["feature"], several) == (feature.reference, [None if v != v else v for v in wanted.values])
                assert row["event_time"] == (None if wanted.event_time_us is None else from_us(wanted.event_time_us).isoformat())
    assert 0 < sum(row["value"] for row in then["features"] if row["feature"] == "rider_ever:rides_lifetime") < everything
    none = world.featureflow("get", "rider_ever", "r1", "--at", before)
    assert [(row["status"], row["event_time"]) for row in none["features"]] == [("default", None)] * 2
    _, scorer = world.serve()
    assert scorer.get(f"/v1/features/rider_ever/r1?at={at_us}")[0] == 422


def test_an_instant_that_state_has_rolled_up_is_computed_from_history_or_refused(world: World) -> None:
    world.featureflow("apply")
    newest_us = rides(world, 3, time.time_ns() // 1000)
    run(world, "ingest", world.folded)
    at_us = newest_us - 3 * HOUR_US
    at = from_us(at_us).isoformat()
    said = world.featureflow("get", "rider_last", *RIDERS, "--at", at, code=1)
    assert "no exact answer" in said
    assert "featureflow history" in said, "nothing is made up where history has not come as far"
    run(world, "history", world.recorded)
    naive = Naive(world.project, world.records())
    for name, ids in (("rider_last", (*RIDERS, "nobody")), ("zone_now", (1, 2)), ("rider_now", RIDERS)):
        view = world.project.view(name)
        answer = world.featureflow("get", name, *map(str, ids), "--at", at)
        assert answer["from_history"] == [str(one) for one in ids]
        assert f"{name}:unanswerable" not in answer["degraded"], "it was answered"
        expected, rows, present = naive.values(view, ids, at_us), iter(answer["features"]), 0
        for entity_id in ids:
            for feature, wanted in zip(view.features, expected[entity_id], strict=True):
                row = next(rows)
                assert (row["id"], row["feature"]) == (str(entity_id), feature.reference)
                several = row["value"] if isinstance(row["value"], list) else [row["value"]]
                assert several == [None if v != v else v for v in wanted.values], row
                assert row["status"] == STATUS[wanted.status]
                assert row["event_time"] == (None if wanted.event_time_us is None else from_us(wanted.event_time_us).isoformat())
                present += wanted.status == "p"
        assert present > 0
    now = world.featureflow("get", "rider_last", *RIDERS)
    assert now["from_history"] == [], "the state answers for now"
    _, scorer = world.serve()
    for status, body in (
        scorer.get(f"/v1/features/rider_last/ada?at={at_us}"),
        scorer.post("/v1/features/rider_last", {"entities": ["nobody"], "at": at_us}),
    ):
        assert status == 422
        assert "featureflow get rider_last ID --at" in body["detail"]
