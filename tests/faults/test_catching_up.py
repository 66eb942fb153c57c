"""On real servers: a view that folds the log's past beside views that are fresh, and events in a partition that is not theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from worker_rig import RIDERS, SECOND_US, Rig, project_on

from featureflow import limits
from featureflow.clock import SystemClock
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.store.log.protocol import Log
from featureflow.store.online.protocol import OffsetRecord
from featureflow.store.online.redis import RedisOnlineStore

PATIENCE_S = 90.0


@pytest.fixture
def rig(log: Log, production_redis_url: str, topic_name: Callable[[str], str]) -> Iterator[Rig]:
    with closing(RedisOnlineStore(production_redis_url)) as online:
        yield Rig(2, project=project_on(topic_name("trips")), log=log, online=online, seed=5)


def working(rig: Rig, registry: CollectorRegistry | None = None) -> Worker:
    metrics = WorkerMetrics(registry or CollectorRegistry())
    worker = Worker(rig.log, rig.online, rig.project, SystemClock(), metrics, group=f"ingest-{rig.source.topic}")
    worker.open()
    return worker


def step_until(worker: Worker, is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not come in {PATIENCE_S} s: {worker.status()}"
        worker.step(timeout_s=0.05)


def records(rig: Rig, view: int) -> list[OffsetRecord]:
    view_id = rig.project.views[view].id
    found = [rig.online.offsets("trip", partition, [view_id])[view_id] for partition in range(rig.partitions)]
    return [stored for stored in found if stored is not None]


def folded(rig: Rig, view: int) -> bool:
    end = rig.log.topic(rig.source.topic).end
    return [stored.offset for stored in records(rig, view)] == [end[partition] for partition in range(rig.partitions)]


def complete(rig: Rig, view: int) -> bool:
    """Whether its state is known to count all that the log held a few seconds ago."""
    now_ms = rig.online.now_ms()
    return all(now_ms - stored.complete_ms < 5_000 for stored in records(rig, view))


def test_a_view_that_is_rebuilt_catches_up_while_the_other_stays_fresh(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = working(rig)
    rig.clock.at_us = SystemClock().now_us()
    for _ in range(20):
        rig.produce(200)
    step_until(worker, lambda: folded(rig, 0) and folded(rig, 1) and complete(rig, 1), "the first folding")
    zone = rig.project.views[1]
    rig.online.drop_view(zone.id, for_good=False)
    while worker.status().ready:                                  # a drop takes long where there are many keys
        worker.step(timeout_s=0.05)
    for _ in range(10):
        worker.step(timeout_s=0.05)
    assert any("is being rebuilt" in problem for problem in worker.status().problems)
    rig.online.create_offsets(zone.id, "trip", rig.log.topic(rig.source.topic).topic_id, {0: 0, 1: 0})
    assert not complete(rig, 1)
    monkeypatch.setattr(limits, "PAST_RECORDS", 1)                # however slow a round is, the past is not all read in a few
    rounds, held = 0, list[tuple[int, dict[int, int]]]()          # at an instant of the store, the log held this much or more
    while not folded(rig, 1):
        rig.produce(3)
        end = rig.log.topic(rig.source.topic).end
        held.append((rig.online.now_ms(), end))
        step_until(
            worker, lambda end=end: all(s.offset >= end[p] for p, s in enumerate(records(rig, 0))), "the fresh view"  # type: ignore[misc]  # bound now
        )
        rounds += not folded(rig, 1)
        if rounds > 5:
            monkeypatch.setattr(limits, "PAST_RECORDS", 1_000)
        for partition, stored in enumerate(records(rig, 1)):
            assert all(stored.offset >= end[partition] for at_ms, end in held if stored.complete_ms >= at_ms), "it says more than is so"
    assert rounds > 5, "the view came as far as the others at once, so nothing was shown"
    step_until(worker, lambda: complete(rig, 0) and complete(rig, 1), "that they are complete")
    worker.close()
    assert rig.agrees()


def test_events_of_a_producer_with_another_partitioner_are_put_aside_and_the_partition_goes_on(rig: Rig) -> None:
    registry = CollectorRegistry()
    worker = working(rig, registry)
    rig.clock.at_us = SystemClock().now_us()
    home = sum(b"ada") % 2
    at_us = rig.clock.now_us() - 5 * SECOND_US
    rig.append([rig.trip(rider="ada", at=at_us, zone=None)])
    step_until(worker, lambda: folded(rig, 0), "the entity's first event")
    stray = msgspec.structs.replace(rig.trip(rider="ada", at=at_us, zone=None), partition=1 - home)
    rig.append([stray, rig.trip(rider="ada", at=at_us, zone=None), stray])
    step_until(worker, lambda: folded(rig, 0) and folded(rig, 1), "the end of both partitions")
    assert worker.status().ready
    worker.close()
    labels = {"source": "trip", "reason": "wrong_partition"}
    assert registry.get_sample_value("featureflow_ingest_dead_letters_total", labels) == 2
    view = rig.project.views[0]
    wanted = {f"trip/{1 - home}/{offset}/{view.id}" for offset in (0, 1)}
    mine = {letter["position"] for letter in rig.letters() if letter["reason"] == "wrong_partition"}
    assert wanted <= mine
    values = rig.actual(view, rig.clock.now_us()).values
    assert values[RIDERS.index("ada")][0] == 2
