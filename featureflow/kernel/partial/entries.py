"""The n best entries of events by a rank.

An entry is a run of int64 columns: what it is ranked by, then what it keeps of its event. The lexicographically greatest ranks win.
The ranks hold the event's time and position, so no two events tie, and which entries are the best of a set does not depend on how
the set was cut. An entry whose first rank is ``LOWEST`` is empty: no time, no complement of one and no number's code is as low.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Aggregation, Expr, Payload
from featureflow.errors import StateError
from featureflow.kernel import text
from featureflow.kernel.exact import Float, Int
from featureflow.kernel.expression import evaluate
from featureflow.kernel.partial.base import LOWEST, Merge, Partial
from featureflow.limits import NUMBER_ABS

OFFSET_BITS = 48


@dataclass(frozen=True, repr=False)
class Entries(Partial):
    """The ``size`` best entries. ``payload`` empty: each keeps ``value``, a number; else these.

    Where an entry keeps several values ``value`` is None: an event participates by ``where`` alone, and what is null is null there.
    """

    size: int = 1
    payload: tuple[Payload, ...] = ()
    vector: int = 0                        # an entry keeps ``value``, so many numbers

    merge = Merge.BEST
    ranks: ClassVar[tuple[str, ...]]  # names of the rank columns
    expires: ClassVar[bool] = False  # an entry's own event time says how long it counts

    @classmethod
    def of(cls, declared: Aggregation) -> Self:
        return cls(None if declared.entry else declared.value, declared.where, declared.size, payload_of(declared), declared.vector)

    def __repr__(self) -> str:
        """Part of what a layout's id is made of: what has its default is left out, so that a new field renames no old state."""
        told = [f.name for f in fields(self) if f.name in ("value", "where", "size") or getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in told)})"

    def rank(self, times: Int, positions: Int, columns: Mapping[str, NDArray[Any]]) -> tuple[Int, ...]:
        """The rank columns of events at these times and positions."""
        raise NotImplementedError

    def times(self, entries: Int) -> Int:
        """Event times of entries (..., width); something below every time where one is empty."""
        raise NotImplementedError

    @property
    def exprs(self) -> tuple[Expr | None, ...]:
        return (*super().exprs, *(payload.value for payload in self.payload))

    @cached_property
    def width(self) -> int:
        """Columns of one entry."""
        return len(self.ranks) + (self.vector or sum(_columns(p) for p in self._payload))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        kept = [f"value{k}_{name}" for k, p in enumerate(self.payload) for name in range(_columns(p))]
        kept = kept or [f"value_{i}" for i in range(self.vector)] or ["value"]
        return tuple(f"{name}_{i}" for i in range(self.size) for name in (*self.ranks, *kept))

    @property
    def identity(self) -> tuple[int, ...]:
        return tuple(self.empty.tolist()) * self.size

    @cached_property
    def empty(self) -> Int:
        """(width,) an entry of no event."""
        entry = np.zeros(self.width, np.int64)
        entry[0] = LOWEST
        for p, span in zip(self._payload, self._spans, strict=True):
            if p.width:
                entry[span.stop - 1] = text.NULL
        return entry

    def entries(self, times: Int, positions: Int, values: Float, columns: Mapping[str, NDArray[Any]]) -> Int:
        """(n, width) one entry per event, of those that participate. ``values`` (n,) as ``lift`` gets them."""
        n = len(times)
        found = np.empty((n, self.width), np.int64)
        for i, rank in enumerate(self.rank(times, positions, columns)):
            found[:, i] = rank
        if self.vector:
            assert self.value is not None
            found[:, len(self.ranks):] = np.ascontiguousarray(evaluate(self.value, columns, n)).view(np.int64)
            return found
        if not self.payload:
            found[:, -1] = values.view(np.int64)
            return found
        for p, span in zip(self.payload, self._spans, strict=True):
            kept = evaluate(p.value, columns, n)
            if p.width:
                found[:, span] = text.pack(kept, p.width)
            else:
                number = np.asarray(kept, np.float64)
                found[:, span.start] = np.where(np.abs(number) < NUMBER_ABS, number, np.nan).view(np.int64)
        return found

    def kept(self, entries: Int, place: int = 0) -> NDArray[Any]:
        """The values (...,) of entries (..., width): float64, NaN where there is none; or strings as objects, None where there is none.

        ``place``: of which payload. Of vectors: (..., vector), of the first entry.
        """
        if self.vector:
            vector = np.ascontiguousarray(entries[..., 0, len(self.ranks):]).view(np.float64)
            return np.where(entries[..., 0, :1] == LOWEST, np.nan, vector)
        p, span = self._payload[place], self._spans[place]
        if p.width:
            return text.unpack(entries[..., span])
        number = np.ascontiguousarray(entries[..., span.start]).view(np.float64)
        return np.where(entries[..., 0] == LOWEST, np.nan, number)

    def best(self, segment: Int, entries: Int, segments: int) -> Int:
        """The best entries of each segment, best first, as rows (segments, size * width).

        ``entries`` (n, width) in any order, ``segment`` (n,) which segment each belongs to.
        """
        size, width = self.size, self.width
        out = np.empty((segments, size, width), np.int64)
        out[:] = self.empty
        filled = entries[:, 0] != LOWEST
        if not filled.all():
            segment, entries = segment[filled], entries[filled]
        if len(entries):
            # Sorted ascending, and ranked from each segment's end: the newest entries mostly come in that order already.
            order = np.lexsort((*(entries[:, i] for i in range(len(self.ranks) - 1, -1, -1)), segment))
            segment = segment[order]
            ends = np.searchsorted(segment, segment, side="right")
            rank = ends - 1 - np.arange(len(segment))
            kept = rank < size
            out[segment[kept], rank[kept]] = entries[order[kept]]
        return out.reshape(segments, size * width)

    @property
    def _payload(self) -> tuple[Payload, ...]:
        return self.payload or _NUMBER

    @cached_property
    def _spans(self) -> tuple[slice, ...]:
        at, spans = len(self.ranks), []
        for p in self._payload:
            spans.append(slice(at, at + _columns(p)))
            at += _columns(p)
        return tuple(spans)


def payload_of(declared: Aggregation) -> tuple[Payload, ...]:
    """What an entry keeps, where it is not one number."""
    if declared.entry or not declared.width:
        return declared.entry
    assert declared.value is not None
    return (Payload(declared.value, declared.width),)


def position(partition: int | Int, offsets: Int) -> Int:
    """(partition, offset) as one int64 that orders like the pair. ``partition`` of all, or (n,) of each.

    Raises StateError for a partition beyond 2^15 or an offset beyond 2^48.
    """
    highest = partition if isinstance(partition, int) else int(partition.max(initial=0))
    if highest >= 1 << (63 - OFFSET_BITS) or (len(offsets) and int(offsets.max()) >= 1 << OFFSET_BITS):
        raise StateError(
            f"partition {highest} reaches offset {offsets.max()}; entries keep positions below partition 2^15 and offset 2^48. "
            "Move the source to a topic within these bounds"
        )
    return (partition << OFFSET_BITS) | offsets


_NUMBER = (Payload(None),)  # type: ignore[arg-type]  # stands for ``value``, which is never looked for there


def _columns(payload: Payload) -> int:
    return text.words(payload.width) + 1 if payload.width else 1
