"""Records in Protobuf, by the message that they were written as."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping
from typing import Any

from google.protobuf import (
    any_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from featureflow import limits
from featureflow.kernel.field import Refused
from featureflow.store.schemas.protocol import Schema, SchemaRegistry
from featureflow.store.schemas.wire import FRAME_BYTES

KNOWN = (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, type_pb2, wrappers_pb2)
PROVIDED = {module.DESCRIPTOR.name: module.DESCRIPTOR.serialized_pb for module in KNOWN}
INDEX_DEPTH = 32                           # of a message within messages
TIMESTAMP = "google.protobuf.Timestamp"
WRAPPERS = frozenset(f"google.protobuf.{name}" for name in wrappers_pb2.DESCRIPTOR.message_types_by_name if name != "BytesValue")
ABSENT = object()
Get = Callable[[Any], Any]


class ProtobufReader:
    """``wanted``: the fields that somebody needs."""

    def __init__(self, schema: Schema, registry: SchemaRegistry, wanted: Collection[str]) -> None:
        if schema.kind != "PROTOBUF":
            raise Refused("unknown_schema", f"it is of {schema.kind}, and the event says protobuf")
        pool = DescriptorPool()
        try:
            file = _add(pool, schema, registry, {}, "", 0)
            self._file = pool.FindFileByName(file)
        except (ValueError, TypeError, KeyError, DecodeError) as error:
            raise Refused("unknown_schema", f"it is no file of Protobuf: {error}") from None
        self._wanted = tuple(wanted)
        self._messages: dict[tuple[int, ...], tuple[type[Message], list[tuple[str, Get]]]] = {}

    @property
    def fields(self) -> frozenset[str]:
        """Of the file's first message, which is what most producers write."""
        first = next(iter(self._file.message_types_by_name.values()), None)
        return frozenset() if first is None else frozenset(first.fields_by_name)

    def read(self, data: bytes) -> Mapping[str, Any]:
        path, begin = _path(data)
        if path not in self._messages:
            self._messages[path] = self._message(path)
        message, gets = self._messages[path]
        try:
            record = message.FromString(data[begin:])
        except DecodeError as error:
            raise Refused("undecodable", f"the record is not what its schema says: {error}") from None
        return {name: value for name, get in gets if (value := get(record)) is not ABSENT}

    def _message(self, path: tuple[int, ...]) -> tuple[type[Message], list[tuple[str, Get]]]:
        inside = list(self._file.message_types_by_name.values())
        for index in path:
            if index >= len(inside):
                raise Refused("unknown_schema", f"its schema has no message at {'.'.join(map(str, path))}")
            found: Descriptor = inside[index]
            inside = list(found.nested_types)
        fields = [(name, found.fields_by_name[name]) for name in self._wanted if name in found.fields_by_name]
        return GetMessageClass(found), [(name, _get(name, field)) for name, field in fields]


def _add(
    pool: DescriptorPool, schema: Schema, registry: SchemaRegistry, added: dict[tuple[str, int], str], name: str, depth: int
) -> str:
    """Add the file and all that it imports to the pool, under the name by which it is imported. Its name."""
    if depth > limits.SCHEMA_REFERENCES or len(added) > limits.SCHEMA_REFERENCES:
        raise Refused("unknown_schema", f"it refers to more than {limits.SCHEMA_REFERENCES} others")
    file = FileDescriptorProto.FromString(base64.b64decode(schema.text, validate=True))
    file.name = name or file.name or "schema.proto"
    for reference in schema.references:
        key = reference.subject, reference.version
        if key in added:
            continue
        other = registry.version(*key)
        if other is None:
            raise Refused("unknown_schema", f"it refers to version {key[1]} of {key[0]}, which the registry does not have")
        added[key] = reference.name
        _add(pool, other, registry, added, reference.name, depth + 1)
    for imported in file.dependency:
        if imported in PROVIDED:
            pool.AddSerializedFile(PROVIDED[imported])
    pool.Add(file)
    return str(file.name)


def _path(data: bytes) -> tuple[tuple[int, ...], int]:
    """Which message of the file it is, and where it begins. A lone zero is the first message."""
    count, at = _zigzag(data, FRAME_BYTES)
    if count == 0:
        return (0,), at
    if not 0 < count <= INDEX_DEPTH:
        raise Refused("undecodable", f"the record says that its message lies {count} deep")
    path = []
    for _ in range(count):
        index, at = _zigzag(data, at)
        if index < 0:
            raise Refused("undecodable", f"the record says that it is message {index} of its schema")
        path.append(index)
    return tuple(path), at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends. Raises Refused."""
    number = 0
    for place, byte in enumerate(data[at : at + 5]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at + place + 1
    raise Refused("undecodable", "the record ends, or does not say, which message of its schema it is")


def _get(name: str, field: FieldDescriptor) -> Get:
    """What gives a field's value of a message; ABSENT where the message has none."""
    value = _value(field)
    if field.is_repeated:
        return lambda message: [value(one) for one in getattr(message, name)]
    if field.has_presence:
        return lambda message: value(getattr(message, name)) if message.HasField(name) else ABSENT
    return lambda message: value(getattr(message, name))


def _value(field: FieldDescriptor) -> Get:
    """What makes a plain value of one value of a field."""
    if field.enum_type is not None:
        names = {number: symbol.name for number, symbol in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    kind = None if field.message_type is None else field.message_type.full_name
    if kind == TIMESTAMP:
        return lambda moment: moment.seconds * 1_000_000 + moment.nanos // 1_000
    if kind in WRAPPERS:
        return lambda wrapper: wrapper.value
    return lambda value: value
