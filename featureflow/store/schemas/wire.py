"""The wire format that producers with a schema registry write: a zero byte, the schema's id, the record.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from featureflow import limits
from featureflow.clock import Clock
from featureflow.kernel.field import Refused
from featureflow.store.schemas.protocol import Schema, SchemaRegistry

FRAME_BYTES = 5
UNKNOWN_US = 60_000_000                    # how long an id that the registry does not know is not asked for again


class Reader(Protocol):
    """Reads the records of one schema."""

    @property
    def fields(self) -> frozenset[str]:
        """The names of the fields that its records have."""
        ...

    def read(self, data: bytes) -> Mapping[str, Any]:
        """The record behind the frame, as its fields' values. Raises Refused."""
        ...


class Made(Protocol):
    """Makes a schema's reader. Raises Refused for one by which no record can be read, UnavailableError."""

    def __call__(self, schema: Schema, registry: SchemaRegistry, /) -> Reader: ...


class FramedRecords:
    """``kernel.record.Records`` of one source, in one format. Each schema is asked for once, and kept."""

    def __init__(self, registry: SchemaRegistry, made: Made, clock: Clock) -> None:
        self._registry, self._made, self._clock = registry, made, clock
        self._readers: dict[int, Reader | Refused] = {}            # by the schema's id, the oldest first
        self._forget_us = 0                                        # when the ids that were not known are asked for again

    def read(self, values: Sequence[bytes]) -> list[Mapping[str, Any] | Refused]:
        if self._clock.now_us() >= self._forget_us:
            self._forget_us = self._clock.now_us() + UNKNOWN_US
            self._readers = {number: reader for number, reader in self._readers.items() if not isinstance(reader, Refused)}
        found: list[Mapping[str, Any] | Refused] = []
        for value in values:
            try:
                found.append(self._reader(value).read(value))
            except Refused as why:
                found.append(why)
        return found

    def _reader(self, value: bytes) -> Reader:
        if value[:1] != b"\0" or len(value) < FRAME_BYTES:
            raise Refused("undecodable", "the record does not begin with a zero byte and the id of a schema")
        number = int.from_bytes(value[1:FRAME_BYTES], "big")
        reader = self._readers.get(number)
        if reader is None:
            reader = self._asked(number)
            if len(self._readers) >= limits.SCHEMAS:
                del self._readers[next(iter(self._readers))]
            self._readers[number] = reader
        if isinstance(reader, Refused):
            raise Refused(reader.reason, reader.detail)
        return reader

    def _asked(self, number: int) -> Reader | Refused:
        schema = self._registry.schema(number)
        if schema is None:
            return Refused("unknown_schema", f"the schema registry has no schema {number}")
        try:
            return self._made(schema, self._registry)
        except Refused as why:
            return Refused(why.reason, f"schema {number}: {why.detail}")
