"""What reads a source's records: by its format, with the registry that is set."""

from __future__ import annotations

from dataclasses import dataclass

from featureflow.clock import Clock
from featureflow.define.spec import Field, Source
from featureflow.errors import SettingsError
from featureflow.kernel.field import Refused
from featureflow.kernel.record import Records
from featureflow.store.schemas.protocol import SchemaRegistry, subject_of
from featureflow.store.schemas.wire import FramedRecords, Made


def records_of(source: Source, registry: SchemaRegistry | None, clock: Clock) -> Records | None:
    """None of JSON, which the kernel reads itself. Raises SettingsError where a registry or a package is needed and absent."""
    if source.format == "json":
        return None
    if registry is None:
        raise SettingsError(
            f"the records of {source.name} are in {source.format}, which takes a schema registry: set log.schema_registry_url"
        )
    return FramedRecords(registry, _made(source), clock)


@dataclass(frozen=True)
class Lack:
    """What is wrong, for people. ``refused``: every record that is written by that schema will be."""

    said: str
    refused: bool


def lacking(source: Source, registry: SchemaRegistry) -> list[Lack]:
    """What the newest schema of the source's subject lacks. Raises SettingsError as above, UnavailableError."""
    subject = subject_of(source.topic)
    schema = registry.latest(subject)
    if schema is None:
        said = f"the schema registry has no subject {subject}: no producer of {source.name} has registered its schema"
        return [Lack(said, refused=False)]
    try:
        known = _made(source)(schema, registry).fields
    except Refused as why:
        return [Lack(f"records of {source.name} cannot be read by the newest schema of {subject}: {why.detail}", refused=True)]
    return [_lack(source, field, subject) for field in source.fields if field.name not in known]


def _lack(source: Source, field: Field, subject: str) -> Lack:
    becomes = (
        "it is null"
        if field.nullable
        else f"every record of {source.name} is refused. Declare it | None, or add it to the schema"
    )
    return Lack(f"the newest schema of {subject} has no field {field.name!r}: {becomes}", refused=not field.nullable)


def _made(source: Source) -> Made:
    wanted = frozenset(source.by_name)
    try:
        if source.format == "avro":
            from featureflow.store.schemas.avro import AvroReader

            return lambda schema, registry: AvroReader(schema, registry, wanted)
        from featureflow.store.schemas.protobuf import ProtobufReader

        return lambda schema, registry: ProtobufReader(schema, registry, wanted)
    except ImportError as error:
        raise SettingsError(
            f"the records of {source.name} are in {source.format}, and {error.name} is not installed. Run: "
            f'pip install "featureflow[{source.format}]"'
        ) from error
