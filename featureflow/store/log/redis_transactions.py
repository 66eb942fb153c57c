"""A transaction on Redis Streams: one Lua call. See ``redis_streams`` for the keys of topics, and ``lua/transact.lua``.

    log:{0}:stands:<group>          hash: <topic>:<n> -> where the group stands in partition n

It is refused unless the consumer has the group, and the group stands where the caller believes, so that one whose reply was lost can be
sent again: at most one of the two is applied.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import redis

from featureflow.errors import FencedError, LogError
from featureflow.store.log.partitioner import Partitioner
from featureflow.store.log.protocol import Partition, Record, Transaction
from featureflow.store.log.redis_consumer import RedisStreamsConsumer
from featureflow.store.log.redis_link import command, translated
from featureflow.store.log.redis_names import names, stream_key, topic_key, values


class RedisStreamsTransactions:
    """Made by ``RedisStreamsLog.transactions``. ``identity``: a topic's id and number of partitions; ``forget``: that they are others."""

    def __init__(
        self,
        client: redis.Redis,
        consumer: RedisStreamsConsumer,
        partitioner: Partitioner,
        identity: Callable[[str], tuple[bytes, int]],
        forget: Callable[[str], None],
    ) -> None:
        self._client, self._consumer, self._partitioner, self._identity, self._forget = client, consumer, partitioner, identity, forget
        self._transact = client.register_script((resources.files(__package__) / "lua" / "transact.lua").read_text())
        self._stands = f"log:{{0}}:stands:{consumer.group}"

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        if not partitions:
            return {}
        try:
            found = command(self._client, "HMGET", self._stands, *map(self._field, partitions))
        except redis.RedisError as error:
            raise translated(error, f"where group {self._consumer.group!r} stands cannot be read") from error
        return {partition: int(offset) for partition, offset in zip(partitions, found, strict=True) if offset is not None}

    def commit(self, transaction: Transaction) -> None:
        keys: list[str] = [self._consumer.owner_key, self._stands]
        arguments: list[Any] = [self._consumer.name, len(transaction.moved)]
        for partition, (from_offset, to_offset) in transaction.moved.items():
            arguments += (self._field(partition), "" if from_offset is None else from_offset, to_offset)
        topics = {topic: records for topic, records in transaction.records.items() if records}
        arguments.append(len(topics))
        for topic, records in topics.items():
            self._add(topic, records, keys, arguments)
        try:
            self._transact(keys=keys, args=arguments)
        except redis.RedisError as error:
            if str(error).startswith("FENCED"):
                raise FencedError(f"group {self._consumer.group!r}: {error}") from error
            found = translated(error, "the log cannot commit a transaction", writing=True)
            if isinstance(found, LogError):
                for topic in topics:
                    self._forget(topic)
            raise found from error

    def close(self) -> None:
        pass

    def _field(self, partition: Partition) -> str:
        return f"{self._consumer.topic(partition)}:{partition.partition}"

    def _add(self, topic: str, records: Sequence[Record], keys: list[str], arguments: list[Any]) -> None:
        topic_id, partitions = self._identity(topic)
        chosen = [self._partitioner.partition(record, partitions) for record in records]
        written = sorted(set(chosen))
        keys.append(topic_key(topic))
        arguments += (len(keys), topic_id, len(written))
        for partition in written:
            keys.append(stream_key(topic, partition))
            arguments += (partition, len(keys))
        runs: list[list[Any]] = []
        for stream, partition in enumerate(written, 1):
            own = [r for r, p in zip(records, chosen, strict=True) if p == partition]
            for fields, group in itertools.groupby(own, names):
                run = list(group)
                runs.append([stream, len(fields), len(run), *fields, *(value for record in run for value in values(record))])
        arguments += (len(runs), *itertools.chain.from_iterable(runs))
