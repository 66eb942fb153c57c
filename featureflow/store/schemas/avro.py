"""Records in Avro, by the schema that they were written by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from io import BytesIO
from typing import Any

import fastavro
import msgspec
from fastavro.schema import SchemaParseException, parse_schema

from featureflow import limits
from featureflow.kernel.field import Refused
from featureflow.store.schemas.protocol import Schema, SchemaRegistry
from featureflow.store.schemas.wire import FRAME_BYTES

NESTING = 64                               # levels of one schema
PARTS = 10_000                             # of one schema with those that it refers to
EMPTY = "null"


class AvroReader:
    """``wanted``: the fields that somebody needs; the others are read past."""

    def __init__(self, schema: Schema, registry: SchemaRegistry, wanted: Collection[str]) -> None:
        if schema.kind != "AVRO":
            raise Refused("unknown_schema", f"it is of {schema.kind}, and the event says avro")
        named: dict[str, Any] = {}
        for text in _texts(schema, registry):
            try:
                parsed = msgspec.json.decode(text)
                _check(parsed)
                self._schema = parse_schema(parsed, named_schemas=named)
            except (ValueError, RecursionError, SchemaParseException, KeyError, TypeError, AttributeError) as error:
                raise Refused("unknown_schema", f"it is no schema of Avro: {error}") from None
        if not isinstance(self._schema, dict) or self._schema.get("type") != "record":
            raise Refused("unknown_schema", "it describes no record")
        _check_sizes(self._schema, named)
        self.fields = frozenset(field["name"] for field in self._schema["fields"])
        self._wanted = [name for field in self._schema["fields"] if (name := field["name"]) in wanted]

    def read(self, data: bytes) -> Mapping[str, Any]:
        stream = BytesIO(data)
        stream.seek(FRAME_BYTES)
        try:
            record: Any = fastavro.schemaless_reader(stream, self._schema, None)
        except Exception as error:                             # fastavro lets through whatever it met
            raise Refused("undecodable", f"the record is not what its schema says: {type(error).__name__} {error}") from None
        if stream.tell() != len(data):
            raise Refused("undecodable", f"the record goes on for {len(data) - stream.tell()} bytes behind what its schema says")
        return {name: record[name] for name in self._wanted}


def _texts(schema: Schema, registry: SchemaRegistry) -> list[str]:
    """Of the schema and those that it refers to, these first. Raises Refused where one is absent, or they are too many."""
    found: dict[tuple[str, int], str] = {}

    def collect(one: Schema, depth: int) -> None:
        for reference in one.references:
            key = reference.subject, reference.version
            if key in found:
                continue
            if depth >= limits.SCHEMA_REFERENCES or len(found) >= limits.SCHEMA_REFERENCES:
                raise Refused("unknown_schema", f"it refers to more than {limits.SCHEMA_REFERENCES} others")
            other = registry.version(*key)
            if other is None:
                raise Refused("unknown_schema", f"it refers to version {key[1]} of {key[0]}, which the registry does not have")
            collect(other, depth + 1)
            found[key] = other.text

    collect(schema, 0)
    return [*found.values(), schema.text]


def _check(parsed: Any, depth: int = 0) -> int:
    """How many parts it has. Raises ValueError for a schema that is too deep or too large to be walked."""
    if depth > NESTING:
        raise ValueError(f"it is nested deeper than {NESTING}")
    inner = parsed.values() if isinstance(parsed, dict) else parsed if isinstance(parsed, list) else ()
    parts = 1
    for one in inner:
        parts += _check(one, depth + 1)
        if parts > PARTS:
            raise ValueError(f"it has more than {PARTS} parts")
    return parts


def _check_sizes(schema: Any, named: Mapping[str, Any]) -> None:
    """Raises Refused for a schema whose records could be far larger, or deeper, than their bytes: one that holds itself, or a list
    of what takes no bytes."""
    sizes: dict[str, int | None] = {}                          # of named types, the fewest bytes; None: being looked at

    def least(part: Any) -> int:
        if isinstance(part, list):
            return 1 + min(least(one) for one in part)
        if isinstance(part, str):
            if part not in named:
                return 0 if part == EMPTY else 1
            part = named[part]
        kind = part["type"]
        if isinstance(kind, dict | list):
            return least(kind)
        if kind in ("array", "map"):
            if least(part["items" if kind == "array" else "values"]) + (kind == "map") == 0:
                raise Refused("unknown_schema", "it has a list of what takes no bytes, which may be of any length")
            return 1
        if kind in ("record", "error"):
            name = part["name"]
            if sizes.get(name, 0) is None:
                raise Refused("unknown_schema", f"{name} holds itself, to any depth")
            if name not in sizes:
                sizes[name] = None
                sizes[name] = sum(least(field["type"]) for field in part["fields"])
            return sizes[name] or 0
        if kind == "fixed":
            return int(part["size"])
        return least(kind) if kind in named else 0 if kind == EMPTY else 1

    least(schema)
