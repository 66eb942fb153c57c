"""The averages as they stand in the log: read from the beginning of their topic, the newest of each entity."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from featureflow import limits
from featureflow.errors import LogError, UnavailableError
from featureflow.store.log.protocol import Log
from featureflow.watch.average import Average

_AVERAGE = msgspec.json.Decoder(Average)
POLL_S = 0.2
PATIENCE_S = 60.0                          # without a record


def restored(log: Log, topic: str, partitions: Sequence[int]) -> dict[int, dict[bytes, Average]]:
    """Partition -> key -> average, of all that is committed when this is called.

    Raises UnavailableError, also where nothing comes for a minute; LogError where there are more than can be kept.
    """
    state = log.topic(topic)
    found: dict[int, dict[bytes, Average]] = {partition: {} for partition in partitions}
    at = {partition: state.beginning[partition] for partition in partitions}
    if all(at[partition] >= state.end[partition] for partition in partitions):
        return found
    reader = log.reader({topic: topic})
    try:
        heard = time.monotonic()
        while any(at[partition] < state.end[partition] for partition in partitions):
            polled = reader.poll(timeout_s=POLL_S, max_records=limits.POLL_RECORDS, max_bytes=limits.POLL_BYTES)
            for place in polled.assignment.assigned:
                if place.partition in at:
                    reader.seek(place, at[place.partition])
            for batch in polled.batches:
                heard, at[batch.partition] = time.monotonic(), batch.next
                for key, value in zip(batch.keys, batch.values, strict=True):
                    if key is not None and value is not None:
                        found[batch.partition][key] = _decoded(value, f"{topic}/{batch.partition}")
            if sum(map(len, found.values())) > limits.AVERAGES:
                raise too_many(topic)
            if time.monotonic() - heard > PATIENCE_S:
                raise UnavailableError(f"the averages in topic {topic} cannot be read to their end; log.url points to it")
    finally:
        reader.close()
    return found


def _decoded(value: bytes, place: str) -> Average:
    try:
        return _AVERAGE.decode(value)
    except msgspec.MsgspecError as error:
        raise LogError(f"{place} holds a record that is no average ({error}): another version of FeatureFlow wrote it") from error


def too_many(topic: str) -> LogError:
    """One process has more averages to keep than it may."""
    return LogError(
        f"more than {limits.AVERAGES:,} averages of entities fall to this process: start more of `featureflow watch`, as many as topic "
        f"{topic} has partitions at most"
    )
