"""kafka-python's records of one partition as a ``Batch``."""

from __future__ import annotations

from typing import Any

import numpy as np

from featureflow.store.log.protocol import TRACE_PARENT, Batch

CREATE_TIME = 0


def cut(records: list[Any], max_bytes: int, *, at_least: int) -> tuple[list[Any], list[Any], int]:
    """(what one batch may take, the rest, the bytes left): up to ``max_bytes``, and only one kind of timestamp.

    How the future is judged depends on the kind, record by record; a batch has one kind, so it ends where the kind changes.
    """
    kind = records[0].timestamp_type
    taken = 0
    for record in records:
        max_bytes -= max(record.serialized_value_size, 0) + max(record.serialized_key_size, 0)
        if (max_bytes < 0 and taken >= at_least) or record.timestamp_type != kind:
            break
        taken += 1
    return records[:taken], records[taken:], max_bytes


def batch_of(source: str, partition: int, first: int, records: list[Any]) -> Batch:
    """``records``: at least one, in offset order, of one kind of timestamp. Kafka's milliseconds become microseconds."""
    count = len(records)
    return Batch(
        source=source,
        partition=partition,
        first=first,
        next=records[-1].offset + 1,
        offsets=np.fromiter((r.offset for r in records), np.int64, count),
        timestamps_us=np.fromiter((r.timestamp for r in records), np.int64, count) * 1000,
        values=[r.value for r in records],
        keys=[r.key for r in records],
        timestamp_kind="create" if records[0].timestamp_type == CREATE_TIME else "append",
        trace_parents={r.offset: trace for r in records if r.headers and (trace := _trace_parent(r.headers))},
    )


def _trace_parent(headers: list[tuple[str, bytes | None]]) -> str:
    return next((value.decode("ascii", "replace") for name, value in headers if name == TRACE_PARENT and value), "")
