"""Avro and Protobuf from outside producers over real Kafka, through both consumers, while the schemas of the records change under them.

What should be there is told by what the producers were given, and by where the broker says that it put it: nothing here reads a record.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import kafka
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from prometheus_client import CollectorRegistry
from registry_server import RegistryServer, avro_record, protobuf_record, running
from replay import recompute

import oracle
from featureflow.clock import SystemClock
from featureflow.define import system
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
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.history_writer import HistoryWriter
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.kernel import state
from featureflow.kernel.finalize import ViewKernel
from featureflow.store.history.sql import SqlHistory
from featureflow.store.keys import Keys
from featureflow.store.log.kafka import KafkaLog
from featureflow.store.online.redis import RedisOnlineStore
from featureflow.store.registry import Registry
from featureflow.store.schemas.registry import HttpSchemaRegistry
from servers import Services

SECOND_US = 1_000_000
PATIENCE_S = 150.0
HOUR = Window(kind="sliding", length_us=3_600 * SECOND_US, text="1h")
USERS = ("ada", "b:{0}", "é*\n")
PARTITIONS = 2
AT, USER = Field(name="at", type="datetime"), Field(name="user", type="str", entity="user", max_bytes=256)
NOTE, TAG = (Field(name=name, type="str", nullable=True) for name in ("note", "tag"))
EARLIER = (AT, USER, Field(name="amount", type="int"), NOTE)
LATER = (AT, USER, Field(name="amount", type="float"), NOTE, TAG)
T = FieldDescriptorProto

# the producers' schemas in their order: the type of amount, and the optional fields
SCHEMAS: dict[str, tuple[type, tuple[str, ...]]] = {
    "first": (int, ("note",)),
    "a new field, and a wider type": (float, ("note", "tag")),
    "a dropped field": (float, ("tag",)),
    "a type that is none of a number": (str, ("tag",)),
}


def avro_schema(amount: type, optional: Sequence[str]) -> dict[str, Any]:
    fields = [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "user", "type": "string"},
        {"name": "amount", "type": {int: "long", float: "double", str: "string"}[amount]},
        *({"name": name, "type": ["null", "string"], "default": None} for name in optional),
    ]
    return {"type": "record", "name": "Pay", "namespace": "shop", "fields": fields}


def protobuf_file(amount: type, optional: Sequence[str]) -> FileDescriptorProto:
    """A field keeps its number for good; another type is another field of the same name."""
    number, kind = {int: (3, T.TYPE_INT64), float: (6, T.TYPE_DOUBLE), str: (7, T.TYPE_STRING)}[amount]
    message = DescriptorProto(name="Pay")
    message.field.add(name="at", number=1, type=T.TYPE_INT64, label=T.LABEL_OPTIONAL)
    message.field.add(name="user", number=2, type=T.TYPE_STRING, label=T.LABEL_OPTIONAL)
    message.field.add(name="amount", number=number, type=kind, label=T.LABEL_OPTIONAL)
    for place, name in enumerate(optional):
        message.oneof_decl.add(name=f"_{name}")
        message.field.add(
            name=name, number={"note": 4, "tag": 5}[name], type=T.TYPE_STRING, label=T.LABEL_OPTIONAL, proto3_optional=True,
            oneof_index=place,
        )  # fmt: skip
    return FileDescriptorProto(name="pay.proto", package="shop", syntax="proto3", message_type=[message])


def project_of(name: str, topic: str, format: Format, fields: tuple[Field, ...]) -> Project:
    source = Source(
        name="pay", topic=topic, time_field="at", disorder_us=60 * SECOND_US, future_us=60 * SECOND_US, fields=fields, format=format
    )

    def of(op: str, name: str, field: str | None = None, text: str = "") -> Aggregation:
        where = Call("eq", (Column(field), Literal(text))) if field and text else None
        value = Column(field) if field and not text else None
        return Aggregation(name=name, op=op, source="pay", value=value, where=where, windows=(HOUR,))

    tags = (of("count", "tagged", "tag", "t"),) if TAG in fields else ()
    view = View(
        name="spending", entity="user", join_key="user", keys={"pay": "user"},
        aggregations=(
            of("count", "count"), of("sum", "sum", "amount"), of("max", "max", "amount"), of("count", "noted", "note", "n"), *tags,
        ),
    )  # fmt: skip
    return Project(
        name=name, entities=(Entity(name="user", type="str"),), sources=(source,), views=(with_version(view, {"pay": source}),)
    )


class Stream:
    """Producers of one topic, and what they were given: (partition, offset) -> the values, when the broker took it, by which schema."""

    def __init__(self, servers: str, topic: str, registry: RegistryServer, format: Format) -> None:
        self.topic, self._registry, self._format, self._luck = topic, registry, format, random.Random(5)
        self._producer = kafka.KafkaProducer(bootstrap_servers=servers)
        self.given: dict[tuple[int, int], tuple[dict[str, Any], int, str]] = {}
        self.broken: dict[tuple[int, int], str] = {}

    def close(self) -> None:
        self._producer.close()

    def write(self, schemas: Sequence[str], count: int) -> None:
        """So many records, each by one of these schemas: as while producers are brought up to date one by one."""
        luck, sent = self._luck, []
        for _ in range(count):
            by = luck.choice(schemas)
            kind, optional = SCHEMAS[by]
            amount: Any = luck.choice((0, 7, -3, 2**40)) if kind is int else luck.choice((0.1, -1e-9, 2.5e8, 1 / 3))
            value = {
                "at": time.time_ns() // 1000 - luck.randrange(20 * SECOND_US), "user": luck.choice(USERS),
                "amount": str(amount) if kind is str else amount, **{name: luck.choice((None, name[0], "")) for name in optional},
            }  # fmt: skip
            sent.append((value, by, self._send(self._record(by, value))))
        for value, by, future in sent:
            place = future.get(timeout=PATIENCE_S)
            self.given[place.partition, place.offset] = value, place.timestamp * 1000, by

    def write_broken(self) -> None:
        whole = self._record("first", {"at": 0, "user": "ada", "amount": 1, "note": None})
        for value, reason in ((b"{}", "undecodable"), (b"\0\0\0\x03\xe7" + whole[5:], "unknown_schema"), (whole[:-3], "undecodable")):
            place = self._send(value).get(timeout=PATIENCE_S)
            self.broken[place.partition, place.offset] = reason

    def _send(self, value: bytes) -> Any:
        return self._producer.send(self.topic, value, partition=self._luck.randrange(PARTITIONS))

    def _record(self, by: str, value: dict[str, Any]) -> bytes:
        kind, optional = SCHEMAS[by]
        if self._format == "avro":
            schema = avro_schema(kind, optional)
            return avro_record(self._registry.avro(f"{self.topic}-value", schema), schema, value)
        file, pool = protobuf_file(kind, optional), DescriptorPool()
        pool.Add(file)
        message = GetMessageClass(pool.FindMessageTypeByName("shop.Pay"))(**value)
        return protobuf_record(self._registry.protobuf(f"{self.topic}-value", file), message)


class Stack:
    """Both consumers on real servers, with a registry over HTTP."""

    def __init__(self, services: Services, redis_url: str, history_url: str, registry: RegistryServer, format: Format) -> None:
        self.name = f"formats-{uuid.uuid4().hex[:12]}"
        self.format: Format = format
        self._servers = services.kafka
        self.clock, self.schemas = SystemClock(), HttpSchemaRegistry(registry.url)
        self.log, self.history = KafkaLog(services.kafka), SqlHistory(history_url)
        self.online = RedisOnlineStore(redis_url, project=self.name)
        self.registry = Registry(self.history, self.online, self.log, clock=self.clock)
        self.project: Project

    def close(self) -> None:
        self.online.close()
        self.history.close()
        self.log.close()

    def apply(self, topic: str, fields: tuple[Field, ...]) -> None:
        self.project = project_of(self.name, topic, self.format, fields)
        self.registry.apply(self.project, partitions=PARTITIONS)

    def drain(self) -> None:
        worker = Worker(self.log, self.online, self.project, self.clock, WorkerMetrics(CollectorRegistry()), schemas=self.schemas)
        writer = HistoryWriter(self.log, self.history, self.project, self.clock, HistoryMetrics(CollectorRegistry()), schemas=self.schemas)
        end, given_up = self.log.topic(self.project.sources[0].topic).end, time.monotonic() + PATIENCE_S
        worker.open()
        writer.open()
        try:
            while {p.partition: p.offset for p in worker.status().partitions} != end or self.history.offsets("pay") != end:
                worker.step(timeout_s=0.02)
                writer.step(timeout_s=0.02)
                assert time.monotonic() < given_up, f"{worker.status()}, {writer.status()}, the log ends at {end}"
            for _ in range(3):                                 # what was refused by an earlier definition is read again
                writer.step(timeout_s=0.02)
            while self.history.unfilled("pay"):                # and rows are filled in with fields that were declared since
                writer.step(timeout_s=0.02)
                assert time.monotonic() < given_up
        finally:
            worker.close()
            writer.close()

    def online_values(self, q_us: int) -> np.ndarray[Any, Any]:
        (view,), kernel = self.project.views, self._kernel()
        keys = Keys(self.name)
        blobs = [self.online.read([keys.state("user", user, view.id, "pay", p) for p in range(PARTITIONS)]) for user in USERS]
        return kernel.finalize({"pay": state.parse(kernel.layouts["pay"], blobs)}, np.full(len(USERS), q_us)).values

    def recomputed(self, q_us: int) -> np.ndarray[Any, Any]:
        (source,) = self.project.sources
        names = [field.name for field in source.fields]
        pages = [page.events for p in range(PARTITIONS) for page in self.history.scan(source, partition=p, columns=names)]
        applied = {"pay": dict.fromkeys(range(PARTITIONS), 10**9)}
        return recompute(self._kernel(), {"pay": source}, {"pay": pages}, USERS, np.full(len(USERS), q_us), applied).values

    def rows(self) -> dict[tuple[int, int], dict[str, Any]]:
        """What history holds of each record."""
        (source,), found = self.project.sources, dict[tuple[int, int], dict[str, Any]]()
        names = [field.name for field in source.fields]
        for p in range(PARTITIONS):
            for page in self.history.scan(source, partition=p, columns=names):
                columns = {name: page.events.columns[name].tolist() for name in names}
                for i, offset in enumerate(page.events.offsets.tolist()):
                    found[p, offset] = {name: column[i] for name, column in columns.items()}
        return found

    def letters(self) -> dict[tuple[int, int], str]:
        topic, found = system.dead_letters(self.name).topic, dict[tuple[int, int], str]()
        ends = {kafka.TopicPartition(topic, p): end for p, end in self.log.topic(topic).end.items()}
        given_up = time.monotonic() + PATIENCE_S
        consumer = kafka.KafkaConsumer(bootstrap_servers=self._servers, group_id=None, enable_auto_commit=False)
        try:
            consumer.assign(list(ends))
            consumer.seek_to_beginning(*ends)
            while any(consumer.position(place) < end for place, end in ends.items()):
                for records in consumer.poll(timeout_ms=200).values():
                    letters = [json.loads(record.value) for record in records]
                    found |= {(letter["partition"], letter["offset"]): letter["reason"] for letter in letters}
                assert time.monotonic() < given_up
        finally:
            consumer.close()
        return found

    def _kernel(self) -> ViewKernel:
        return ViewKernel(self.project.views[0], {"pay": self.project.sources[0]})


def fits(value: Mapping[str, Any], fields: tuple[Field, ...]) -> bool:
    """Whether it is an event by this definition: what it has beyond that is not looked at, what is optional may be absent."""
    return isinstance(value["amount"], int if fields is EARLIER else int | float)


def expected(stream: Stream, fields: tuple[Field, ...]) -> dict[tuple[int, int], dict[str, Any]]:
    names = [field.name for field in fields]
    return {place: {name: value.get(name) for name in names} for place, (value, _, _) in stream.given.items() if fits(value, fields)}


def unfit(stream: Stream, fields: tuple[Field, ...]) -> dict[tuple[int, int], str]:
    wrong = {place: "wrong_type" for place, (value, _, _) in stream.given.items() if not fits(value, fields)}
    return wrong | stream.broken


def check(stack: Stack, stream: Stream, fields: tuple[Field, ...]) -> None:
    """State, oracle and what is recomputed from history agree to the bit, and history has exactly the events."""
    events, q_us = expected(stream, fields), time.time_ns() // 1000 // SECOND_US * SECOND_US
    assert stack.rows() == {place: {**value, "amount": float(value["amount"])} for place, value in events.items()}
    records = [
        oracle.Record("pay", *place, value["at"], stream.given[place][1], value) for place, value in sorted(events.items())
    ]
    (view,), (source,) = stack.project.views, stack.project.sources
    naive = [[answer.values[0] for answer in oracle.answers(view, {"pay": source}, records, user, q_us)] for user in USERS]
    online = stack.online_values(q_us)
    assert online.tobytes() == np.array(naive).tobytes(), (online, naive)
    assert online.tobytes() == stack.recomputed(q_us).tobytes()
    assert (online[:, 0] > 0).all()


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with running() as server:
        yield server


@pytest.mark.parametrize(("format", "history"), [("avro", "mysql"), ("protobuf", "mysql"), ("avro", "sqlite"), ("protobuf", "sqlite")])
def test_records_of_every_schema_that_a_topic_ever_had_are_folded_and_kept(
    format: Format, history: str, request: pytest.FixtureRequest, services: Services, production_redis_url: str, registry: RegistryServer
) -> None:
    stack = Stack(services, production_redis_url, request.getfixturevalue(f"{history}_url"), registry, format)
    topic = stack.name
    stack.apply(topic, EARLIER)
    stream = Stream(services.kafka, topic, registry, format)
    first, wider, dropped, other = SCHEMAS
    try:
        stream.write([first], 60)
        stream.write([first, wider], 60)                       # whose records are none of this definition's: it says int
        stream.write_broken()
        stack.drain()
        check(stack, stream, EARLIER)
        refused = unfit(stream, EARLIER)
        assert stack.letters() == refused
        assert len(set(refused.values())) == 3
        stack.apply(topic, LATER)
        stream.write([wider, dropped], 60)
        stream.write([dropped, other], 40)
        stack.drain()
        check(stack, stream, LATER)
        assert stack.letters() == refused | unfit(stream, LATER)
    finally:
        stream.close()
        stack.close()
    assert {by for _, _, by in stream.given.values()} == set(SCHEMAS)
