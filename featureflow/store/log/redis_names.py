"""How topics and records are named in Redis Streams. See ``redis_streams``."""

from __future__ import annotations

from featureflow.store.log.protocol import Record


def topic_key(topic: str) -> str:
    """A hash: the topic's id, its number of partitions, and the next offset of each."""
    return f"log:{{0}}:{topic}"


def stream_key(topic: str, partition: int) -> str:
    """A stream, whose entry ids are offsets."""
    return f"log:{{0}}:{topic}:{partition}"


def names(record: Record) -> tuple[str, ...]:
    """The fields of a record's entry."""
    fields = ("v",) if record.key is None else ("k", "v")
    return (*fields, *("h:" + name for name, _ in record.headers)) if record.headers else fields


def values(record: Record) -> tuple[bytes, ...]:
    """Their values."""
    found = (record.value,) if record.key is None else (record.key, record.value)
    return (*found, *(value for _, value in record.headers)) if record.headers else found
