"""Payments to fold: who, when, how much, as columns; and as record batches that are built once and sent as they are."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from kafka.record.default_records import DefaultRecordBatchBuilder

SPAN_S = 3600  # event time that the events of a row cover
BATCH_RECORDS = 900  # about 150 kB before compression, as a producer with linger makes them under load
LZ4 = 3


@dataclass(frozen=True)
class Stream:
    """n events in order of event time (int64 microseconds); amounts in cents."""

    users: np.ndarray
    at: np.ndarray
    cents: np.ndarray
    partitions: int = 1
    keyed: bool = True

    @classmethod
    def of(
        cls, count: int, users: int, *, zipf: float = 0.0, partitions: int = 1, keyed: bool = True, span_s: float = SPAN_S, seed: int = 1
    ) -> Stream:
        chance = np.random.default_rng(seed)
        base_us = time.time_ns() // 1000 - int(span_s * 1e6)
        at = base_us + (np.arange(count) * (span_s * 1e6 / count)).astype(np.int64)
        if zipf:
            weights = np.cumsum(np.arange(1, users + 1, dtype=np.float64) ** -zipf)
            who = np.searchsorted(weights, chance.random(count) * weights[-1])
        else:
            who = chance.integers(0, users, count)
        return cls(who, at, chance.integers(1, 100_000, count), partitions, keyed)

    def __len__(self) -> int:
        return len(self.users)

    def partition_of(self) -> np.ndarray:
        """(n,) by the key, or in turn where there is none."""
        return (self.users if self.keyed else np.arange(len(self))) % self.partitions

    def batches(self) -> Iterator[tuple[int, bytes]]:
        """(partition, record batch) in order of event time."""
        where = self.partition_of()
        places = [np.flatnonzero(where == partition) for partition in range(self.partitions)]
        for start in range(0, max(map(len, places)), BATCH_RECORDS):
            for partition, mine in enumerate(places):
                chosen = mine[start : start + BATCH_RECORDS]
                if len(chosen):
                    yield partition, self._batch(chosen)

    def value(self, name: str, user: int, time_us: int, cents: int) -> bytes:
        """A record's value; another kind of stream has another."""
        return body(name, user, time_us, cents)

    def _batch(self, chosen: np.ndarray) -> bytes:
        columns = (self.users[chosen].tolist(), self.at[chosen].tolist(), self.cents[chosen].tolist())
        records = []
        for index, (user, time_us, amount) in enumerate(zip(*columns, strict=True)):
            name = f"user-{user:07d}"
            value = self.value(name, user, time_us, amount)
            key = b"%b%b" % (_varint(len(name)), name.encode()) if self.keyed else b"\x01"
            record = b"\0\0%b%b%b%b\0" % (_varint(index), key, _varint(len(value)), value)
            records.append(_varint(len(record)) + record)
        builder = DefaultRecordBatchBuilder(2, LZ4, False, -1, -1, -1, 1 << 30)
        builder._buffer += b"".join(records)
        now_ms = time.time_ns() // 1_000_000
        builder._first_timestamp = builder._max_timestamp = now_ms
        builder._num_records, builder._last_offset = len(records), len(records) - 1
        return bytes(builder.build())


def body(name: str, user: int, time_us: int, cents: int) -> bytes:
    return (
        f'{{"at":{time_us},"user":"{name}","amount":{cents / 100},"currency":"EUR","channel":"web",'
        f'"merchant":"m-{cents % 997:04d}","terminal":"t-{user % 89:05d}"}}'
    ).encode()


def _varint(number: int) -> bytes:
    """A zig-zag varint of a number that is not negative."""
    number <<= 1
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


class Sender:
    """Record batches to one topic, as they are: a client that makes them of single records needs 40 us for each, and one that speaks for
    each request with a thread of its own ten times what a request costs here."""

    def __init__(self, kafka: str, topic: str) -> None:
        host, _, port = kafka.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._topic, self._sent, self._answered, self._received = topic.encode(), 0, 0, b""

    def send(self, partition: int, records: bytes) -> int:
        """The offset of the first of them."""
        for _ in range(100):               # a topic that was made a moment ago has no leader yet
            self._write(partition, records)
            while (answer := self._taken())[1] is None:
                self._received += self._read()
            error, offset = answer
            if not error:
                assert offset is not None
                return offset
            time.sleep(0.1)
        raise SystemExit(f"the broker refused a record batch of {self._topic.decode()}: error {error}")

    def post(self, partition: int, records: bytes) -> None:
        """Send it behind the others, and look at the answers that are there."""
        self._write(partition, records)
        if select.select([self._socket], [], [], 0)[0]:
            self._received += self._read()
            self._check()

    def close(self) -> None:
        while self._answered < self._sent:
            self._received += self._read()
            self._check()
        self._socket.close()

    def _write(self, partition: int, records: bytes) -> None:
        """Produce, version 3: acknowledged by all replicas, within 10 s."""
        self._sent += 1
        head = struct.pack(">hhih", 0, 3, self._sent, -1) + struct.pack(">hhii", -1, -1, 10_000, 1)
        head += struct.pack(">h", len(self._topic)) + self._topic + struct.pack(">iii", 1, partition, len(records))
        self._socket.sendall(b"".join((struct.pack(">i", len(head) + len(records)), head, records)))

    def _read(self) -> bytes:
        if not (data := self._socket.recv(65_536)):
            raise SystemExit("the broker closed the connection")
        return data

    def _check(self) -> None:
        while (found := self._taken())[1] is not None:
            if found[0]:
                raise SystemExit(f"the broker refused a record batch of {self._topic.decode()}: error {found[0]}")

    def _taken(self) -> tuple[int, int | None]:
        """(error, offset) of the next answer; no offset where it is not there yet."""
        if len(self._received) < 4 or len(self._received) < 4 + (size := struct.unpack_from(">i", self._received)[0]):
            return 0, None
        error, offset = struct.unpack_from(">hq", self._received, 4 + 4 + 4 + 2 + len(self._topic) + 4 + 4)
        self._received, self._answered = self._received[4 + size :], self._answered + 1
        return error, offset


def produce(kafka: str, topic: str, stream: Stream) -> None:
    """All of it, as fast as the broker takes it."""
    sender = Sender(kafka, topic)
    for partition, records in stream.batches():
        sender.send(partition, records)
    sender.close()


def produce_at(kafka: str, topic: str, stream: Stream, per_s: float, ready: Callable[[], object]) -> None:
    """To one partition, 200 batches a second. They are built before ``ready`` is called, which waits until they may be sent: what
    building them costs is a producer's, and the machine is needed for what is measured."""
    every = max(1, int(per_s / 200))
    built = [stream._batch(np.arange(start, min(start + every, len(stream)))) for start in range(0, len(stream), every)]
    sender = Sender(kafka, topic)
    ready()
    began = time.monotonic()
    for number, records in enumerate(built):
        time.sleep(max(0.0, began + number * every / per_s - time.monotonic()))
        sender.post(0, records)
    sender.close()
