"""Records of one partition as columns, however they were decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featureflow.store.log.protocol import TRACE_PARENT, Batch
from featureflow.store.log.slices import Slices

CREATE_TIME = 0                            # Kafka's own number for it
Headers = Iterable[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Columns:
    """n records in offset order, with one kind of timestamp: how the future is judged depends on it."""

    offsets: NDArray[np.int64]             # (n,)
    timestamps_us: NDArray[np.int64]       # (n,)
    sizes: NDArray[np.int64]               # (n,) bytes of key and value
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]
    timestamp_kind: Literal["append", "create"]
    trace_parents: dict[int, str]          # offset -> traceparent, where present

    @classmethod
    def of_records(cls, records: Sequence[Any]) -> Columns:
        """From kafka-python's ConsumerRecords, one by one; ``records`` has at least one, all of one kind of timestamp."""
        count = len(records)
        return cls(
            offsets=np.fromiter((r.offset for r in records), np.int64, count),
            timestamps_us=np.fromiter((r.timestamp for r in records), np.int64, count) * 1000,
            sizes=np.fromiter((len(r.value or b"") + len(r.key or b"") for r in records), np.int64, count),
            values=[r.value for r in records],
            keys=[r.key for r in records],
            timestamp_kind="create" if records[0].timestamp_type == CREATE_TIME else "append",
            trace_parents={r.offset: trace for r in records if r.headers and (trace := trace_parent(r.headers))},
        )

    def __len__(self) -> int:
        return len(self.values)

    def since(self, offset: int) -> Columns:
        """Without the records below ``offset``: a fetch begins with the whole record batch that holds it."""
        start = int(np.searchsorted(self.offsets, offset))
        return self.part(start, len(self)) if start else self

    def part(self, start: int, stop: int) -> Columns:
        """The records from place ``start`` up to ``stop``, sharing memory."""
        return Columns(
            self.offsets[start:stop],
            self.timestamps_us[start:stop],
            self.sizes[start:stop],
            self.values[start:stop],
            self.keys[start:stop],
            self.timestamp_kind,
            self.trace_parents,
        )

    def fit(self, max_records: int, max_bytes: int) -> int:
        """How many records from the first on stay inside both bounds."""
        return min(max_records, len(self), int(np.searchsorted(np.cumsum(self.sizes), max_bytes, side="right")))


def batch_of(source: str, partition: int, first: int, parts: Sequence[Columns]) -> Batch:
    """``parts``: at least one, each with records, in offset order, all of one kind of timestamp."""
    whole = len(parts) == 1
    return Batch(
        source=source,
        partition=partition,
        first=first,
        next=int(parts[-1].offsets[-1]) + 1,
        offsets=parts[0].offsets if whole else np.concatenate([part.offsets for part in parts]),
        timestamps_us=parts[0].timestamps_us if whole else np.concatenate([part.timestamps_us for part in parts]),
        values=parts[0].values if whole else _joined([part.values for part in parts]),
        keys=parts[0].keys if whole else _joined([part.keys for part in parts]),
        timestamp_kind=parts[0].timestamp_kind,
        trace_parents={
            offset: trace
            for part in parts
            for offset, trace in part.trace_parents.items()
            if part.offsets[0] <= offset <= part.offsets[-1]
        },
    )


def trace_parent(headers: Headers) -> str:
    """The value of the ``traceparent`` header, or ''."""
    return next((value.decode("ascii", "replace") for name, value in headers if name == TRACE_PARENT and value), "")


def _joined(parts: Sequence[Sequence[bytes | None]]) -> Sequence[bytes | None]:
    slices = [part for part in parts if isinstance(part, Slices)]
    return Slices.joined(slices) if len(slices) == len(parts) else list(chain.from_iterable(parts))
