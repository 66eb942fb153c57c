"""Records in JSON, Avro and Protobuf: the same events, and the same fate for what is none."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import fastavro
import numpy as np
import pytest
from google.protobuf import timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from registry_server import RegistryServer, avro_record, protobuf_record, running

from featureflow import limits
from featureflow.clock import ManualClock
from featureflow.define.spec import Field, Format, Source
from featureflow.errors import SettingsError, UnavailableError
from featureflow.kernel.decode import Decoded, Decoder
from featureflow.store.schemas.open import lacking, records_of
from featureflow.store.schemas.registry import HttpSchemaRegistry

FIELDS = (
    Field(name="at", type="datetime"),
    Field(name="user", type="str", entity="user"),
    Field(name="amount", type="float"),
    Field(name="count", type="int"),
    Field(name="ok", type="bool"),
    Field(name="channel", type="str", categories=("app", "web")),
    Field(name="taste", type="vector", size=3),
    Field(name="note", type="str", nullable=True),
    Field(name="score", type="float", nullable=True),
    Field(name="paid_at", type="datetime", nullable=True),
)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
T = FieldDescriptorProto
AVRO: dict[str, Any] = {
    "type": "record", "name": "Payment", "namespace": "shop", "fields": [
        {"name": "ignored", "type": {"type": "array", "items": {"type": "map", "values": "string"}}, "default": []},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "user", "type": "string"},
        {"name": "amount", "type": "double"},
        {"name": "count", "type": "long"},
        {"name": "ok", "type": "boolean"},
        {"name": "channel", "type": {"type": "enum", "name": "Channel", "symbols": ["web", "app", "fax"]}},
        {"name": "taste", "type": {"type": "array", "items": "double"}},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "score", "type": ["double", "null"]},
        {"name": "paid_at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
    ],
}  # fmt: skip


def file_of(*messages: DescriptorProto, name: str = "payment.proto", dependencies: Sequence[str] = ()) -> FileDescriptorProto:
    file = FileDescriptorProto(name=name, package="shop", syntax="proto3", message_type=messages)
    file.dependency.extend([timestamp_pb2.DESCRIPTOR.name, wrappers_pb2.DESCRIPTOR.name, *dependencies])
    return file


def field(number: int, name: str, type: Any, *, of: str = "", repeated: bool = False, optional: bool = False) -> FieldDescriptorProto:
    label = T.LABEL_REPEATED if repeated else T.LABEL_OPTIONAL
    made = T(name=name, number=number, type=type, label=label, type_name=of or None)
    if optional:
        made.proto3_optional, made.oneof_index = True, 0
    return made


def payment() -> FileDescriptorProto:
    message = DescriptorProto(name="Payment")
    message.field.extend([
        field(1, "ignored", T.TYPE_BYTES),
        field(2, "at", T.TYPE_MESSAGE, of=".google.protobuf.Timestamp"),
        field(3, "user", T.TYPE_STRING),
        field(4, "amount", T.TYPE_DOUBLE),
        field(5, "count", T.TYPE_SINT64),
        field(6, "ok", T.TYPE_BOOL),
        field(7, "channel", T.TYPE_ENUM, of=".shop.Payment.Channel"),
        field(8, "taste", T.TYPE_DOUBLE, repeated=True),
        field(9, "note", T.TYPE_STRING, optional=True),
        field(10, "score", T.TYPE_MESSAGE, of=".google.protobuf.DoubleValue"),
        field(11, "paid_at", T.TYPE_MESSAGE, of=".google.protobuf.Timestamp"),
    ])  # fmt: skip
    message.oneof_decl.add(name="_note")
    channel = message.enum_type.add(name="Channel")
    for number, symbol in enumerate(("web", "app", "fax")):
        channel.value.add(name=symbol, number=number)
    inner = DescriptorProto(name="Inner")
    inner.field.extend([*message.field[:8]])
    other = DescriptorProto(name="Other")
    other.nested_type.add().CopyFrom(inner)
    return file_of(message, other)


def class_of(file: FileDescriptorProto, name: str, *before: FileDescriptorProto) -> Any:
    pool = DescriptorPool()
    for module in (timestamp_pb2, wrappers_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for one in (*before, file):
        pool.Add(one)
    return GetMessageClass(pool.FindMessageTypeByName(name))


def message_of(kind: Any, value: Mapping[str, Any]) -> Any:
    message = kind()
    for name, one in value.items():
        match one:
            case None:
                continue
            case datetime():
                getattr(message, name).FromDatetime(one)
            case list():
                getattr(message, name).extend(one)
            case str() if name == "channel":
                message.channel = ("web", "app", "fax").index(one)
            case float() if name == "score":
                message.score.value = one
            case _:
                setattr(message, name, one)
    return message


def some(n: int, seed: int = 1) -> list[dict[str, Any]]:
    luck = random.Random(seed)
    return [
        {
            "at": NOON + timedelta(microseconds=luck.randrange(10**12)),
            "user": luck.choice(["ada", "b:{0}", "é*\n"]),
            "amount": luck.choice([0.0, -0.0, 1e-9, luck.uniform(-1e9, 1e9), 9e18]),
            "count": luck.choice([0, -1, 2**53]),
            "ok": luck.random() < 0.5,
            "channel": luck.choice(["web", "app"]),
            "taste": [luck.gauss(0, 1) for _ in range(3)],
            "note": luck.choice([None, "", "x" * 100]),
            "score": luck.choice([None, luck.random()]),
            "paid_at": luck.choice([None, NOON]),
        }
        for _ in range(n)
    ]


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with running() as server:
        yield server


def decoder(
    registry: RegistryServer | None, format: Format, fields: tuple[Field, ...] = FIELDS, clock: ManualClock | None = None
) -> Decoder:
    source = Source(name="payment", topic="payments", time_field="at", disorder_us=0, future_us=0, fields=fields, format=format)
    http = None if registry is None else HttpSchemaRegistry(registry.url)
    return Decoder(source, records=records_of(source, http, clock or ManualClock()))


def written(registry: RegistryServer, format: Format, values: Sequence[dict[str, Any]]) -> list[bytes]:
    if format == "json":
        return [json.dumps({k: v.isoformat() if isinstance(v, datetime) else v for k, v in value.items()}).encode() for value in values]
    if format == "avro":
        number = registry.avro("payments-value", AVRO)
        return [avro_record(number, AVRO, {"ignored": [{"a": "b"}], **value}) for value in values]
    number, kind = registry.protobuf("payments-value", payment()), class_of(payment(), "shop.Payment")
    return [protobuf_record(number, message_of(kind, {"ignored": b"x", **value})) for value in values]


def fates(decoded: Decoded) -> list[tuple[int, str]]:
    return [(refusal.index, refusal.reason) for refusal in decoded.refused]


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_the_same_events_give_the_same_columns_in_every_format(registry: RegistryServer, format: Format) -> None:
    values = some(300)
    plain = decoder(None, "json").decode(written(registry, "json", values))
    other = decoder(registry, format).decode(written(registry, format, values))
    assert plain.refused == other.refused == ()
    assert plain.events.times_us.tobytes() == other.events.times_us.tobytes()
    for name, column in plain.events.columns.items():
        got = other.events.columns[name]
        assert got.dtype == column.dtype
        assert got.tolist() == column.tolist() if column.dtype == object else got.tobytes() == column.tobytes(), name
    assert len(registry.asked) == {"avro": 1, "protobuf": 2}[format]           # for 300 records


BAD: list[tuple[dict[str, Any], str]] = [
    ({"user": ""}, "bad_key"),
    ({"user": "x" * 257}, "oversized"),
    ({"amount": float("nan")}, "out_of_range"),
    ({"amount": float("-inf")}, "out_of_range"),
    ({"amount": 2.0**63}, "out_of_range"),
    ({"count": 2**53 + 1}, "out_of_range"),
    ({"channel": "fax"}, "unknown_category"),
    ({"taste": [1.0, 2.0]}, "wrong_length"),
    ({"taste": []}, "wrong_length"),
    ({"taste": [1.0, 2.0, float("nan")]}, "out_of_range"),
    ({"note": "é" * 513}, "oversized"),
    ({"score": float("inf")}, "out_of_range"),
    ({"at": datetime(2300, 1, 1, tzinfo=UTC)}, "out_of_range"),
    ({"note": "x" * limits.RECORD_BYTES}, "oversized"),
]


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_what_is_no_event_is_refused_for_the_same_reason_as_in_json(registry: RegistryServer, format: Format) -> None:
    good = some(1)[0]
    values = [one for change, _ in BAD for one in (good, {**good, **change})]
    decoded = decoder(registry, format).decode([*written(registry, format, values), None])
    assert fates(decoded) == [*((2 * i + 1, reason) for i, (_, reason) in enumerate(BAD)), (len(values), "tombstone")]
    assert decoded.kept.tolist() == list(range(0, len(values), 2))


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_bytes_that_are_no_record_are_refused_and_never_more(registry: RegistryServer, format: Format) -> None:
    luck, decode = random.Random(7), decoder(registry, format)
    (record,) = written(registry, format, some(1))
    other: Format = "protobuf" if format == "avro" else "avro"
    (foreign,) = written(registry, other, some(1))
    cases = {
        b"": "undecodable", b"\0\0\0\0": "undecodable", b"\1" + record[1:]: "undecodable", b'{"at": 1}': "undecodable",
        b"\0" + (2**31).to_bytes(4, "big") + record[5:]: "unknown_schema", foreign: "unknown_schema",
    }  # fmt: skip
    assert fates(decode.decode([*cases, record])) == list(enumerate(cases.values()))
    for _ in range(3_000):
        broken = bytearray(record)
        for _ in range(luck.randrange(1, 4)):
            match luck.randrange(3):
                case 0:
                    broken[luck.randrange(5, len(broken))] = luck.randrange(256)
                case 1:
                    del broken[luck.randrange(5, len(broken)) :]
                    broken += b"\x80" * luck.randrange(1, 12)
                case 2:
                    broken += luck.randbytes(luck.randrange(1, 9))
        decoded = decode.decode([bytes(broken), record])
        assert 1 in decoded.kept.tolist()
        assert {reason for _, reason in fates(decoded)} <= {
            "undecodable", "unknown_schema", "missing_field", "wrong_type", "wrong_length", "unknown_category", "oversized",
            "out_of_range", "bad_key",
        }  # fmt: skip


def test_a_cut_avro_record_or_one_that_goes_on_is_undecodable(registry: RegistryServer) -> None:
    (record,) = written(registry, "avro", some(1))
    decoded = decoder(registry, "avro").decode([record[:cut] for cut in range(len(record))] + [record + b"\0"])
    assert fates(decoded) == [(i, "undecodable") for i in range(len(record) + 1)]


@pytest.mark.parametrize(("path", "reason"), [
    (b"\x02\x02", "missing_field"),                         # message 1, which has none of the fields
    (b"\x02\x04", "unknown_schema"),                        # message 2 of two
    (b"\x04\x02\x02", "unknown_schema"),                    # the second within message 1
    (b"\x01", "undecodable"),                               # -1 deep
    (b"\x02\x01", "undecodable"),                           # message -1
    (b"\xfe\xff\xff\xff\x0f", "undecodable"),               # two thousand million deep
    (b"\x80\x80\x80\x80\x80\x80", "undecodable"),           # a number without an end
    (b"\x04\x02", "undecodable"),                           # cut off
])  # fmt: skip
def test_a_message_that_its_schema_does_not_have_is_refused(registry: RegistryServer, path: bytes, reason: str) -> None:
    number = registry.protobuf("payments-value", payment())
    decoded = decoder(registry, "protobuf").decode([b"\0" + number.to_bytes(4, "big") + path])
    assert fates(decoded) == [(0, reason)]


def test_a_message_within_a_message_is_found_by_its_path(registry: RegistryServer) -> None:
    number, kind = registry.protobuf("payments-value", payment()), class_of(payment(), "shop.Other.Inner")
    value = {name: one for name, one in some(1)[0].items() if name not in ("note", "score", "paid_at")}
    decoded = decoder(registry, "protobuf").decode([protobuf_record(number, message_of(kind, value), (1, 0))])
    assert decoded.refused == ()
    assert decoded.events.columns["user"].tolist() == [value["user"]]
    assert decoded.events.columns["note"].tolist() == [None]


@pytest.mark.parametrize("schema", [
    {"type": "array", "items": "long"},
    {"type": "record", "name": "R", "fields": [{"name": "x", "type": "nothing"}]},
    {"type": "record", "name": "R", "fields": [{"name": "x", "type": {"type": "array", "items": "null"}}]},
    {"type": "record", "name": "R", "fields": [
        {"name": "x", "type": {"type": "array", "items": {"type": "record", "name": "E", "fields": [{"name": "n", "type": "null"}]}}}]},
    {"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]},
    {"type": "record", "name": "R", "fields": [{"name": "x", "type": {"type": "map", "values": "R"}}]},
    "string",
    [],
])  # fmt: skip
def test_a_schema_of_avro_whose_records_have_no_bound_is_not_read_by(registry: RegistryServer, schema: Any) -> None:
    number = registry.avro("payments-value", schema)
    # 10^12 entries of nothing, in eight bytes
    bomb = b"\0" + number.to_bytes(4, "big") + b"\x80\xa0\x94\xa5\x8d\x1d\x00"
    assert fates(decoder(registry, "avro").decode([bomb, bomb])) == [(0, "unknown_schema"), (1, "unknown_schema")]


def test_a_deep_schema_and_a_deep_message_are_bounded(registry: RegistryServer) -> None:
    deep: Any = "long"
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    number = registry.avro("payments-value", {"type": "record", "name": "R", "fields": [{"name": "x", "type": deep}]})
    assert fates(decoder(registry, "avro").decode([b"\0" + number.to_bytes(4, "big") + b"\2" * 300])) == [(0, "unknown_schema")]
    node = DescriptorProto(name="Node")
    node.field.extend([field(1, "next", T.TYPE_MESSAGE, of=".shop.Node")])
    number = registry.protobuf("payments-value", file_of(node))
    data = b""
    while len(data) < 20_000:
        size, length = len(data), bytearray()
        while size > 0x7F:
            length.append(size & 0x7F | 0x80)
            size >>= 7
        data = b"\x0a" + bytes([*length, size]) + data
    assert fates(decoder(registry, "protobuf").decode([b"\0" + number.to_bytes(4, "big") + b"\0" + data])) == [(0, "undecodable")]


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_schemas_may_refer_to_others(registry: RegistryServer, format: Format) -> None:
    fields = (FIELDS[0], Field(name="kind", type="str"))
    if format == "avro":
        kind = {"type": "enum", "name": "Kind", "namespace": "shop", "symbols": ["A", "B"]}
        schema = {"type": "record", "name": "P", "namespace": "shop", "fields": [AVRO["fields"][1], {"name": "kind", "type": "shop.Kind"}]}
        registry.avro("kind", kind)
        number = registry.avro("payments-value", schema, [{"name": "shop.Kind", "subject": "kind", "version": 1}])
        missing = registry.avro("payments-value", schema, [{"name": "shop.Kind", "subject": "kind", "version": 9}])
        whole = {**schema, "fields": [schema["fields"][0], {"name": "kind", "type": kind}]}
        record = avro_record(number, whole, {"at": NOON, "kind": "B"})
    else:
        other = FileDescriptorProto(name="kind.proto", package="shop", syntax="proto3")
        other.enum_type.add(name="Kind").value.extend([])
        for i, symbol in enumerate("AB"):
            other.enum_type[0].value.add(name=symbol, number=i)
        message = DescriptorProto(name="P")
        at, kind_of = field(1, "at", T.TYPE_MESSAGE, of=".google.protobuf.Timestamp"), field(2, "kind", T.TYPE_ENUM, of=".shop.Kind")
        message.field.extend([at, kind_of])
        file = file_of(message, dependencies=["kind.proto"])
        registry.protobuf("kind", other)
        number = registry.protobuf("payments-value", file, [{"name": "kind.proto", "subject": "kind", "version": 1}])
        missing = registry.protobuf("payments-value", file, [{"name": "kind.proto", "subject": "kind", "version": 9}])
        made = class_of(file, "shop.P", other)(kind=1)
        made.at.FromDatetime(NOON)
        record = protobuf_record(number, made)
    decoded = decoder(registry, format, fields).decode([record, b"\0" + missing.to_bytes(4, "big") + record[5:]])
    assert decoded.events.columns["kind"].tolist() == ["B"]
    assert fates(decoded) == [(1, "unknown_schema")]
    assert "version 9 of kind" in decoded.refused[0].detail


# -- evolution ---------------------------------------------------------------------------------------------------------


def evolved(changes: Mapping[str, Any], *, drop: str = "") -> dict[str, Any]:
    fields = [{**one, "type": changes.get(one["name"], one["type"])} for one in AVRO["fields"] if one["name"] != drop]
    return {**AVRO, "fields": fields}


@pytest.mark.parametrize(("schema", "change", "reason"), [
    (evolved({}, drop="note"), {}, ""),                                              # an optional field is not there yet
    (evolved({}, drop="amount"), {}, "missing_field"),
    (evolved({"amount": "long"}), {"amount": 3}, ""),                                # whole numbers are numbers
    (evolved({"amount": "float"}), {"amount": 0.5}, ""),
    (evolved({"amount": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}), {"amount": Decimal("1.25")}, ""),
    (evolved({"amount": "string"}), {"amount": "3"}, "wrong_type"),
    (evolved({"amount": ["null", "double"]}), {"amount": None}, "wrong_type"),
    (evolved({"amount": ["null", "double"]}), {"amount": 1.5}, ""),
    (evolved({"count": "double"}), {"count": 1.0}, "wrong_type"),
    (evolved({"at": {"type": "long", "logicalType": "timestamp-millis"}}), {}, ""),
    (evolved({"at": "long"}), {"at": 1_700_000_000_000_000}, ""),                    # whole microseconds
    (evolved({"at": "string"}), {"at": "2024-01-01T00:00:00Z"}, ""),
    (evolved({"at": {"type": "int", "logicalType": "date"}}), {"at": NOON.date()}, "wrong_type"),
    (evolved({"at": {"type": "long", "logicalType": "local-timestamp-micros"}}), {"at": NOON.replace(tzinfo=None)}, "wrong_type"),
    (evolved({"user": "bytes"}), {"user": b"ada"}, "wrong_type"),
    (evolved({"user": {"type": "map", "values": "long"}}), {"user": {"a": 1}}, "wrong_type"),
    (evolved({"taste": {"type": "array", "items": "int"}}), {"taste": [1, 2, 3]}, ""),
    (evolved({"taste": {"type": "array", "items": ["null", "double"]}}), {"taste": [1.0, None, 3.0]}, "wrong_type"),
])  # fmt: skip
def test_a_writer_may_change_what_can_be_read_exactly(
    registry: RegistryServer, schema: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    old = written(registry, "avro", some(1))
    number = registry.avro("payments-value", schema)
    value = {"ignored": [], **some(1)[0], **change}
    record = avro_record(number, schema, {one["name"]: value[one["name"]] for one in schema["fields"]})
    decoded = decoder(registry, "avro").decode([*old, record, *old])
    assert fates(decoded) == ([(1, reason)] if reason else [])


def test_a_protobuf_field_without_presence_is_its_zero_and_one_with_presence_is_null(registry: RegistryServer) -> None:
    number, kind = registry.protobuf("payments-value", payment()), class_of(payment(), "shop.Payment")
    message = kind(user="ada", taste=[0.0, 0.0, 0.0])
    assert fates(decoder(registry, "protobuf").decode([protobuf_record(number, message)])) == [(0, "missing_field")]
    message.at.FromDatetime(NOON)
    columns = decoder(registry, "protobuf").decode([protobuf_record(number, message)]).events.columns
    assert (columns["amount"][0], columns["count"][0], columns["ok"][0], columns["channel"][0]) == (0.0, 0.0, 0.0, "web")
    assert columns["note"][0] is None
    assert np.isnan([columns["score"][0], columns["paid_at"][0]]).all()
    message.note, message.score.value = "", 0.0
    columns = decoder(registry, "protobuf").decode([protobuf_record(number, message)]).events.columns
    assert (columns["note"][0], columns["score"][0]) == ("", 0.0)


# -- the registry ------------------------------------------------------------------------------------------------------


def test_a_registry_that_cannot_be_asked_makes_no_dead_letter(registry: RegistryServer) -> None:
    records, decode = written(registry, "avro", some(2)), decoder(registry, "avro")
    for status in (401, 404, 429, 500, 503):
        registry.failing = status
        with pytest.raises(UnavailableError, match=r"log\.schema_registry_url"):
            decode.decode(records)
    registry.failing = 0
    assert decode.decode(records).refused == ()
    registry.failing = 500
    assert decode.decode(records).refused == ()             # what is known is not asked again


def test_a_registry_that_is_not_there_is_unavailable() -> None:
    with running() as server:
        url = server.url
    registry = HttpSchemaRegistry(url)
    for ask in (lambda: registry.schema(1), lambda: registry.latest("s"), lambda: registry.version("s", 1), registry.ping):
        with pytest.raises(UnavailableError, match="does not answer"):
            ask()


def test_credentials_are_sent_and_never_shown() -> None:
    with running("ada:s%3Acret") as server:
        number = server.avro("payments-value", AVRO)
        registry = HttpSchemaRegistry(server.url)
        assert registry.schema(number) is not None
        assert registry.ping().startswith("a schema registry at http://127.0.0.1")
        for shown in (repr(registry), registry.ping(), registry.place):
            assert "cret" not in shown
        server.credentials = "ada:other"
        with pytest.raises(UnavailableError) as caught:
            registry.schema(number)
        assert "401" in str(caught.value)
        assert "cret" not in str(caught.value)


def test_an_answer_without_an_end_is_cut_off(registry: RegistryServer) -> None:
    number = registry.avro("payments-value", {**AVRO, "doc": "x" * limits.SCHEMA_BYTES})
    with pytest.raises(UnavailableError, match="more than"):
        HttpSchemaRegistry(registry.url).schema(number)


def test_unknown_ids_are_asked_for_once_a_minute_and_schemas_are_bounded(registry: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(10**15)
    decode = decoder(registry, "avro", clock=clock)
    unknown = b"\0\0\0\0\x02"
    for _ in range(5):
        assert fates(decode.decode([unknown, unknown])) == [(0, "unknown_schema"), (1, "unknown_schema")]
    assert len(registry.asked) == 1
    registry.avro("other", {"type": "record", "name": "O", "fields": []})
    assert registry.avro("payments-value", AVRO) == 2
    clock.advance(60_000_001)
    (record,) = written(registry, "avro", some(1))
    assert decode.decode([record]).refused == ()
    assert len(registry.asked) == 2
    monkeypatch.setattr(limits, "SCHEMAS", 3)
    for number in range(50):
        decode.decode([b"\0" + (1000 + number).to_bytes(4, "big")])
    assert decode.decode([record]).refused == ()
    assert len(registry.asked) == 2 + 50 + 1


def test_latest_and_versions_of_a_subject(registry: RegistryServer) -> None:
    http = HttpSchemaRegistry(registry.url)
    assert http.latest("a/b c") is None
    registry.avro("a/b c", AVRO)
    registry.avro("a/b c", evolved({}, drop="note"))
    latest = http.latest("a/b c")
    assert latest is not None
    assert '"note"' not in latest.text
    assert http.version("a/b c", 2) == latest
    assert http.version("a/b c", 3) is None


@pytest.mark.parametrize("url", ["ftp://host", "host:8081", "http://", "http://h:x", "http://h:66000", "http://me:hid/den@h:1", "http://[h"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"log\.schema_registry_url") as caught:
        HttpSchemaRegistry(url)
    assert "hid" not in str(caught.value)


def test_a_format_without_a_registry_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"set log\.schema_registry_url"):
        decoder(None, "avro")


def test_fastavro_reads_what_it_wrote() -> None:
    """The schema of these tests is a schema, by the library's own strict reading."""
    assert fastavro.parse_schema(AVRO)["name"] == "shop.Payment"


def test_what_the_newest_schema_lacks_is_said(registry: RegistryServer) -> None:
    http = HttpSchemaRegistry(registry.url)

    def said(format: Format) -> list[str]:
        source = Source(name="payment", topic="payments", time_field="at", disorder_us=0, future_us=0, fields=FIELDS, format=format)
        return [lack.said for lack in lacking(source, http)]

    assert "no subject payments-value" in said("avro")[0]
    registry.avro("payments-value", AVRO)
    assert said("avro") == []
    assert "it is of AVRO, and the event says protobuf" in said("protobuf")[0]
    registry.avro("payments-value", evolved({}, drop="note"))
    assert "no field 'note': it is null" in said("avro")[0]
    registry.avro("payments-value", evolved({}, drop="amount"))
    assert "no field 'amount': every record of payment is refused" in said("avro")[0]
    registry.protobuf("payments-value", payment())
    assert said("protobuf") == []
