"""The same definitions, embedded and in production: the same state bytes, the same answers, and both are what a replay gives."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from naive import Naive
from processes import until
from world import MODEL, PARTITIONS, SECOND_US, Http, World, answered, check_state, embedded, new_topic, production

import oracle
from featureflow.define.spec import View
from featureflow.store.log.protocol import Record
from servers import Services

RIDERS = ("ada", "bob:{0}", "c\r\nd", "é*", "a/b%2F", "r1", "r2", "r3")
ZONES = (1, -3, 40)
ROUNDS = 2                                 # the worker starts anew in each: it goes on from what the store holds
EVENTS = 240                               # of each source in each round

Placed = tuple[str, int, bytes]            # source, partition, value


def ride(luck: random.Random, now_us: int) -> dict[str, object]:
    """Some late, some too late for a view. None so old that it leaves a window while the test runs."""
    minute_us = 60 * SECOND_US
    old_us = luck.choice((0, luck.randrange(minute_us), luck.randrange(20 * minute_us, 45 * minute_us), 70 * minute_us))
    return {
        "at": now_us - old_us,
        "rider": luck.choice(RIDERS),
        "zone": luck.choice((*ZONES, None)),
        "fare": luck.choice((None, 0.1, 1e-9, 12.5, luck.random() * 1e2, -3.0)),
        "cash": luck.random() < 0.5,
    }


def tip(luck: random.Random, now_us: int) -> dict[str, object]:
    return {"at": now_us - luck.randrange(55 * SECOND_US), "rider": luck.choice(RIDERS), "amount": round(luck.gammavariate(1, 3), 2)}


def rounds(seed: int) -> list[tuple[list[Placed], list[dict[str, object]]]]:
    """For each round: rides with the partition that a producer gives them, and tips to post. Event times lie up to now."""
    luck, now_us, found = random.Random(seed), time.time_ns() // 1000, []
    for _ in range(ROUNDS):
        rides = []
        for _ in range(EVENTS):
            value = ride(luck, now_us)
            rides.append(("ride", sum(str(value["rider"]).encode()) % PARTITIONS, json.dumps(value).encode()))
        found.append((rides, [tip(luck, now_us) for _ in range(EVENTS)]))
    return found


class Side:
    """One world, driven as its user would: events in, ingest, serve."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.featureflow("apply")
        world.add_model()
        _, self.scorer = world.serve()           # events are posted to it, too

    def take(self, rides: Sequence[Placed], tips: Sequence[dict[str, object]]) -> None:
        """Rides by a producer of the log, with their partitions; tips by HTTP, which takes turns among them; then one run of the worker."""
        status, answer = self.scorer.post("/v1/events/tip", tips)
        assert status == 200, answer
        assert len(answer["positions"]) == len(tips)
        self.produce(rides)
        worker = self.world.start("ingest")
        until(self.world.folded, "the end of the log")
        assert worker.told_to_end() == 0, worker.said()

    def produce(self, rides: Sequence[Placed]) -> None:
        records = [Record(value, json.loads(value)["rider"].encode(), partition=partition) for _, partition, value in rides]
        self.world.context.log.append(self.world.topic_of("ride"), records)


class KafkaSide(Side):
    """Rides come from a Kafka client that knows nothing of us."""

    def produce(self, rides: Sequence[Placed]) -> None:
        producer = KafkaProducer(bootstrap_servers=self.world.settings["FEATUREFLOW_LOG_URL"].removeprefix("kafka://"), linger_ms=50)
        for _, partition, value in rides:
            producer.send(self.world.topic_of("ride"), value, json.loads(value)["rider"].encode(), partition=partition)
        producer.flush()
        producer.close()


@pytest.fixture
def sides(tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str) -> Iterator[list[Side]]:
    topic = new_topic()
    with (
        production(tmp_path / "production", services, production_redis_url, mysql_url, topic=topic) as real,
        embedded(tmp_path / "embedded", topic=topic) as small,
    ):
        yield [KafkaSide(real), Side(small)]


def placed(records: Sequence[oracle.Record]) -> dict[tuple[str, int, int], Any]:
    return {(r.source, r.partition, r.offset): r.fields for r in records}


def ids_of(view: View) -> Sequence[str | int]:
    return RIDERS if view.entity == "rider" else ZONES


def features(scorer: Http, view: View, at_us: int) -> Any:
    answer = answered(lambda: scorer.post(f"/v1/features/{view.name}", {"entities": list(ids_of(view)), "at": at_us}))
    assert answer["degraded"] == []
    return answer


def check_answer(view: View, answer: Any, naive: Naive) -> int:
    """A features answer is what the replay says at the instant that it names. How many values are there."""
    expected, present = naive.values(view, ids_of(view), answer["q"]), 0
    for row in answer["rows"]:
        for i, (value, status) in enumerate(zip(row["values"], row["statuses"], strict=True)):
            wanted = expected[row["id"]][i]
            assert status == {"p": "present", "d": "default", "x": "expired"}[wanted.status], (view.name, row["id"], i)
            assert row["event_times_us"][i] == wanted.event_time_us
            several = value if isinstance(value, list) else [value]
            assert several == [None if v != v else v for v in wanted.values]
            present += wanted.status == "p"
    return present


def scored(scorer: Http) -> Any:
    rows = [{"entities": {"rider": rider, "zone": zone}, "context": {"hour": 17}} for rider in RIDERS for zone in (*ZONES, None)]

    def whole() -> Any:
        """The store may take longer than the scorer waits, on a busy machine."""
        status, answer = scorer.post(f"/v1/score/{MODEL}", {"rows": rows, "explain": True})
        assert status == 200, answer
        return answer if not answer["degraded"] else None

    return until(whole, "a score with its features")


def test_state_bytes_and_answers_are_the_same_embedded_and_in_production_and_are_the_replays(sides: list[Side]) -> None:
    for rides, tips in rounds(seed=2):
        for side in sides:
            side.take(rides, tips)
    real, _ = sides
    states = [side.world.state() for side in sides]
    assert len(states[0]) > 40
    assert states[0] == states[1]
    records = [side.world.records() for side in sides]
    assert len(records[0]) == 2 * ROUNDS * EVENTS
    assert placed(records[0]) == placed(records[1])
    newest, present = max(record.time_us for record in records[0]), 0
    for side, own in zip(sides, records, strict=True):
        check_state(side.world, own, [newest, newest + 3 * SECOND_US])
        naive = Naive(side.world.project, own)
        for view in side.world.project.views:
            present += check_answer(view, features(side.scorer, view, newest + SECOND_US), naive)
    assert present > 100
    for view in real.world.project.views:
        answers = [features(side.scorer, view, newest + SECOND_US) for side in sides]
        assert answers[0] == answers[1]
    scores = [scored(side.scorer) for side in sides]
    for key in ("model", "version", "variant", "provider", "scores", "degraded", "features"):
        assert scores[0][key] == scores[1][key], key
    assert len(set(scores[0]["scores"])) > 20
    for side in sides:
        history = side.world.start("history")
        until(side.world.recorded, "the end of the log in history")
        assert history.told_to_end() == 0
    tables = [history_of(side.world) for side in sides]
    assert tables[0] == tables[1]
    assert len(tables[0]) == len(records[0])


def history_of(world: World) -> dict[tuple[str, int, int], tuple[object, ...]]:
    """(source, partition, offset) -> every field of the event, as history holds it."""
    found: dict[tuple[str, int, int], tuple[object, ...]] = {}
    for source in world.project.sources:
        names = [field.name for field in source.fields]
        for partition in range(PARTITIONS):
            for page in world.context.history.scan(source, partition=partition, columns=names):
                columns = [map(repr, page.events.columns[name].tolist()) for name in names]
                for offset, *values in zip(page.events.offsets.tolist(), *columns, strict=True):
                    found[source.name, partition, offset] = tuple(values)
    return found
