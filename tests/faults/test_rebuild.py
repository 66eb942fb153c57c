"""On real servers: Redis emptied after Kafka has deleted old events, and everything is what it was."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from processes import until
from world import SECOND_US, World, answered, check_state, production

from featureflow.store.log.protocol import Record
from servers import Services


@pytest.fixture
def world(tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str) -> Iterator[World]:
    with production(tmp_path / "project", services, production_redis_url, mysql_url) as made:
        yield made


def produce(world: World, luck: random.Random, count: int, bad: set[bytes]) -> None:
    for source in ("ride", "tip"):
        records = []
        for _ in range(count):
            rider = luck.choice(("ada", "bob:{0}", "c\r\nd", *(f"r{n}" for n in range(12))))
            values: dict[str, object] = {"at": time.time_ns() // 1000 - luck.randrange(90 * SECOND_US), "rider": rider}
            if source == "ride":
                values |= {"zone": luck.choice((1, 2, None)), "cash": luck.random() < 0.5}
                values |= {"fare": luck.choice((None, 0.1, luck.random() * 1e6))}
            else:
                values |= {"amount": luck.random() * 10}
            if luck.random() < 0.05:
                values["rider"] = [world.topic, luck.random()]
                bad.add(json.dumps(values).encode())
            records.append(Record(json.dumps(values).encode(), rider.encode() if source == "ride" else None))
        world.context.log.append(world.topic_of(source), records)


def test_an_emptied_redis_is_rebuilt_from_history_and_the_log_though_the_log_has_deleted_events(world: World, services: Services) -> None:
    luck, bad = random.Random(7), set[bytes]()
    world.featureflow("apply")
    ingest, history = world.start("ingest"), world.start("history")
    produce(world, luck, 400, bad)
    until(world.folded, "the end of the log in the online store")
    until(world.recorded, "the end of the log in history")
    assert (ingest.told_to_end(), history.told_to_end()) == (0, 0)
    records = world.records(bad)
    before = world.state()

    ends = {source: world.context.log.topic(world.topic_of(source)).end for source in ("ride", "tip")}
    admin = KafkaAdminClient(bootstrap_servers=services.kafka)
    admin.delete_records({TopicPartition(world.topic_of(s), p): end * 2 // 3 for s, parts in ends.items() for p, end in parts.items()})
    admin.close()
    with redis.Redis.from_url(world.context.online_url) as client:
        client.flushdb()

    assert "featureflow rebuild" in world.featureflow("ingest", code=1), "loud, and with a command"
    assert sorted(world.featureflow("rebuild")["rebuilt"]) == sorted(view.id for view in world.project.views)
    _, scorer = world.serve()
    answer = answered(lambda: scorer.get("/v1/features/rider_now/ada"))
    assert {feature["status"] for feature in answer["features"].values()} == {"stale"}, "nothing is silently a default"
    ingest = world.start("ingest")
    until(world.folded, "the end of the log in the online store, again")
    now_us = max(record.time_us for record in records)
    assert check_state(world, records, [now_us + SECOND_US, now_us + 40 * SECOND_US]) > 300
    assert world.state().keys() == before.keys()

    history = world.start("history")
    produce(world, luck, 50, bad)
    until(world.folded, "what came after")
    records += [r for r in world.records(bad) if r.offset >= ends[r.source][r.partition]]
    assert check_state(world, records, [max(record.time_us for record in records) + SECOND_US]) > 100
    until(world.recorded, "what came after in history, whose writer has started by then")
    assert (ingest.told_to_end(), history.told_to_end()) == (0, 0)
