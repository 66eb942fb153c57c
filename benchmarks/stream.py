"""Payments to fold: who, when, how much, as columns; and as record batches that are built once and sent as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from kafka.net.compat import KafkaNetClient
from kafka.protocol.producer import ProduceRequest
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
    """Record batches to one topic, as they are: a client that makes them of single records needs 40 us for each."""

    def __init__(self, kafka: str, topic: str) -> None:
        self._topic = topic
        self._client = KafkaNetClient(bootstrap_servers=kafka)
        self._client.get_broker_version(10_000)
        (self._node,) = [broker.node_id for broker in self._client.cluster.brokers()]

    def send(self, partition: int, records: bytes) -> int:
        """The offset of the first of them."""
        data = ProduceRequest.TopicProduceData
        request = ProduceRequest(
            transactional_id=None, acks=-1, timeout_ms=10_000,
            topic_data=[data(name=self._topic, partition_data=[data.PartitionProduceData(index=partition, records=records)])],
            min_version=3, max_version=9,
        )  # fmt: skip
        for _ in range(100):               # a topic that was made a moment ago has no leader yet
            (answer,) = self._client.send_and_receive(self._node, request).responses[0].partition_responses
            if not answer.error_code:
                return int(answer.base_offset)
            time.sleep(0.1)
        raise SystemExit(f"the broker refused a record batch of {self._topic}: {answer}")

    def close(self) -> None:
        self._client._manager.close()


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
        sender.send(0, records)
    sender.close()
