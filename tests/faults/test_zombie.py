"""A worker that was stopped past its session time-out and wakes up writes nothing."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from ports import free_port
from processes import until
from world import SECOND_US, World, check_state, metric, production

from featureflow.store.log.protocol import Record
from servers import Services

SESSION_MS = 6_000                         # the least that a broker allows by default


@pytest.fixture
def world(tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str) -> Iterator[World]:
    url = f"kafka://{services.kafka}?session_ms={SESSION_MS}"
    with production(tmp_path / "project", services, production_redis_url, mysql_url, FEATUREFLOW_LOG_URL=url) as made:
        yield made


def produce(world: World, count: int) -> None:
    """Rides and tips to every partition of theirs, so that whoever holds one has work."""
    now_us = time.time_ns() // 1000
    for source, fields in (("ride", {"zone": 1, "cash": True}), ("tip", {"amount": 0.1})):
        records = []
        for n in range(count):
            values = {"at": now_us - SECOND_US * (n % 50), "rider": f"r{n % 20}", **fields, **({"fare": n / 7} if source == "ride" else {})}
            records.append(Record(json.dumps(values).encode(), f"r{n % 20}".encode(), partition=n % 20 % 3))
        world.context.log.append(world.topic_of(source), records)


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def test_the_late_commit_of_a_worker_stopped_past_its_session_is_refused_and_state_is_the_replays(world: World, tmp_path: Path) -> None:
    world.featureflow("apply")
    ports, stop = (free_port(), free_port()), tmp_path / "stop"
    zombie, successor = (
        forked.start(
            world, "ingest", FEATUREFLOW_TEST_HAND=str(tmp_path / f"hand-{port}"), FEATUREFLOW_INGEST_METRICS_PORT=str(port), **own
        )
        for port, own in zip(ports, ({"FEATUREFLOW_TEST_STOP": str(stop)}, {}), strict=True)
    )
    until(lambda: '"claimed"' in zombie.err() and '"claimed"' in successor.err(), "two members")
    until(lambda: sum(metric(metrics(port), "featureflow_ingest_partitions") for port in ports) == 6, "every partition held once")
    produce(world, 200)
    until(world.folded, "the work of two")
    stop.touch()
    produce(world, 200)
    until(lambda: zombie.state() == "T", "the stop")
    before = metric(metrics(ports[1]), "featureflow_ingest_commits_total", outcome="committed")
    until(world.folded, "the successor, once the session has timed out")
    assert zombie.state() == "T"
    assert metric(metrics(ports[1]), "featureflow_ingest_commits_total", outcome="committed") > before
    assert metric(metrics(ports[1]), "featureflow_ingest_partitions") == 6
    zombie.signal(signal.SIGCONT)
    until(lambda: metric(metrics(ports[0]), "featureflow_ingest_commits_total", outcome="fenced") >= 1, "the refusal")
    assert '"fenced: ' in zombie.err()
    produce(world, 200)
    until(world.folded, "the work of two again")
    assert metric(metrics(ports[1]), "featureflow_ingest_commits_total", outcome="fenced") == 0
    assert (zombie.told_to_end(), successor.told_to_end()) == (0, 0)
    records = world.records()
    assert len(records) == 2 * 600
    assert check_state(world, records, [max(record.time_us for record in records) + SECOND_US]) > 100
