"""An event's definition changes twice under its stream: online, recomputed from history, and the oracle agree each time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from registry_server import avro_record
from replay import recompute

import oracle
from featureflow.clock import ManualClock
from featureflow.define.spec import (
    Aggregation,
    Call,
    Column,
    Entity,
    Field,
    Format,
    Literal,
    Project,
    Source,
    View,
    Window,
)
from featureflow.define.version import with_version
from featureflow.errors import HistoryError, OffsetConflictError, UnavailableError
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.history_writer import HistoryWriter
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.kernel import state
from featureflow.kernel.decode import Decoder
from featureflow.kernel.events import Events
from featureflow.kernel.finalize import ViewKernel
from featureflow.store.history.sql import SqlHistory
from featureflow.store.keys import Keys
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Record
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.registry import Registry
from featureflow.store.schemas.memory import MemorySchemaRegistry
from featureflow.store.schemas.open import records_of
from featureflow.store.schemas.protocol import Schema
from featureflow.train.dataset import dataset
from featureflow.train.recall import Question, recall

SECOND_US, START_US = 1_000_000, 1_700_000_000_000_000
HOUR = Window(kind="sliding", length_us=3_600 * SECOND_US, text="1h")
USERS = ("u0", "u1", "u2")
AT, USER = Field(name="at", type="datetime"), Field(name="user", type="str", entity="user", max_bytes=256)
NOTE = Field(name="note", type="str")
FIRST = (AT, USER, Field(name="amount", type="int"), NOTE)
SECOND = (AT, USER, Field(name="amount", type="float", nullable=True), NOTE, Field(name="tag", type="str", nullable=True))
CHANNEL = Field(name="channel", type="str", categories=("app", "web"), nullable=True)
TAG = SECOND[-1]
THIRD = (AT, USER, Field(name="amount", type="float", nullable=True), CHANNEL)
AVRO: dict[str, Any] = {
    "type": "record", "name": "Pay", "fields": [
        {"name": "at", "type": "long"}, {"name": "user", "type": "string"}, {"name": "amount", "type": ["null", "long", "double"]},
        *({"name": name, "type": ["null", "string"]} for name in ("note", "tag", "channel")),
    ],
}  # fmt: skip


def project_of(fields: tuple[Field, ...], format: Format) -> Project:
    source = Source(
        name="pay", topic="pays", time_field="at", disorder_us=60 * SECOND_US, future_us=60 * SECOND_US, fields=fields, format=format
    )

    def of(op: str, value: str | None) -> Aggregation:
        return Aggregation(name=op, op=op, source="pay", value=value and Column(value), where=None, windows=(HOUR,))  # type: ignore[arg-type]

    spending = View(
        name="spending", entity="user", join_key="user", keys={"pay": "user"},
        aggregations=(of("count", None), of("sum", "amount"), of("max", "amount")),
    )  # fmt: skip
    visits = View(name="visits", entity="user", join_key="user", keys={"pay": "user"}, aggregations=(of("count", None),))
    def counted(name: str, where: Call) -> View:
        counts = replace(of("count", None), where=where)
        return View(name=name, entity="user", join_key="user", keys={"pay": "user"}, aggregations=(counts,))

    declared = {field.name for field in fields}
    tagged = counted("tagged", Call("eq", (Column("tag"), Literal(value="t"))))
    nowhere = counted("nowhere", Call("is_null", (Column("channel"),)))
    of_fields = [view for view, name in ((tagged, "tag"), (nowhere, "channel")) if name in declared]
    views = tuple(with_version(view, {"pay": source}) for view in (spending, visits, *of_fields))
    return Project(entities=(Entity(name="user", type="str"),), sources=(source,), views=views)


class World:
    def __init__(self, url: str, format: Format) -> None:
        self.format: Format = format
        self.clock = ManualClock(START_US)
        self.log, self.online, self.history = MemoryLog(self.clock), MemoryOnlineStore(self.clock), SqlHistory(url)
        self.registry = Registry(self.history, self.online, self.log, clock=self.clock)
        self.schemas = MemorySchemaRegistry()
        self.schemas.register("pays-value", Schema("AVRO", json.dumps(AVRO)))
        self.project: Project

    def apply(self, fields: tuple[Field, ...]) -> None:
        self.project = project_of(fields, self.format)
        self.registry.apply(self.project, partitions=2)

    def produce(self, *values: dict[str, Any]) -> None:
        for i, change in enumerate(values):
            self.clock.advance(SECOND_US)
            value = {"at": self.clock.now_us(), "user": USERS[i % 3], "amount": i, "note": "n", "tag": None, "channel": None, **change}
            data = json.dumps({name: one for name, one in value.items() if one is not None or name == "amount"}).encode()
            self.log.append("pays", [Record(avro_record(1, AVRO, value) if self.format == "avro" else data, partition=i % 2)])

    def drain(self) -> None:
        """Both consumers, with the definitions of now."""
        metrics = WorkerMetrics(CollectorRegistry())
        worker = Worker(self.log, self.online, self.project, self.clock, metrics, schemas=self.schemas, history=self.history)
        writer = HistoryWriter(self.log, self.history, self.project, self.clock, HistoryMetrics(CollectorRegistry()), schemas=self.schemas)
        worker.open()
        writer.open()
        for _ in range(40):
            worker.step(timeout_s=0.0, wait=lambda seconds: None)
            writer.step(timeout_s=0.0)
            self.clock.advance(100_000)
        end = self.log.topic("pays").end
        assert {p.partition: p.offset for p in worker.status().partitions} == end
        assert self.history.offsets("pay") == end
        worker.close()
        writer.close()

    def online_values(self, view: View) -> np.ndarray[Any, Any]:
        kernel = ViewKernel(view, {"pay": self.project.sources[0]})
        keys = Keys("default")
        blobs = [self.online.read([keys.state("user", user, view.id, "pay", p) for p in (0, 1)]) for user in USERS]
        return kernel.finalize({"pay": state.parse(kernel.layouts["pay"], blobs)}, self._q()).values

    def recomputed(self, view: View) -> np.ndarray[Any, Any]:
        (source,) = self.project.sources
        names = [field.name for field in source.fields]
        parts = [[page.events for page in self.history.scan(source, partition=p, columns=names, by=(source,))] for p in (0, 1)]
        events, applied = {"pay": [one for (one,) in parts]}, {"pay": {0: 10**9, 1: 10**9}}
        return recompute(ViewKernel(view, {"pay": source}), {"pay": source}, events, USERS, self._q(), applied).values

    def logged(self) -> list[Events]:
        """The log's events, by the definitions of now."""
        (source,) = self.project.sources
        decoder = Decoder(source, records=records_of(source, self.schemas, self.clock))
        consumer, found = self.log.consumer(f"r{self.clock.now_us()}", {"pay": "pays"}), []
        polled = consumer.poll(timeout_s=0, max_records=10**6, max_bytes=2**30)
        for place in polled.assignment.assigned:
            consumer.seek(place, 0)
        for batch in consumer.poll(timeout_s=0, max_records=10**6, max_bytes=2**30).batches:
            stamps = batch.timestamps_us
            found.append(decoder.decode(batch.values, partition=batch.partition, offsets=batch.offsets, timestamps_us=stamps).events)
        consumer.close()
        return found

    def oracle_values(self, view: View) -> np.ndarray[Any, Any]:
        records = []
        for events in self.logged():
            times = events.offsets.tolist(), events.times_us.tolist(), events.timestamps_us.tolist()
            for i, (offset, at, stamp) in enumerate(zip(*times, strict=True)):
                fields = {name: column[i] for name, column in events.columns.items()}
                fields = {name: None if isinstance(one, float) and math.isnan(one) else one for name, one in fields.items()}
                records.append(oracle.Record("pay", events.partition, offset, at, stamp, fields))
        q = int(self._q()[0])
        rows = [oracle.answers(view, {"pay": self.project.sources[0]}, records, user, q) for user in USERS]
        return np.array([[answer.values[0] for answer in row] for row in rows])

    def _q(self) -> np.ndarray[Any, Any]:
        return np.full(len(USERS), self.clock.now_us() // SECOND_US * SECOND_US, np.int64)

    def check(self, *names: str) -> None:
        for name in names or ("spending", "visits"):
            view = self.project.view(name)
            online = self.online_values(view)
            assert online.tobytes() == self.recomputed(view).tobytes(), name
            assert online.tobytes() == self.oracle_values(view).tobytes(), name

    def stored(self, source: Source, name: str) -> list[Any]:
        """That column of history's events of the source as it is defined here."""
        pages = [page for p in (0, 1) for page in self.history.scan(source, partition=p, columns=[name], by=(source,))]
        return [value for page in pages for value in page.events.columns[name].tolist()]

    def rebuild(self, name: str) -> None:
        view = self.project.view(name)
        self.online.drop_view(view.id, for_good=False)
        self.online.create_offsets(view.id, "pay", self.log.topic("pays").topic_id, {0: 0, 1: 0})


@pytest.fixture(params=["json", "avro"])
def world(request: pytest.FixtureRequest, history_url: str) -> Iterator[World]:
    made = World(history_url, request.param)
    yield made
    made.history.close()


def test_a_definition_that_changes_twice_means_the_same_online_and_in_history(world: World) -> None:
    world.apply(FIRST)
    world.produce(*[{}] * 20, {"amount": 1.5}, {"amount": None}, {"note": None}, {"amount": 2.25, "note": None}, {"user": ""})
    world.drain()
    world.check()
    first = world.online_values(world.project.view("spending"))
    # an int is any number now, and may be null; there is a tag
    world.produce({"amount": 3.5, "tag": "t"}, {"amount": None})                       # written before, read after
    world.apply(SECOND)
    world.produce(*[{"amount": 0.1, "tag": "t"}] * 9, {"tag": None, "amount": None}, {"note": None})
    world.drain()
    world.check("spending")
    assert (world.online_values(world.project.view("spending"))[:, 1] > first[:, 1]).all()
    # the note is gone, and a channel is there
    world.apply(THIRD)
    world.produce(*[{"channel": "app"}] * 9, {"channel": "fax"}, {"channel": None}, {"note": None, "channel": "web"})
    world.drain()
    # what spending reads is what it was: it keeps its state, of which records without a note are no part until it is rebuilt
    world.rebuild("spending")
    world.rebuild("visits")
    world.drain()
    world.check()


def test_what_was_refused_by_one_definition_is_read_again_by_the_next_and_once(world: World) -> None:
    world.apply(FIRST)
    world.produce({"amount": 1.5}, {"amount": None}, {"user": ""}, {})
    world.drain()
    (source,) = world.project.sources
    assert len(world.stored(source, "user")) == 1
    assert [len(world.history.refused(source, p, 100)) for p in (0, 1)] == [0, 0]      # by this definition they were looked at
    world.apply(SECOND)
    (source,) = world.project.sources
    assert sum(len(world.history.refused(source, p, 100)) for p in (0, 1)) == 3
    world.drain()
    assert len(world.stored(source, "amount")) == 3
    assert [len(world.history.refused(source, p, 100)) for p in (0, 1)] == [0, 0]
    world.drain()
    assert len(world.stored(source, "amount")) == 3
    before = project_of(FIRST, world.format).sources[0]
    assert world.stored(before, "amount") == [3.0]            # an audit of what was served by that definition: they were none
    with pytest.raises(HistoryError, match="give the field a new name"):                 # 3.0 in history may have been written 3 or 3.0
        world.apply(FIRST)


def test_a_whole_number_that_becomes_any_number_is_widened_and_not_back(world: World) -> None:
    world.apply(FIRST)
    world.produce(*[{"amount": value} for value in (2**53, -(2**53), 0, 7)])
    world.drain()
    world.apply(SECOND)
    world.produce({"amount": 0.1}, {"amount": 5e-324}, {"amount": 9.2e18})
    world.drain()
    world.check("spending")
    (source,) = world.project.sources
    assert sorted(world.stored(source, "amount")) == sorted([2.0**53, -(2.0**53), 0.0, 7.0, 0.1, 5e-324, 9.2e18])
    with pytest.raises(HistoryError, match="give the field a new name"):
        world.apply((AT, USER, Field(name="amount", type="str"), NOTE))


def test_two_writers_do_not_settle_one_record_twice(world: World) -> None:
    world.apply(FIRST)
    world.produce({"amount": 1.5}, {})
    world.drain()
    world.apply(SECOND)
    (source,) = world.project.sources
    (record,) = world.history.refused(source, 0, 10)
    decoder = Decoder(source, records=records_of(source, world.schemas, world.clock))
    stamps = np.array([record.timestamp_us])
    events = decoder.decode([record.value], offsets=np.array([record.offset]), timestamps_us=stamps).events
    world.history.settle(source, 0, [events], [])
    with pytest.raises(OffsetConflictError, match="another"):
        world.history.settle(source, 0, [events], [])
    with pytest.raises(OffsetConflictError, match="another"):
        world.history.settle(source, 0, [], [record.offset])
    world.drain()
    world.check("spending")


def test_a_field_that_records_had_before_it_was_declared_is_filled_in(world: World) -> None:
    world.apply(FIRST)
    world.produce(*[{"tag": "t"}] * 9, {}, {"tag": "u"})
    world.drain()
    world.apply((*FIRST, TAG))
    (source,) = world.project.sources
    with pytest.raises(UnavailableError, match="yet to fill in tag from offset 0 on"):
        world.stored(source, "tag")
    assert len(world.stored(project_of(FIRST, world.format).sources[0], "amount")) == 11
    world.produce(*[{"tag": "t"}] * 3, {})
    world.drain()
    world.check("tagged")
    assert world.online_values(world.project.view("tagged")).sum() == 12
    assert world.history.unfilled("pay") == {}


def test_a_field_that_was_dropped_and_is_declared_again_lacks_nothing(world: World) -> None:
    world.apply(FIRST)
    world.produce(*[{"note": f"n{i}"} for i in range(4)])
    world.drain()
    world.apply(FIRST[:-1])
    world.produce(*[{"note": f"m{i}"} for i in range(4)], {"note": None})
    world.drain()
    world.apply(FIRST)
    world.drain()
    (source,) = world.project.sources
    assert sorted(world.stored(source, "note")) == [f"m{i}" for i in range(4)] + [f"n{i}" for i in range(4)]
    assert len(world.stored(project_of(FIRST[:-1], world.format).sources[0], "user")) == 9       # an audit of what was served without it


def test_a_row_whose_record_is_no_event_by_a_new_field_is_one_for_whom_it_was(world: World) -> None:
    world.apply(FIRST)
    world.produce({"channel": "fax"}, {"channel": "web"}, {}, {"channel": "fax"}, {})
    world.drain()
    before = project_of(FIRST, world.format).sources[0]
    visits, ends = world.project.view("visits"), {"pay": world.history.offsets("pay")}
    asked = [Question(user, int(world._q()[0]), ends, "it was served") for user in USERS]
    world.apply((*FIRST, CHANNEL))
    world.drain()
    world.check("nowhere")
    assert len(world.stored(world.project.sources[0], "user")) == 3
    assert len(world.stored(before, "user")) == 5
    world.apply((*FIRST, CHANNEL, TAG))
    world.drain()
    world.check("nowhere", "tagged")
    assert recall(world.history, world.project, visits, asked).values.sum() == 5
    world.apply((*FIRST, replace(CHANNEL, categories=("app", "fax", "web"))))
    world.drain()
    world.check("nowhere")
    assert sorted(map(str, world.stored(world.project.sources[0], "channel"))) == ["None", "None", "fax", "fax", "web"]
    assert len(world.stored(before, "note")) == 5
    assert recall(world.history, world.project, visits, asked).values.tobytes() == world.online_values(visits).tobytes()


def test_what_the_log_has_deleted_lacks_the_field_in_history_as_in_the_state(world: World) -> None:
    world.apply(FIRST)
    world.produce(*[{"tag": "t"}] * 10)
    world.drain()
    for partition in (0, 1):
        world.log.delete_before("pays", partition, 2)
    world.apply((*FIRST, TAG))
    world.produce(*[{"tag": "t"}] * 2)
    world.drain()
    view = world.project.view("tagged")
    assert world.online_values(view).tobytes() == world.recomputed(view).tobytes()
    assert world.online_values(view).sum() == 8
    assert world.history.unfilled("pay") == {}


def test_two_writers_do_not_fill_the_same_rows(world: World) -> None:
    world.apply(FIRST)
    world.produce({"tag": "t"}, {}, {"tag": "t"})
    world.drain()
    world.apply((*FIRST, TAG))
    (source,) = world.project.sources
    was = world.history.unfilled("pay")[0]
    events = world.logged()[0]
    world.history.fill(source, 0, events, [], was, 1)
    with pytest.raises(OffsetConflictError, match="another"):
        world.history.fill(source, 0, events, [], was, None)
    assert world.history.unfilled("pay")[0].first == 1


def test_nobody_reads_history_that_has_yet_to_read_records_again(world: World) -> None:
    world.apply(FIRST)
    world.produce({}, {}, {"amount": None})
    world.drain()
    world.apply(SECOND)
    view = world.project.view("spending")
    asked = Question("u2", int(world._q()[0]), {"pay": {0: 2}}, "it was served")
    for read in (
        lambda: recall(world.history, world.project, view, [asked]),
        lambda: dataset(world.history, world.project, [{"user": "u2", "at": START_US}], features=["spending:sum_1h"], delay="1s"),
    ):
        with pytest.raises(UnavailableError, match="yet to"):
            read()
    world.drain()
    found = recall(world.history, world.project, view, [asked]).values
    assert found[0, 0] == 1.0


def test_a_field_that_is_required_since_or_lost_a_category_decides_for_views_that_do_not_read_it(world: World) -> None:
    world.apply((*FIRST[:3], replace(NOTE, nullable=True, categories=("n", "x"))))
    world.produce(*[{}] * 5, *[{"note": None}] * 4, *[{"note": "x"}] * 2)
    world.drain()
    before = world.online_values(world.project.view("visits"))
    # a note is required and may be no x, and amount is any number: spending, which reads that, is folded anew and leaves 6 out
    amount = Field(name="amount", type="float")
    world.apply((AT, USER, amount, replace(NOTE, categories=("n",))))
    world.produce({})
    world.drain()
    spending, visits = (world.project.view(name) for name in ("spending", "visits"))
    online = world.online_values(spending)
    assert online.tobytes() == world.oracle_values(spending).tobytes()
    q_us, ends = int(world._q()[0]), {"pay": world.history.offsets("pay")}
    question = [Question(user, q_us, ends, "it was served") for user in USERS]
    assert recall(world.history, world.project, spending, question).values.tobytes() == online.tobytes()
    rows = [{"user": user, "at": q_us} for user in USERS]
    names = [feature.reference for view in (spending, visits) for feature in view.features]
    made = dataset(world.history, world.project, rows, features=names, delay="0s")
    assert made.features["spending:count_1h"].sum() == online[:, 0].sum() == 6
    # visits, which reads neither, keeps what it has counted
    kept = world.online_values(visits)
    assert kept.sum() == before.sum() + 1 == made.features["visits:count_1h"].sum() == 12
    assert recall(world.history, world.project, visits, question).values.tobytes() == kept.tobytes()
    for partition in (0, 1):               # and from history alone it is the same
        world.log.delete_before("pays", partition, 4)
    world.rebuild("spending")
    world.drain()
    assert world.online_values(spending).tobytes() == online.tobytes()


def test_a_row_that_is_filled_in_stays_whatever_other_fields_are_declared_as_by_then(world: World) -> None:
    world.apply((*FIRST[:3], replace(NOTE, nullable=True)))
    world.produce({"tag": "t"}, {"tag": "t", "note": None}, {"note": None}, {})
    world.drain()
    before = world.project
    world.apply((*FIRST, TAG))
    world.drain()
    world.check("tagged")
    visits, ends = before.view("visits"), {"pay": world.history.offsets("pay")}
    asked = [Question(user, int(world._q()[0]), ends, "it was served") for user in USERS]
    assert recall(world.history, world.project, visits, asked).values.sum() == 4
