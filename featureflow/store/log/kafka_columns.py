"""Kafka's record batches (format 2) decoded whole, by numpy, instead of record by record.

A record is ``length, attributes, timestamp delta, offset delta, key, value, headers`` with zig-zag varints (Kafka's protocol guide,
"Record batch"). Python only hops from length to length; numpy decodes the fields of all records at once. A 150-byte record, lz4,
batches of about 120: 1.1 us of CPU from the socket to the columns, where the public path takes 8.

One of the three places that build on kafka-python's private parts (``kafka_joins``, ``kafka_fetches``): ``Fetcher.PartitionRecords``, and a
batch's ``_maybe_uncompress``, ``_buffer`` and ``_pos``. Checksums, aborted transactions, control batches and positions stay
kafka-python's own: each batch is handed on as if it were one record whose value is the batch. The contract tests run with and without this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow.errors import LogError
from featureflow.store.log.columns import CREATE_TIME, Columns, trace_parent
from featureflow.store.log.slices import Slices

FORMAT = 2
VARINT_BITS = 64


def decode_whole_batches(consumer: Any) -> bool:
    """Have this kafka-python consumer's ``poll`` return one record per batch, its value a ``WholeBatch``.

    False, a warning, and nothing changed, where kafka-python does not have the parts that this builds on.
    """
    stock = getattr(getattr(consumer, "_fetcher", None), "PartitionRecords", None)
    if stock is None or not hasattr(stock, "_unpack_records"):
        structlog.get_logger("featureflow.log").warning(
            "records_one_by_one", problem="kafka-python has other parts than FeatureFlow builds on: reading costs several times the CPU"
        )
        return False

    class WholeBatches(stock):  # type: ignore[misc,valid-type]  # kafka-python has no type information
        def _unpack_records(self, place: Any, records: Any, *deserializers: Any) -> Iterator[Any]:
            unpacked: Iterator[Any] = super()._unpack_records(place, _Batches(records), *deserializers)
            return unpacked

    consumer._fetcher.PartitionRecords = WholeBatches
    return True


class _Batches:
    """kafka-python's MemoryRecords, each data batch of format 2 in a wrapping."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if batch is None or batch.magic != FORMAT or batch.is_control_batch:
            return batch
        return _Batch(batch)


class _Batch:
    """A batch that iterates as one record."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[_Record]:
        if self._batch.records_count > 0:  # compaction can leave an empty one
            yield _Record(self._batch)


@dataclass(frozen=True)
class WholeBatch:
    """One record batch, checked and decompressed, its records not yet looked at."""

    data: bytes | bytearray
    position: int                          # where the records begin in ``data``
    count: int
    base_offset: int
    first_timestamp_ms: int
    max_timestamp_ms: int
    appended: bool                         # the broker's timestamp (max_timestamp), not the producers'

    def __len__(self) -> int:
        return len(self.data)              # kafka-python asks for a value's bytes


class _Record:
    """What kafka-python asks of a record, for a whole batch. ``offset`` is the last one's."""

    key = None
    headers = ()
    checksum = None

    def __init__(self, batch: Any) -> None:
        batch._maybe_uncompress()
        self.timestamp_type = batch.timestamp_type
        self.timestamp = batch.max_timestamp
        self.offset = batch.last_offset
        self.size_in_bytes = batch.size_in_bytes
        self.value = WholeBatch(
            batch._buffer,
            batch._pos,
            batch.records_count,
            batch.base_offset,
            batch.first_timestamp,
            batch.max_timestamp,
            batch.timestamp_type != CREATE_TIME,
        )

    def validate_crc(self) -> bool:
        return True                        # the batch's has been checked


def decode(batches: Sequence[WholeBatch]) -> Columns:
    """The records of consecutive batches, all of one kind of timestamp, in one go: numpy's cost is per call.

    Raises LogError where a batch is malformed though its checksum holds.
    """
    counts = np.array([batch.count for batch in batches])
    shifts = np.cumsum([0, *(len(batch.data) for batch in batches[:-1])]).repeat(counts)
    try:
        return _decode(
            b"".join([batch.data for batch in batches]),
            np.fromiter(chain.from_iterable(map(_hop, batches)), np.int64, len(shifts)) + shifts,
            np.array([batch.base_offset for batch in batches]).repeat(counts),
            np.array([b.max_timestamp_ms if b.appended else b.first_timestamp_ms for b in batches]).repeat(counts),
            appended=batches[0].appended,
        )
    except (IndexError, ValueError) as error:
        raise LogError(f"the record batches from offset {batches[0].base_offset} on are malformed: {error}") from error


def _hop(batch: WholeBatch) -> list[int]:
    """Where each record begins, with its length: nearly always one byte or two."""
    data, position, places = batch.data, batch.position, []
    try:
        for _ in range(batch.count):
            places.append(position)
            length = data[position]
            if length < 128:
                position += 1 + (length >> 1)                      # zig-zag; a length is not negative
            elif (more := data[position + 1]) < 128:
                position += 2 + (more << 6) + ((length - 128) >> 1)
            else:
                length, position = _varint(data, position)
                position += max(length, 0)                         # a negative one does not fit its fields either
    except (IndexError, ValueError):
        position = -1
    if position != len(data):
        raise LogError(f"the record batch at offset {batch.base_offset} is malformed: its records do not fill it")
    return places


def _decode(
    data: bytes,
    places: NDArray[np.int64],
    base_offsets: NDArray[np.int64],
    base_timestamps_ms: NDArray[np.int64],
    *,
    appended: bool,
) -> Columns:
    raw = np.frombuffer(data, np.uint8)
    lengths, starts = _varints(raw, places)
    ends = starts + lengths
    time_deltas, at = _varints(raw, starts + 1)
    offset_deltas, at = _varints(raw, at)
    key_sizes, key_starts = _varints(raw, at)
    key_bytes = np.maximum(key_sizes, 0)
    value_sizes, value_starts = _varints(raw, key_starts + key_bytes)
    value_bytes = np.maximum(value_sizes, 0)
    header_counts, at = _varints(raw, value_starts + value_bytes)
    if np.any(at > ends) or np.any((header_counts == 0) & (at != ends)) or np.any(header_counts < 0):
        raise ValueError("a record's fields do not fill it")
    offsets = base_offsets + offset_deltas
    milliseconds = base_timestamps_ms if appended else base_timestamps_ms + time_deltas
    return Columns(
        offsets=offsets,
        timestamps_us=milliseconds * 1000,
        sizes=key_bytes + value_bytes,
        values=Slices([(data, value_starts, value_starts + value_sizes)]),
        keys=Slices([(data, key_starts, key_starts + key_sizes)]),
        timestamp_kind="append" if appended else "create",
        trace_parents={
            int(offsets[index]): trace
            for index in np.flatnonzero(header_counts)
            if (trace := trace_parent(_headers(data, int(at[index]), int(header_counts[index]), int(ends[index]))))
        },
    )


def _varints(raw: NDArray[np.uint8], at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One zig-zag varint at each place, and the places after them."""
    byte = raw[at]
    value = (byte & 127).astype(np.uint64)
    after = at + 1
    going = np.flatnonzero(byte >= 128)
    shift = 7
    while len(going):
        if shift >= VARINT_BITS:
            raise ValueError("a varint is longer than 64 bits")
        byte = raw[after[going]]
        value[going] |= (byte & 127).astype(np.uint64) << np.uint64(shift)
        after[going] += 1
        going = going[byte >= 128]
        shift += 7
    return (value >> np.uint64(1)).view(np.int64) ^ -(value & np.uint64(1)).view(np.int64), after


def _headers(data: bytes, position: int, count: int, end: int) -> list[tuple[str, bytes | None]]:
    """Few records have any, so one by one."""
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size, position = _varint(data, position)
        name = data[position : position + size].decode()
        position += size
        size, position = _varint(data, position)
        headers.append((name, data[position : position + size] if size >= 0 else None))
        position += max(size, 0)
    if position != end:
        raise ValueError("a record's headers do not fill it")
    return headers


def _varint(data: bytes | bytearray, position: int) -> tuple[int, int]:
    [value], [after] = _varints(np.frombuffer(data, np.uint8), np.array([position], dtype=np.int64))
    return int(value), int(after)
