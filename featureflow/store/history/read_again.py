"""Records that were no events as their source was defined: to be read again by another definition, before anybody relies on history."""

from __future__ import annotations

import hashlib

import msgspec

from featureflow.define.spec import Source
from featureflow.errors import UnavailableError
from featureflow.store.history.protocol import HistoryStore, RefusedRecord


def check_read_again(history: HistoryStore, source: Source, partition: int, until: int) -> None:
    """Raise UnavailableError where a record before ``until`` may be an event by this definition, and is none in history yet.

    Not of a source as it was defined once: what is refused by today's definition is of no concern to that one.
    """
    refused = history.refused(source, partition, 1)
    if refused and refused[0].offset < until:
        raise UnavailableError(
            f"{source.name}/{partition}: history has yet to read records again that an earlier definition of {source.name} refused, from "
            f"offset {refused[0].offset} on; `featureflow history` does so while it runs"
        )


def definition_of(source: Source) -> str:
    """Of everything that decides which of its records are events, and more: 16 hex digits."""
    return hashlib.sha256(msgspec.json.encode(source, order="deterministic")).hexdigest()[:16]


def record_of(source: Source, partition: int, offset: int) -> dict[str, object]:
    """What names a refused record in the statements about it."""
    return {"source": source.name, "partition_id": partition, "record_offset": offset, "definition": definition_of(source)}


def content_of(record: RefusedRecord) -> dict[str, object]:
    """What is kept of one."""
    return {
        "timestamp_us": record.timestamp_us,
        "append_time": int(record.append_time),
        "record_key": record.key,
        "record_value": record.value,
        "fields": "".join(f",{name}" for name in record.fields) + "," if record.fields else None,
    }
