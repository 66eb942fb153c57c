"""A transaction on the log in memory: under its lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featureflow.errors import FencedError
from featureflow.store.log.protocol import Partition, Transaction

if TYPE_CHECKING:
    from featureflow.store.log.memory import MemoryConsumer, MemoryLog


class MemoryTransactions:
    """Made by ``MemoryLog.transactions``."""

    def __init__(self, log: MemoryLog, consumer: MemoryConsumer) -> None:
        self._log, self._consumer = log, consumer

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        stands = self._log.stands.get(self._consumer.group or "", {})
        return {partition: stands[partition] for partition in partitions if partition in stands}

    def commit(self, transaction: Transaction) -> None:
        with self._log.locked:
            if not self._consumer.is_owner():
                raise FencedError(f"group {self._consumer.group!r}: another consumer has it")
            stands = self._log.stands.setdefault(self._consumer.group or "", {})
            for partition, (from_offset, _) in transaction.moved.items():
                if stands.get(partition) != from_offset:
                    raise FencedError(f"{partition} stands at {stands.get(partition)} and not at {from_offset}")
            for topic in transaction.records:
                self._log.topic(topic)
            for topic, records in transaction.records.items():
                self._log.append(topic, records)
            stands.update({partition: to_offset for partition, (_, to_offset) in transaction.moved.items()})

    def close(self) -> None:
        pass
