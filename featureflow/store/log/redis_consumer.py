"""Reading Redis Streams as a group's single owner. See ``redis_streams`` for the keys."""

from __future__ import annotations

import contextlib
import time
import uuid
from importlib import resources
from typing import Any

import numpy as np
import redis

from featureflow.errors import OffsetOutOfRangeError
from featureflow.store.log.protocol import TRACE_PARENT, Assignment, Batch, Partition, Polled
from featureflow.store.log.redis_link import command, translated

LAST = 2**64 - 1                           # XREAD reads what is after an id; this is the last one of an offset
LEASE_MS = 10_000                          # how long an owner that does not poll keeps its group; Kafka's session time-out
BLOCK_MS = 250                             # how long a read waits before it looks whether the group has a newer owner
TRACE_FIELD = b"h:" + TRACE_PARENT.encode()


class RedisStreamsConsumer:
    """Made by ``RedisStreamsLog.consumer``, and without a group by ``RedisStreamsLog.reader``; ``streams``: each partition's stream."""

    def __init__(
        self,
        client: redis.Redis,
        group: str | None,
        topics: dict[str, str],
        streams: dict[Partition, str],
    ) -> None:
        self._client = client
        self.group = self._group = group
        self._topics = topics
        self._streams = streams
        self.name = self._name = uuid.uuid4().hex.encode()
        self._owner_key = f"log:{{0}}:owner:{group}" if group is not None else None
        folder = resources.files(__package__) / "lua"
        self._hold = client.register_script((folder / "hold.lua").read_text())
        self._release = client.register_script((folder / "release.lua").read_text())
        self._owned: dict[Partition, str] = {}
        self._next: dict[Partition, int] = {}              # sought, or read to; absent: not started
        self._paused: set[Partition] = set()
        self._record_bytes: dict[Partition, float] = {}    # about how large a record is, to ask for no more than fits
        self._told = False
        if self._owner_key is not None:
            client.set(self._owner_key, self._name, px=LEASE_MS)

    def poll(self, *, timeout_s: float, max_records: int, max_bytes: int) -> Polled:
        until = time.monotonic() + timeout_s
        try:
            while True:
                if assignment := self._assignment():
                    return Polled(assignment, ())
                if batches := self._read(0, max_records, max_bytes):
                    return Polled(Assignment(), batches)
                left_ms = int((until - time.monotonic()) * 1000)
                if left_ms <= 0:
                    return Polled(Assignment(), ())
                if batches := self._read(min(left_ms, BLOCK_MS), max_records, max_bytes):
                    return Polled(Assignment(), batches)
        except redis.RedisError as error:
            raise translated(error, _unread(self._group)) from error

    def seek(self, partition: Partition, offset: int) -> None:
        if partition in self._owned:
            self._next[partition] = offset

    def pause(self, partition: Partition) -> None:
        self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        self._paused.discard(partition)

    def commit_advisory(self, offsets: dict[Partition, int]) -> None:
        if self._group is None:
            return
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for partition, offset in offsets.items():
                    groups = f"log:{{0}}:{self._topics[partition.source]}:groups"
                    pipeline.hset(groups, f"{self._group}:{partition.partition}", offset)
                pipeline.execute()
        except redis.RedisError:           # for lag tools only: the next one says the same and more
            return

    @property
    def owner_key(self) -> str:
        """Where the name of the consumer stands that has the group."""
        assert self._owner_key is not None, "it is of a group"
        return self._owner_key

    def topic(self, partition: Partition) -> str:
        """Of this partition."""
        return self._topics[partition.source]

    def close(self) -> None:
        if self._owner_key is not None:
            with contextlib.suppress(redis.RedisError):    # the lease runs out all the same
                self._release(keys=[self._owner_key], args=[self._name])
        self._owned = {}
        self._client.close()

    def _assignment(self) -> Assignment:
        if self._owner_key is not None and not self._hold(keys=[self._owner_key], args=[self._name, LEASE_MS, LEASE_MS * 2 // 3]):
            lost, self._owned, self._next, self._told = tuple(self._owned), {}, {}, False
            return Assignment(lost=lost)
        if self._told:
            return Assignment()
        self._told = True
        self._paused.clear()
        self._owned = dict(self._streams)
        return Assignment(assigned=tuple(self._owned))

    def _read(self, block_ms: int, max_records: int, max_bytes: int) -> tuple[Batch, ...]:
        reading = {p: offset for p, offset in self._next.items() if p not in self._paused}
        if not reading:
            time.sleep(block_ms / 1000)
            return ()
        fit = max_bytes / max(1.0, max(self._record_bytes.get(partition, 0.0) for partition in reading))
        count = max(1, min(max_records, int(fit)) // len(reading))
        words: list[Any] = ["XREAD", "COUNT", count, *(["BLOCK", block_ms] if block_ms else []), "STREAMS"]
        words += [self._owned[partition] for partition in reading]
        words += [f"{offset - 1}-{LAST}" if offset else "0-0" for offset in reading.values()]
        replies = dict(command(self._client, *words) or ())
        if not replies and not block_ms:
            self._refuse_beyond_end(reading)
        batches: list[Batch] = []
        for partition, first in reading.items():
            if entries := replies.get(self._owned[partition].encode()):
                batch, size = self._batch(partition, first, entries, max_bytes, at_least=0 if batches else 1)
                max_bytes -= size
                if len(batch):
                    batches.append(batch)
                    self._next[partition] = batch.next
        return tuple(batches)

    def _batch(
        self, partition: Partition, first: int, entries: list[Any], max_bytes: int, *, at_least: int
    ) -> tuple[Batch, int]:
        values: list[bytes | None] = []
        keys: list[bytes | None] = []
        timestamps: list[int] = []
        traces: dict[int, str] = {}
        size = 0
        for identity, fields in entries:
            offset, timestamp = identity.split(b"-")
            if int(offset) != first + len(values):
                raise self._out_of_range(partition, first + len(values), f"it goes on at {int(offset)}")
            key, value = (None, fields[1]) if fields[0] == b"v" else (fields[1], fields[3])
            size += len(value) + len(key or b"")
            if size > max_bytes and len(values) >= at_least:
                break
            if TRACE_FIELD in fields[2::2]:
                traces[int(offset)] = fields[fields.index(TRACE_FIELD) + 1].decode("ascii", "replace")
            values.append(value)
            keys.append(key)
            timestamps.append(int(timestamp))
        if values:
            self._record_bytes[partition] = size / len(values)
        batch = Batch(
            source=partition.source,
            partition=partition.partition,
            first=first,
            next=first + len(values),
            offsets=np.arange(first, first + len(values), dtype=np.int64),
            timestamps_us=np.array(timestamps, dtype=np.int64),
            values=values,
            keys=keys,
            trace_parents=traces,
        )
        return batch, size

    def _refuse_beyond_end(self, reading: dict[Partition, int]) -> None:
        """An offset that was never given out: the topic was recreated, or the server lost its last second."""
        with self._client.pipeline(transaction=False) as pipeline:
            for partition in reading:
                pipeline.hget(f"log:{{0}}:{self._topics[partition.source]}", f"next:{partition.partition}")
            ends = pipeline.execute()
        for (partition, offset), end in zip(reading.items(), ends, strict=True):
            if offset > int(end or 0):
                raise self._out_of_range(partition, offset, f"it ends at {int(end or 0)}")
            if offset < int(end or 0) and not command(self._client, "XRANGE", self._owned[partition], offset, "+", "COUNT", 1):
                raise self._out_of_range(partition, offset, "its records are gone")

    def _out_of_range(self, partition: Partition, offset: int, found: str) -> OffsetOutOfRangeError:
        return OffsetOutOfRangeError(
            f"{self._topics[partition.source]}/{partition.partition}: offset {offset} is not in the log: {found}"
        )


def _unread(group: str | None) -> str:
    return "the log's past cannot be read" if group is None else f"the log cannot be read by group {group!r}"
