"""The log as Redis Streams: what runs where there is no Kafka.

    log:{0}:<topic>                 hash: id, partitions, next:<n> (the offset that partition n's next record gets)
    log:{0}:<topic>:<n>             stream: one entry per record, its id is OFFSET-MICROSECONDS, its fields k, v and h:<header>
    log:{0}:<topic>:groups          hash: <group>:<n> -> how far that group is (advisory)
    log:{0}:stands:<group>          hash: where the group's transactions have moved it (``redis_transactions``)
    log:{0}:owner:<group>           the random name of the consumer that has the group, for as long as its lease

It has a single owner per group: the newest consumer has all partitions, and the one before it hears at its next poll that
it lost them. When the owner leaves, or dies and its lease runs out, one that is still there has them again.

Offsets have no gaps, so a gap that is read means that records were deleted.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, TypeVar

import redis

from featureflow.errors import LogError
from featureflow.store.log.partitioner import Partitioner
from featureflow.store.log.protocol import Consumer, Partition, Record, TopicState
from featureflow.store.log.redis_consumer import RedisStreamsConsumer
from featureflow.store.log.redis_link import command, connect, translated
from featureflow.store.log.redis_names import names, stream_key, topic_key, values
from featureflow.store.log.redis_transactions import RedisStreamsTransactions

APPEND_RECORDS = 500                       # in one Lua call: other clients wait for it

T = TypeVar("T")


class RedisStreamsLog:
    """``url`` as redis-py reads it (redis://, rediss://, unix://). Nothing is ever trimmed: a view that comes later is folded
    from the log's beginning."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._partitioner = Partitioner()
        self._client = connect(url)
        folder = resources.files(__package__) / "lua"
        self._create = self._client.register_script((folder / "create_topic.lua").read_text())
        self._append = self._client.register_script((folder / "append.lua").read_text())
        self._known: dict[str, tuple[bytes, int]] = {}     # topic -> (id, partitions)

    def consumer(self, group: str, sources: dict[str, str], *, member: str | None = None) -> RedisStreamsConsumer:
        return self._consumer(group, sources)

    def reader(self, sources: dict[str, str]) -> RedisStreamsConsumer:
        return self._consumer(None, sources)

    def _consumer(self, group: str | None, sources: dict[str, str]) -> RedisStreamsConsumer:
        partitions = {source: self.topic(topic).partitions for source, topic in sources.items()}
        owned = {
            Partition(source, number): stream_key(sources[source], number)
            for source, count in partitions.items()
            for number in range(count)
        }
        return self._call(
            "be read" if group is None else "join a group",
            lambda: RedisStreamsConsumer(connect(self._url), group, dict(sources), owned),
        )

    def transactions(self, consumer: Consumer, name: str) -> RedisStreamsTransactions:
        assert isinstance(consumer, RedisStreamsConsumer), "a consumer of this log"
        return RedisStreamsTransactions(
            self._client, consumer, self._partitioner, self._identity, self._forget
        )

    def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> bool:
        """``compacted`` or not, nothing is ever deleted."""
        if partitions < 1:
            raise LogError(f"topic {topic!r} needs at least one partition, not {partitions}")
        self._known.pop(topic, None)
        made = self._call(
            f"create topic {topic!r}",
            lambda: self._create(keys=[topic_key(topic)], args=[uuid.uuid4().hex, partitions]),
        )
        return bool(made)

    def topic(self, topic: str) -> TopicState:
        def ask() -> TopicState:
            flat = command(self._client, "HGETALL", topic_key(topic))
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            if not fields:
                raise LogError(f"topic {topic!r} does not exist; create it, or let 'featureflow apply' do so")
            numbers = range(int(fields[b"partitions"]))
            with self._client.pipeline(transaction=False) as pipeline:
                for number in numbers:
                    command(pipeline, "XRANGE", stream_key(topic, number), "-", "+", "COUNT", 1)
                first = pipeline.execute()
            end = {number: int(fields[b"next:%d" % number]) for number in numbers}
            return TopicState(
                topic_id=fields[b"id"].decode(),
                partitions=len(numbers),
                beginning={n: int(first[n][0][0].split(b"-")[0]) if first[n] else end[n] for n in numbers},
                end=end,
            )

        return self._call(f"describe topic {topic!r}", ask)

    def check(self, topic: str) -> list[str]:
        """Whether the server may lose records: it sets every timestamp itself."""
        self.topic(topic)
        info = self._call("answer", lambda: self._client.info("everything"))
        found = []
        if str(info["maxmemory_policy"]).startswith("allkeys"):      # streams have no time to live, which the others go by
            found.append(
                f"the server of log.url has maxmemory-policy {info['maxmemory_policy']}, which deletes whole streams of events: set "
                "`maxmemory-policy noeviction` in redis.conf, or CONFIG SET it"
            )
        if not int(info["aof_enabled"]):
            found.append(
                "the server of log.url has appendonly off, so events that came after the last snapshot are gone at a restart: set "
                "`appendonly yes` and `appendfsync everysec`"
            )
        return found

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        """In one atom per 500 records. Never sent twice: a lost reply is UnknownOutcomeError."""
        places: list[tuple[int, int]] = []
        for start in range(0, len(records), APPEND_RECORDS):
            places += self._append_some(topic, records[start : start + APPEND_RECORDS])
        return places

    def _append_some(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        topic_id, partitions = self._identity(topic)
        chosen = [self._partitioner.partition(record, partitions) for record in records]
        written = sorted(set(chosen))
        arguments: list[Any] = [topic_id, len(written), *written]
        for stream, partition in enumerate(written, 1):
            own = records if len(written) == 1 else [r for r, p in zip(records, chosen, strict=True) if p == partition]
            for fields, run in itertools.groupby(own, names):
                found = [value for record in run for value in values(record)]
                arguments += (stream, len(fields), len(found) // len(fields), *fields, *found)
        keys = [topic_key(topic), *(stream_key(topic, partition) for partition in written)]
        try:
            first = self._call(
                f"append to topic {topic!r}", lambda: self._append(keys=keys, args=arguments), writing=True
            )
        except LogError:
            self._known.pop(topic, None)   # recreated: the next append asks for its new id
            raise
        upcoming = {partition: itertools.count(offset) for partition, offset in zip(written, first, strict=True)}
        return [(partition, next(upcoming[partition])) for partition in chosen]

    def ping(self) -> str:
        def ask() -> str:
            told = self._client.info("server")
            name = "Valkey" if told.get("server_name") == "valkey" else "Redis"
            return f"{name} {told.get('valkey_version') or told['redis_version']} (streams)"

        return self._call("answer", ask)

    def close(self) -> None:
        self._client.close()

    def _forget(self, topic: str) -> None:
        self._known.pop(topic, None)

    def _identity(self, topic: str) -> tuple[bytes, int]:
        if topic not in self._known:
            state = self.topic(topic)
            self._known[topic] = state.topic_id.encode(), state.partitions
        return self._known[topic]

    def _call(self, what: str, do: Callable[[], T], *, writing: bool = False) -> T:
        try:
            return do()
        except redis.RedisError as error:
            raise translated(error, f"the log cannot {what}", writing=writing) from error
