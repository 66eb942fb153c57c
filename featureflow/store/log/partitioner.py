"""Which partition a record goes to, for the logs that have no broker to say so."""

from __future__ import annotations

import itertools
import zlib

from featureflow.errors import LogError
from featureflow.store.log.protocol import Record


class Partitioner:
    """CRC-32 of the key, round robin without one. One per log, so that its turns are not shared."""

    def __init__(self) -> None:
        self._turn = itertools.count()

    def partition(self, record: Record, partitions: int) -> int:
        """The record's own partition where it names one. Raises LogError where the topic has no such partition."""
        if record.partition is not None:
            if not 0 <= record.partition < partitions:
                raise LogError(f"partition {record.partition} does not exist: the topic has partitions 0 to {partitions - 1}")
            return record.partition
        if record.key is not None:
            return zlib.crc32(record.key) % partitions
        return next(self._turn) % partitions
