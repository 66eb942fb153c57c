"""A schema registry: which schema a record was written by. Records name it by a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["AVRO", "PROTOBUF", "JSON"]


@dataclass(frozen=True)
class Reference:
    """Another subject's version that a schema needs, under the name by which it imports it."""

    name: str
    subject: str
    version: int


@dataclass(frozen=True)
class Schema:
    """``text``: a JSON document of Avro; of Protobuf a FileDescriptorProto in base64, which needs no parser of .proto files."""

    kind: Kind
    text: str
    references: tuple[Reference, ...] = ()


class SchemaRegistry(Protocol):
    """Every method may raise UnavailableError."""

    def schema(self, number: int) -> Schema | None:
        """The schema of this id, or None where there is none."""
        ...

    def version(self, subject: str, version: int) -> Schema | None:
        """A version of a subject, or None where there is none."""
        ...

    def latest(self, subject: str) -> Schema | None:
        """The newest version of a subject, or None where there is none."""
        ...

    def ping(self) -> str:
        """What it is and where, or UnavailableError."""
        ...


def subject_of(topic: str) -> str:
    """The subject of a topic's values, as producers name it by default."""
    return f"{topic}-value"
