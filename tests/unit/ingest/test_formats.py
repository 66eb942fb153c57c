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
from structlog.testing import capture_logs
from worker_rig import KEYS, PROJECT, RIDER, RIDERS, TRIP, Rig

from featureflow.define import system
from featureflow.define.spec import Project
from featureflow.define.version import with_version
from featureflow.errors import UnavailableError
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.history_writer import HistoryWriter
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.store.history.sql import SqlHistory
from featureflow.store.log.protocol import Record
from featureflow.store.mirror import partitions_document
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
    assert any("log.schema_registry_url" in partition.problem for partition in working.status().partitions)
    assert other.letters() == []
    assert all(value is None for value in states(other))
    registry.away = False
    other.drain(working)
    mine = plain.worker()
    mine.open()
    plain.drain(mine)
    assert states(plain) == states(other)


class Mixed(Rig):
    """The trips in JSON, and beside them rides in Avro."""

    def __init__(self) -> None:
        super().__init__()
        rides = msgspec.structs.replace(TRIP, name="ride", topic="rides", format="avro")
        changed = msgspec.structs.replace(
            RIDER, name="rider_rides", keys={"ride": "rider"},
            aggregations=tuple(msgspec.structs.replace(one, source="ride") for one in RIDER.aggregations),
        )  # fmt: skip
        self.rides, view = rides, with_version(changed, {"ride": rides})
        self.mixed = msgspec.structs.replace(PROJECT, sources=(TRIP, rides), views=(*PROJECT.views, view))
        self.log.ensure_topic(rides.topic, self.partitions)
        self.online.put_meta(partitions_document(rides.name), str(self.partitions).encode())
        topic_id = self.log.topic(rides.topic).topic_id
        self.online.create_offsets(view.id, rides.name, topic_id, dict.fromkeys(range(self.partitions), 0))

    def ride(self, schema: int) -> None:
        trip = self.trip()
        self.log.append("rides", [Record(avro_record(schema, SCHEMA, json.loads(trip.value)), key=trip.key, partition=trip.partition)])

    def turn(self, working: Worker) -> None:
        working.step(timeout_s=0.0, wait=lambda seconds: None)
        self.clock.advance(100_000)


def offsets(working: Worker, source: str) -> dict[int, int]:
    return {one.partition: one.offset for one in working.status().partitions if one.source == source}


def test_a_registry_that_is_away_holds_up_what_needs_it_and_nothing_else(registry: MemorySchemaRegistry) -> None:
    rig = Mixed()
    working = Worker(rig.log, rig.online, rig.mixed, rig.clock, WorkerMetrics(CollectorRegistry()), schemas=registry)
    working.open()
    rig.turn(working)
    rig.turn(working)
    known = json.dumps({**SCHEMA, "doc": "a newer one"})
    newer = registry.register("trips-value", Schema("AVRO", known))
    for _ in range(20):
        rig.ride(1)
    rig.turn(working)
    rig.turn(working)
    folded = offsets(working, "ride")
    assert folded == rig.log.topic("rides").end
    registry.away, asked = True, registry.asked
    with capture_logs() as said:
        for _ in range(600):                                   # a minute
            rig.produce(1)
            rig.ride(newer)
            rig.turn(working)
            rig.turn(working)
            assert offsets(working, "trip") == rig.log.topic("trips").end
    assert offsets(working, "ride") == folded
    assert 3 <= registry.asked - asked <= 12                   # after 1, 2, 4, 8, 16, 30 and 30 seconds
    assert [line["event"] for line in said if line["event"] != "held_up"] == []
    assert len(said) <= 2
    assert not working.status().ready
    registry.away = False
    for _ in range(350):
        rig.turn(working)
    assert offsets(working, "ride") == rig.log.topic("rides").end
    assert working.status().ready
    assert rig.agrees()


def test_an_older_schema_that_cannot_be_had_holds_up_the_past_and_not_the_present(registry: MemorySchemaRegistry) -> None:
    """A view that was added catches up with records of a schema that is not known here yet."""
    rig = Mixed()
    newer = registry.register("trips-value", Schema("AVRO", json.dumps({**SCHEMA, "doc": "a newer one"})))
    (rides,) = [view for view in rig.mixed.views if "ride" in view.keys]
    for _ in range(20):
        rig.ride(1)
    first = Worker(rig.log, rig.online, rig.mixed, rig.clock, WorkerMetrics(CollectorRegistry()), schemas=registry)
    first.open()
    for _ in range(5):
        rig.turn(first)
    first.close()
    added = with_version(msgspec.structs.replace(rides, name="added"), {"ride": rig.rides})
    both = msgspec.structs.replace(rig.mixed, views=(*rig.mixed.views, added))
    topic_id = rig.log.topic("rides").topic_id
    rig.online.create_offsets(added.id, "ride", topic_id, dict.fromkeys(range(rig.partitions), 0))

    class Halved(MemorySchemaRegistry):
        def schema(self, number: int) -> Schema | None:
            if number == 1:
                self.asked += 1
                raise UnavailableError("the schema registry answers with 500; see log.schema_registry_url")
            return registry.schema(number)

    halved = Halved()
    working = Worker(rig.log, rig.online, both, rig.clock, WorkerMetrics(CollectorRegistry()), schemas=halved)
    working.open()
    for _ in range(4):
        rig.turn(working)
    for _ in range(100):
        rig.ride(newer)
        rig.clock.advance(1_000_000)
        rig.turn(working)
        rig.turn(working)
        problems = working.status().problems
        assert any("answers with 500" in problem for problem in problems)
    records = rig.online.offsets("ride", 0, [rides.id, added.id])
    assert records[rides.id].offset > records[added.id].offset


@pytest.fixture
def history(tmp_path: Any) -> Iterator[SqlHistory]:
    store = SqlHistory(f"sqlite:///{tmp_path / 'history.db'}")
    store.migrate()
    yield store
    store.close()


def test_the_history_of_what_needs_no_registry_goes_on_while_it_is_away(
    registry: MemorySchemaRegistry, history: SqlHistory
) -> None:
    rig = Mixed()
    for one in (*rig.mixed.sources, *system.system_sources(rig.mixed.name)):
        history.ensure_source(one)
        rig.log.ensure_topic(one.topic, 1)
    writer = HistoryWriter(rig.log, history, rig.mixed, rig.clock, HistoryMetrics(CollectorRegistry()), schemas=registry)
    writer.open()
    registry.away = True
    for _ in range(300):                                       # half a minute
        rig.produce(1)
        rig.ride(1)
        writer.step(timeout_s=0.0)
        writer.step(timeout_s=0.0)
        rig.clock.advance(100_000)
    writer.step(timeout_s=0.0)
    assert history.offsets("trip") == rig.log.topic("trips").end
    assert set(history.offsets("ride").values()) == {0}
    assert 3 <= registry.asked <= 12
    assert not writer.status().ready
    assert "log.schema_registry_url" in writer.status().error
    registry.away = False
    rig.clock.advance(30_000_000)
    for _ in range(5):
        writer.step(timeout_s=0.0)
    assert history.offsets("ride") == rig.log.topic("rides").end
    assert writer.status().ready


def test_history_holds_the_same_events_and_waits_too(registry: MemorySchemaRegistry, history: SqlHistory) -> None:
    _, rig = rigs()
    (source,) = rig.project.sources
    for one in (source, *system.system_sources(rig.project.name)):
        history.ensure_source(one)
        rig.log.ensure_topic(one.topic, rig.partitions if one is source else 1)
    writer = HistoryWriter(rig.log, history, rig.project, rig.clock, HistoryMetrics(CollectorRegistry()), schemas=registry)
    writer.open()
    registry.away = True
    writer.step(timeout_s=0.0)                              # the assignment
    assert writer.step(timeout_s=0.0) == 0
    assert "log.schema_registry_url" in writer.status().error
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
