"""A worker that was stopped past its session time-out and wakes up writes nothing, and would if its token were not compared."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import redis
import watched
from ports import free_port
from worker_rig import START_US, Rig
from world import SECOND_US, World, check_state, metric, production, until

from featureflow.ingest.failpoint import Name
from featureflow.store.log.protocol import Record
from featureflow.store.online.redis import RedisOnlineStore, scripts
from servers import Services

SESSION_MS = 6_000                         # the least that a broker allows by default
TOKEN_CHECK = re.compile(r"  if sub\(record, 5, 36\) ~= token then\n.*\n  end\n")


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
        watched.start(
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


@pytest.mark.parametrize("guarded", [True, False])
def test_without_the_token_check_a_zombies_commit_lands_on_rows_in_another_order(guarded: bool, production_redis_url: str) -> None:
    """
        zombie     claims, folds 60 events in one batch, is stopped before its commit
        successor  claims, commits the same 60 in small batches: the same rows, in another order
        Redis      loses its last second: as it was after the successor's claim, its token included
        zombie     wakes up and commits: refused by the token, and by nothing else
        successor  goes on from where it was, patching rows where it believes them to be
    """
    lua = scripts()
    if not guarded:
        lua["commit"], removed = TOKEN_CHECK.subn("", lua["commit"])
        assert removed == 1
    with closing(RedisOnlineStore(production_redis_url, lua=lua)) as online, redis.Redis.from_url(production_redis_url) as client:
        rig = Rig(1, online=online, seed=7)
        rig.append(_trips(rig, (3, 1, 2, 0, 3) * 12, fare=1.0))
        successor, slept = rig.worker(commit_rows=2), threading.Event()

        def sleep(name: Name) -> None:
            if name != "after_fold" or slept.is_set():
                return
            slept.set()
            successor.open()
            while not any(status.offset >= 0 for status in successor.status().partitions):
                successor.step(timeout_s=0.0, wait=_no_wait)
            claimed = {key: client.dump(key) for key in client.scan_iter()}
            rig.drain(successor)
            client.flushdb()
            for key, value in claimed.items():
                client.restore(key, 0, value)

        zombie = rig.worker(commit_rows=1_000, failpoint=sleep)
        zombie.open()
        while not slept.is_set():
            zombie.step(timeout_s=0.0, wait=_no_wait)
        rig.append(_trips(rig, (0, 1, 2), fare=100.0))
        rig.drain(successor)
        assert rig.agrees() is guarded


def _trips(rig: Rig, seconds: Sequence[int], fare: float) -> list[Record]:
    return [rig.trip(rider="ada", zone=7, at=START_US + second * SECOND_US, fare=fare) for second in seconds]


def _no_wait(seconds: float) -> None:
    """Time is told."""
