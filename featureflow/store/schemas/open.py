"""What reads a source's records: by its format, with the registry that is set."""

from __future__ import annotations

from featureflow.clock import Clock
from featureflow.define.spec import Source
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


def lacking(source: Source, registry: SchemaRegistry) -> list[str]:
    """What the newest schema of the source's subject lacks, for people. Raises SettingsError as above, UnavailableError."""
    subject = subject_of(source.topic)
    schema = registry.latest(subject)
    if schema is None:
        return [f"the schema registry has no subject {subject}: no producer of {source.name} has registered its schema"]
    try:
        known = _made(source)(schema, registry).fields
    except Refused as why:
        return [f"records of {source.name} cannot be read by the newest schema of {subject}: {why.detail}"]
    absent = [field for field in source.fields if field.name not in known]
    return [
        f"the newest schema of {subject} has no field {field.name!r}"
        + (": it is null" if field.nullable else f": every record of {source.name} is refused. Declare it | None, or add it to the schema")
        for field in absent
    ]


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
