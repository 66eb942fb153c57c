"""The event log: partitioned, ordered, re-readable. Kafka in production, Redis Streams embedded, a list in unit tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from featureflow.kernel.decode import Decoded, Decoder

TRACE_PARENT = "traceparent"               # the W3C header that a record may carry


@dataclass(frozen=True)
class Partition:
    """Of a source's topic."""

    source: str
    partition: int


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one partition, in offset order. Offsets may have gaps (compaction, transactions)."""

    source: str
    partition: int
    first: int                             # the offset this poll started from
    next: int                              # the offset the next poll starts from; > every offset here
    offsets: NDArray[np.int64]             # (n,)
    timestamps_us: NDArray[np.int64]       # (n,) the broker's or the producer's, see ``timestamp_kind``
    values: Sequence[bytes | None]         # None: a tombstone
    keys: Sequence[bytes | None]
    timestamp_kind: Literal["append", "create"] = "append"
    trace_parents: dict[int, str] = field(default_factory=dict)   # offset -> W3C traceparent header, where present

    def __len__(self) -> int:
        return len(self.values)

    def decoded_by(self, decoder: Decoder) -> Decoded:
        """What a decoder of the source makes of the records. Raises as ``Decoder.decode`` does."""
        return decoder.decode(
            self.values, self.keys, partition=self.partition, offsets=self.offsets, timestamps_us=self.timestamps_us,
            append_time=self.timestamp_kind == "append",
        )  # fmt: skip

    def until(self, offset: int) -> Batch:
        """The records below ``offset``, as if reading had stopped there."""
        if self.next <= offset:
            return self
        n = int(np.searchsorted(self.offsets, offset))
        return replace(
            self, next=offset, offsets=self.offsets[:n], timestamps_us=self.timestamps_us[:n], values=self.values[:n], keys=self.keys[:n]
        )


@dataclass(frozen=True)
class Assignment:
    """What a poll says about ownership. ``lost`` partitions may already belong to another worker.

    Handle ``revoked`` and ``lost`` before ``assigned``: a partition that was lost and came back stands in both.
    """

    assigned: tuple[Partition, ...] = ()
    revoked: tuple[Partition, ...] = ()
    lost: tuple[Partition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.assigned or self.revoked or self.lost)


@dataclass(frozen=True)
class Polled:
    """Handle ``assignment`` before ``batches``: assigned partitions are paused until the caller seeks them."""

    assignment: Assignment
    batches: tuple[Batch, ...]


@dataclass(frozen=True)
class TopicState:
    """What is compared with the stored offset, so that a recreated or truncated topic is noticed."""

    topic_id: str                          # changes when the topic is recreated
    partitions: int
    beginning: dict[int, int]
    end: dict[int, int]                    # next offset to be written


class Record(Struct, frozen=True):  # a struct is made in a tenth of a dataclass's time, and every score makes one
    """One record to append. ``partition`` None: chosen by the key's hash, round robin without a key."""

    value: bytes
    key: bytes | None = None
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Transaction:
    """What a group makes of what it has read: all of it, or nothing.

    ``records``: by topic, in order. ``moved``: the offset that the group stands at in a partition, None where it has never said so, and the
    one that it moves to.
    """

    records: Mapping[str, Sequence[Record]]
    moved: Mapping[Partition, tuple[int | None, int]]


class Consumer(Protocol):
    """A member of a consumer group, or a reader of all partitions outside of any. Used from one thread."""

    def poll(self, *, timeout_s: float, max_records: int, max_bytes: int) -> Polled:
        """Whatever is there, up to the bounds; waits up to ``timeout_s`` for the first record.

        Raises UnavailableError, LogError, OffsetOutOfRangeError (never resets by itself).
        """
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from ``offset``. Also starts an assigned partition, which is paused until its first seek.

        Does nothing for a partition that is no longer owned: the next poll says so.
        """
        ...

    def pause(self, partition: Partition) -> None:
        """Poll none of its records until ``resume``. It stays owned."""
        ...

    def resume(self, partition: Partition) -> None:
        """Go on where it was paused."""
        ...

    def commit_advisory(self, offsets: dict[Partition, int]) -> None:
        """Tell the log how far this group is, for lag tools. Never read back to resume. Never raises."""
        ...

    def close(self) -> None:
        """Leave the group, if any, at once, so that another member takes over without waiting for a time-out."""
        ...


class Appender(Protocol):
    """What only writes needs of a log."""

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        """As ``Log.append``."""
        ...


class Transactions(Protocol):
    """Appends, and the offsets of a consumer's group, in one atom. Of that consumer, and used from its thread.

    Readers see the records of a transaction once it is committed, and of one that was not, nothing.
    """

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Where the group stands in these partitions of the consumer's, without those where it has never said so.

        What another member, or this one before it died, had under way there is decided by then. Raises UnavailableError.
        """
        ...

    def commit(self, transaction: Transaction) -> None:
        """Append all records and move all offsets, or nothing.

        Raises FencedError where the partitions are others' now, or the group stands elsewhere (nothing was written); UnknownOutcomeError
        where the reply was lost, UnavailableError, LogError. After any of them ``committed`` says what became of it.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; the consumer is the caller's."""
        ...


class Log(Protocol):
    """Administers and appends; hands out consumers."""

    def consumer(self, group: str, sources: dict[str, str], *, member: str | None = None) -> Consumer:
        """A group member for ``{source name: topic}``. ``member`` names it durably (static membership)."""
        ...

    def reader(self, sources: dict[str, str]) -> Consumer:
        """A consumer outside of any group: its first poll assigns all partitions of ``{source name: topic}`` and no later one takes any
        away. What it says with ``commit_advisory`` is not kept."""
        ...

    def transactions(self, consumer: Consumer, name: str) -> Transactions:
        """For a consumer of this log, of a group. ``name``: of this process's own for good, so that what one of the same name left
        unfinished when it died is undone at once, and not after a while."""
        ...

    def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> bool:
        """Create the topic if it is absent. True if it was created. ``compacted``: of each key only the newest record need be kept."""
        ...

    def topic(self, topic: str) -> TopicState:
        """Raises LogError for an unknown topic, UnavailableError."""
        ...

    def check(self, topic: str) -> list[str]:
        """What of the topic's settings costs events, and what to do about it; nothing where there is nothing. Raises as ``topic``."""
        ...

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        """Append durably; (partition, offset) of each record, in order. Raises UnavailableError, LogError."""
        ...

    def ping(self) -> str:
        """The server's name and version, or UnavailableError."""
        ...

    def close(self) -> None:
        """Let go of its connections; what was appended is durable already."""
        ...
