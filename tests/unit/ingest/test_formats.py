"""The worker and the history writer read Avro as they read JSON, and wait for a schema registry that is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from registry_server import avro_record
from worker_rig import KEYS, PROJECT, RIDERS, Rig

from featureflow.define.spec import Project, with_version
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.history_writer import HistoryWriter
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.store.history.sql import SqlHistory
from featureflow.store.log.protocol import Record
from featureflow.store.schemas.memory import MemorySchemaRegistry
from featureflow.store.schemas.protocol import Schema

SCHEMA: dict[str, Any] = {
    "type": "record", "name": "Trip", "fields": [
        {"name": "at", "type": "long"}, {"name": "rider", "type": "string"}, {"name": "zone", "type": ["null", "int"]},
        {"name": "fare", "type": ["null", "double"]},
    ],
}  # fmt: skip


def avro_project() -> Project:
    sources = tuple(msgspec.structs.replace(source, format="avro") for source in PROJECT.sources)
    return msgspec.structs.replace(PROJECT, sources=sources)


def test_the_format_is_no_part_of_a_views_meaning() -> None:
    project = avro_project()
    assert [with_version(view, {s.name: s for s in project.sources}) for view in project.views] == list(PROJECT.views)


@pytest.fixture
def registry() -> MemorySchemaRegistry:
    found = MemorySchemaRegistry()
    found.register("trips-value", Schema("AVRO", json.dumps(SCHEMA)))
    return found


def worker(rig: Rig, registry: MemorySchemaRegistry) -> Worker:
    return Worker(rig.log, rig.online, rig.project, rig.clock, WorkerMetrics(CollectorRegistry()), commit_rows=8, schemas=registry)


def rigs() -> tuple[Rig, Rig]:
    """The same trips, among bad ones, in JSON and in Avro."""
    plain, other = Rig(), Rig(project=avro_project())
    for i in range(400):
        trip = plain.trip() if i % 40 else plain.trip(rider="")
        plain.append([trip])
        other.clock.advance(plain.clock.now_us() - other.clock.now_us())
        other.log.append("trips", [Record(avro_record(1, SCHEMA, json.loads(trip.value or b"")), key=trip.key, partition=trip.partition)])
    return plain, other


def states(rig: Rig) -> list[bytes | None]:
    keys = [
        KEYS.state(view.entity, entity_id, view.id, "trip", partition)
        for view in rig.project.views
        for entity_id in (*RIDERS, 7, -3)
        for partition in (None, 0, 1)
    ]
    return rig.online.read(keys)


def test_the_same_events_make_the_same_state(registry: MemorySchemaRegistry) -> None:
    plain, other = rigs()
    for rig, working in ((plain, plain.worker()), (other, worker(other, registry))):
        working.open()
        rig.drain(working)
    assert states(plain) == states(other)
    assert sum(value is not None for value in states(other)) >= 8
    assert plain.agrees()
    assert [letter["reason"] for letter in plain.letters()] == [letter["reason"] for letter in other.letters()]
    assert {letter["reason"] for letter in other.letters()} >= {"bad_key", "late", "future"}
    assert registry.asked == 1


def test_a_registry_that_is_away_is_waited_for_and_nothing_is_put_aside(registry: MemorySchemaRegistry) -> None:
    plain, other = rigs()
    registry.away, working = True, worker(other, registry)
    working.open()
    for _ in range(60):
        working.step(timeout_s=0.0, wait=lambda seconds: None)
        other.clock.advance(300_000)
    assert not working.status().ready
    assert any("log.schema_registry_url" in problem for problem in working.status().problems)
    assert other.letters() == []
    assert all(value is None for value in states(other))
    registry.away = False
    other.drain(working)
    mine = plain.worker()
    mine.open()
    plain.drain(mine)
    assert states(plain) == states(other)


@pytest.fixture
def history(tmp_path: Any) -> Iterator[SqlHistory]:
    store = SqlHistory(f"sqlite:///{tmp_path / 'history.db'}")
    store.migrate()
    yield store
    store.close()


def test_history_holds_the_same_events_and_waits_too(registry: MemorySchemaRegistry, history: SqlHistory) -> None:
    from featureflow.define import system
    from featureflow.errors import UnavailableError

    _, rig = rigs()
    (source,) = rig.project.sources
    for one in (source, *system.system_sources(rig.project.name)):
        history.ensure_source(one)
        rig.log.ensure_topic(one.topic, rig.partitions if one is source else 1)
    writer = HistoryWriter(rig.log, history, rig.project, rig.clock, HistoryMetrics(CollectorRegistry()), schemas=registry)
    writer.open()
    registry.away = True
    writer.step(timeout_s=0.0)                              # the assignment
    with pytest.raises(UnavailableError, match=r"log\.schema_registry_url"):
        writer.step(timeout_s=0.0)
    registry.away = False
    for _ in range(40):
        writer.step(timeout_s=0.0)
        rig.clock.advance(1_000_000)
    end = rig.log.topic("trips").end
    assert history.offsets("trip") == end
    rows = sum(len(page.events) for p in end for page in history.scan(source, partition=p, columns=["rider", "fare"]))
    assert rows == 400 - 10
    fares = np.concatenate([page.events.columns["fare"] for p in end for page in history.scan(source, partition=p, columns=["fare"])])
    assert np.isnan(fares).any()
    assert len(np.unique(fares[~np.isnan(fares)])) > 20
