"""What was served, computed again from history: the same bytes, whatever the lag was, and whatever came late afterwards."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import until
from world import MODEL, SECOND_US, Http, World, production

import oracle
from featureflow.store.log.protocol import Record
from featureflow.train.audit import recompute_predictions
from servers import Services

REQUESTS = 1_000
OUTAGE_S = 30.0                            # the worker is down, killed in the middle, for this long at least
OUTAGE_AT = 150                            # requests before it
OUTAGE_REQUESTS = 250                      # while it lasts, at least
PACE_S = 0.035                             # between requests
RIDERS = [f"r{n}" for n in range(40)]
ZONES = (1, 2, 3)
CHECKED_BY_ORACLE = 60


@pytest.fixture
def world(tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str) -> Iterator[World]:
    with production(tmp_path / "project", services, production_redis_url, mysql_url) as made:
        yield made


@dataclass
class Flow:
    """Rides and tips that never stop, and the late ones that are asked for."""

    world: World
    luck: random.Random
    sent: int = 0
    late: list[tuple[str, bytes]] = field(default_factory=list)
    problem: list[BaseException] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(0.03):
                now_us = time.time_ns() // 1000
                rides = [self.ride(self.luck.choice(RIDERS), now_us) for _ in range(self.luck.randrange(4))]
                while self.late:
                    rides.append(self.late.pop())
                self.append("ride", rides)
                self.append("tip", [self.tip(now_us) for _ in range(self.luck.randrange(3))])
        except BaseException as error:
            self.problem.append(error)

    def append(self, source: str, found: list[tuple[str, bytes]]) -> None:
        if found:
            records = [Record(value, rider.encode() if source == "ride" else None) for rider, value in found]
            self.world.context.log.append(self.world.topic_of(source), records)
            self.sent += len(records)

    def ride(self, rider: str, at_us: int) -> tuple[str, bytes]:
        luck = self.luck
        fare, cash = round(luck.uniform(1, 90), 2), luck.random() < 0.5
        value = {"at": at_us, "rider": rider, "zone": luck.choice(ZONES), "fare": fare, "cash": cash}
        return rider, json.dumps(value).encode()

    def tip(self, now_us: int) -> tuple[str, bytes]:
        luck = self.luck
        value = {"at": now_us - luck.randrange(40 * SECOND_US), "rider": luck.choice(RIDERS), "amount": round(luck.random(), 3)}
        return "", json.dumps(value).encode()


@dataclass
class Asked:
    prediction_id: str
    during_outage: bool
    followed: bool                         # by an event of the same rider that happened before the answer
    read: bool                             # from the store


def ask(world: World, flow: Flow, scorer: Http, luck: random.Random) -> list[Asked]:
    """1,000 scores; in their middle the worker is killed, and started again half a minute later. More, where it was not by then, or where
    the store took longer than the scorer waits for more than half of them, as on a machine that is busy."""
    worker, asked = world.start("ingest"), list[Asked]()
    until(world.folded, "the worker's first work")
    down_until = float("inf")
    while len(asked) < REQUESTS or not worker.running() or sum(one.read for one in asked) < REQUESTS // 2:
        if len(asked) == OUTAGE_AT and worker.running():
            worker.kill()
            down_until = time.monotonic() + OUTAGE_S
        elif not worker.running() and time.monotonic() >= down_until and len(asked) >= OUTAGE_AT + OUTAGE_REQUESTS:
            worker = world.start("ingest")
        rider, zone = luck.choice(RIDERS), luck.choice((*ZONES, None))
        status, answer = scorer.post(f"/v1/score/{MODEL}", {"entities": {"rider": rider, "zone": zone}, "context": {"hour": 17}})
        assert status == 200, answer
        followed = luck.random() < 0.4
        if followed:
            flow.late.append(flow.ride(rider, time.time_ns() // 1000 - luck.randrange(SECOND_US, 40 * SECOND_US)))
        read = not any(what.startswith("fetch:") for what in answer["degraded"])
        asked.append(Asked(answer["prediction_ids"][0], not worker.running(), followed, read))
        time.sleep(PACE_S * luck.uniform(0.5, 1.5))
    until(world.folded, "the end of the log, after the outage")
    assert worker.told_to_end() == 0
    return asked


def logged(world: World, wanted: set[str]) -> list[dict[str, Any]]:
    """The rows of these predictions in history; waits until all are there."""
    everything = {"model": MODEL, "from_us": 0, "to_us": 2**62}

    def rows() -> list[dict[str, Any]]:
        found = [row for row in world.context.history.query("predictions_between", everything) if row["prediction_id"] in wanted]
        return found if len(found) >= len(wanted) else []

    found: list[dict[str, Any]] = until(rows, "every prediction in history", every=0.5)
    return found


def test_a_thousand_scores_through_an_outage_are_recomputed_to_the_byte(world: World) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    world.featureflow("apply")
    world.add_model()
    history = world.start("history")
    server, scorer = world.serve()
    flow, stop = Flow(world, random.Random(seed)), threading.Event()
    flow.append("ride", [flow.ride(rider, time.time_ns() // 1000) for rider in RIDERS])
    producer = threading.Thread(target=flow.run, args=(stop,))
    producer.start()
    try:
        asked = ask(world, flow, scorer, random.Random(seed + 1))
    finally:
        stop.set()
        producer.join()
    assert flow.problem == []
    assert server.told_to_end() == 0       # what it logged is in the log
    until(world.recorded, "the end of the log in history")
    rows = logged(world, {one.prediction_id for one in asked})
    assert history.told_to_end() == 0
    assert len(rows) == len({row["prediction_id"] for row in rows}) == len(asked) >= REQUESTS
    kinds = {one.prediction_id: one for one in asked}
    outage = [row for row in rows if kinds[row["prediction_id"]].during_outage]
    followed = [row for row in rows if kinds[row["prediction_id"]].followed]
    print(f"{flow.sent} events; {len(outage)} scores while the worker was down, {len(followed)} followed by a late event")
    assert len(outage) >= OUTAGE_REQUESTS
    assert len(followed) >= 200

    audited = recompute_predictions(world.context.history, world.project, rows)
    assert [one for one in audited if not one.equal] == []
    said = Counter(what for row in rows for what in json.loads(row["degraded"]))
    print(f"degraded: {dict(said)}")
    whole = [row for row, one in zip(rows, audited, strict=True) if one.compared == sum(len(view.features) for view in world.project.views)]
    unread = [row for row in rows if any(what.startswith("fetch:") for what in json.loads(row["degraded"]))]
    assert len(whole) + len(unread) == len(asked)      # a value that was not compared was served as missing, and said so
    assert len(whole) >= REQUESTS // 2
    check_by_oracle(world, random.Random(seed + 2).sample(whole, CHECKED_BY_ORACLE))
    check_that_it_can_fail(world, *([row for row in some if row in whole] for some in (outage, followed)))


def check_by_oracle(world: World, rows: list[dict[str, Any]]) -> None:
    """The same by a replay of the log that shares nothing with the kernel."""
    records, sources = world.records(), {source.name: source for source in world.project.sources}
    for row in rows:
        entities, applied, expected = json.loads(row["entities"]), json.loads(row["applied"]), list[float]()
        for name in json.loads(row["views"]):
            view = world.project.view(name)
            upto = {(source, int(p)): offset for source, places in applied[name].items() for p, offset in places.items()}
            entity = entities[view.join_key]
            for answer in oracle.answers(view, sources, [] if entity is None else records, entity, row["asked_at"], upto):
                expected += answer.values
        assert base64.b64decode(row["features"]) == np.array(expected, "<f8").tobytes()


def check_that_it_can_fail(world: World, outage: list[dict[str, Any]], followed: list[dict[str, Any]]) -> None:
    """One bit of a value, the instant, or what was applied: each is noticed."""
    history, project = world.context.history, world.project
    row = followed[0]
    raw = bytearray(base64.b64decode(row["features"]))
    raw[0] ^= 1
    [tampered] = recompute_predictions(history, project, [{**row, "features": base64.b64encode(bytes(raw)).decode()}])
    assert [difference.feature for difference in tampered.differences] == ["rider_now:rides_1m"]
    ends = {source.name: {str(p): end for p, end in world.context.log.topic(source.topic).end.items()} for source in project.sources}

    def with_everything(row: Mapping[str, Any]) -> dict[str, Any]:
        """As if all that is known now had been known then."""
        applied = {view: {source: ends[source] for source in places} for view, places in json.loads(row["applied"]).items()}
        return {**row, "applied": json.dumps(applied)}

    for rows, share in ((followed, 0.95), (outage, 0.7)):
        hindsight = recompute_predictions(history, project, [with_everything(row) for row in rows])
        assert sum(not one.equal for one in hindsight) > share * len(rows)
    [moved] = recompute_predictions(history, project, [{**outage[-1], "asked_at": outage[-1]["asked_at"] + 3_600 * SECOND_US}])
    assert not moved.equal
