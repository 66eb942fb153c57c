"""An entity's state as its events, while they are few.

Rows and cells grow with a view's aggregations, and each event of a sparse entity makes a row of its own. So until it has many events a
state value holds the events themselves, as far as the view reads them, from which the rows and cells are made wherever it is read: by
the same fold, so to the same bits. Little-endian:

    format u16 = 2 | levels u8 | 0 u8 | owner i32 | layout id u64 | horizon i64 | time i64 | offset i64 | events

``time`` and ``offset`` are what those of the events are counted from; events that no window can hold at ``horizon`` may have been
dropped. An event is

    bytes u8 | kinds, four bits each: of its time, its offset, and each of the layout's fields by name, strings last | their bytes

A kind says what stands there: nothing (null), a whole number, a multiple of 1/100 or a float64 of so many bytes, or a string with its
length in one byte before it. A number is kept in the fewest bytes from which it comes back to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.columns import Layout, Rows
from featureflow.kernel.events import Events, Gathered
from featureflow.kernel.fold import lift_rows, merge
from featureflow.kernel.tile import LIFETIME_US, floor

FORMAT = 2
HEADER = np.dtype([
    ("format", "<u2"), ("levels", "u1"), ("reserved", "u1"), ("owner", "<i4"), ("layout", "<u8"), ("horizon", "<i8"),
    ("time_us", "<i8"), ("offset", "<i8"),
])  # fmt: skip
MARK = FORMAT.to_bytes(2, "little")        # what such a value begins with
OWN = 2                                    # kinds before the fields': of time and offset
BYTES = 255                                # of one event, at most

# Kinds: 0 null, 1 to 7 a whole number of so many bytes, 8 a float64 (of times and offsets a whole number), 9 to 14 a number of hundredths
# of one byte, two ..., 15 a string.
FLOAT, HUNDREDTHS, TEXT = 8, 9, 15
SIZES = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 0], np.int64)
MASKS = np.array([(1 << (8 * size)) - 1 for size in SIZES.tolist()], np.uint64)
DIVISORS = np.array([np.nan if kind == 0 else 100.0 if HUNDREDTHS <= kind < TEXT else 1.0 for kind in range(16)])   # 0 / nan: a null
PAIRS = np.array([(kinds & 15, kinds >> 4) for kinds in range(256)], np.uint8)   # the two kinds in a byte
WHOLE_ABS, HUNDREDTHS_ABS = 2.0**52, 2.0**46
_BOUNDS = np.array([1 << (8 * k) for k in range(1, 8)], np.uint64)

Index = NDArray[np.intp]
Int = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Kept:
    """k events read from b state values, value after value."""

    of: Index                              # (k,) the value that each is from
    events: Gathered
    starts: Index                          # (k,) where each begins, were the values one after the other
    sizes: Index                           # (k,) its bytes


def takes(layout: Layout) -> bool:
    """Whether a layout's states can be events at all: vectors are not kept so."""
    return not layout.vectors.intersection(layout.read)


def encode(layout: Layout, events: Events, at: Index, since_us: Int, since_offset: Int) -> tuple[Bytes, Int]:
    """The bytes of the events at these places (k,), one after the other, and how many are of each (k,).

    Times and offsets are counted from ``since_us`` and ``since_offset`` (k,). The bytes of an event of over ``BYTES`` mean nothing: it
    cannot be kept so.
    """
    numbers, texts = _fields(layout)
    k, many = len(at), OWN + len(numbers)
    payload, kinds = np.zeros((k, many), np.uint64), np.zeros((k, many + len(texts)), np.uint8)
    for i, own in enumerate((events.times_us[at] - since_us, events.offsets[at] - since_offset)):
        payload[:, i] = _zigzag(own)
        kinds[:, i] = 1 + np.searchsorted(_BOUNDS, payload[:, i], side="right")
    if numbers:
        values = np.stack([events.columns[name][at] for name in numbers], axis=1)
        _numbers(values, payload[:, OWN:], kinds[:, OWN:many])
    blocks = [payload.astype("<u8").view(np.uint8).reshape(k, 8 * many)]
    masks = [(np.arange(8) < SIZES[kinds[:, :many], np.newaxis]).reshape(k, 8 * many)]
    for i, name in enumerate(texts, many):
        found = [None if text is None else text.encode() for text in events.columns[name][at].tolist()]
        lengths = np.array([0 if text is None else len(text) for text in found], np.int64)
        there = np.array([text is not None for text in found], np.bool_)
        kinds[there, i] = TEXT
        width = min(max(1, int(lengths.max(initial=0))), BYTES + 1)
        raw = np.array([b"" if text is None else text[:width] for text in found], f"S{width}").view(np.uint8).reshape(k, width)
        blocks += [np.minimum(lengths, BYTES).astype(np.uint8)[:, np.newaxis], raw]
        masks += [there[:, np.newaxis], np.arange(width) < lengths[:, np.newaxis]]
    packed = _nibbles(kinds)
    inside = np.concatenate((np.ones((k, 1 + packed.shape[1]), np.bool_), *masks), axis=1)
    sizes = inside.sum(axis=1)
    head = np.minimum(sizes, BYTES).astype(np.uint8)[:, np.newaxis]
    return np.concatenate((head, packed, *blocks), axis=1)[inside], sizes


def decode(layout: Layout, bodies: Sequence[bytes], owners: Int, since_us: Int, since_offset: Int) -> Kept:
    """The inverse of ``encode``, of b values without their headers; the others (b,) are of each value.

    Raises ValueError for what no event ends.
    """
    numbers, texts = _fields(layout)
    many, fields = OWN + len(numbers), OWN + len(numbers) + len(texts)
    controls = -(-fields // 2)
    longest = 1 + controls + 8 * many + 256 * len(texts)           # of what an event says that it is, even where it does not end
    data = b"".join((*bodies, bytes(longest + 8)))
    of: list[int] = []
    starts: list[int] = []
    end = at = 0
    for value, body in enumerate(bodies):
        end += len(body)
        while at < end:
            of.append(value)
            starts.append(at)
            at += data[at] or longest
        if at != end:
            raise ValueError(f"value {value} ends within an event")
    whose, begin, raw = np.array(of, np.intp), np.array(starts, np.intp), np.frombuffer(data, np.uint8)
    kinds = PAIRS[raw[begin[:, np.newaxis] + np.arange(1, 1 + controls)]].reshape(len(of), 2 * controls)[:, :many]
    sizes = SIZES[kinds]
    ends = begin[:, np.newaxis] + 1 + controls + sizes.cumsum(axis=1)
    words = np.ndarray(len(data) - 7, "<u8", raw, strides=(1,))    # the eight bytes from each place on
    payload = words[ends - sizes] & MASKS[kinds]
    whole = _unzigzag(payload)
    times, offsets = whole[:, 0] + since_us[whose], whole[:, 1] + since_offset[whose]
    values = whole[:, OWN:] / DIVISORS[kinds[:, OWN:]]
    floats = kinds[:, OWN:] == FLOAT
    if floats.any():
        values[floats] = payload[:, OWN:][floats].view(np.float64)
    columns: dict[str, NDArray[Any]] = dict(zip(numbers, np.ascontiguousarray(values.T), strict=True))
    at_text = ends[:, -1]
    for i, name in enumerate(texts, many):
        there = PAIRS[raw[begin + 1 + i // 2], i % 2] == TEXT
        width = np.where(there, raw[at_text], 0).astype(np.intp)
        first = at_text + there
        column = np.empty(len(of), object)
        column[:] = [
            data[a : a + n].decode() if held else None for a, n, held in zip(first.tolist(), width.tolist(), there.tolist(), strict=True)
        ]
        columns[name] = column
        at_text = first + width
    size = raw[begin].astype(np.intp)
    if (at_text != begin + size).any():
        raise ValueError("an event is not as long as it says")
    return Kept(whose, Gathered(-1, offsets, times, times, columns, partitions=owners[whose]), begin, size)


def count(body: bytes) -> int:
    """How many events a value without its header holds, one that was read before."""
    found = at = 0
    while at < len(body):
        at += body[at]
        found += 1
    return found


def lifted(layout: Layout, kept: Kept) -> tuple[Rows, Index]:
    """What the events are in rows of this layout, each by itself, and the value that each row is of, nondecreasing."""
    rows, event = lift_rows(layout, kept.events)
    return rows, kept.of[event]


def merged(layout: Layout, kept: Kept) -> tuple[Rows, Index]:
    """As ``lifted``, a row for each tile (of cells, each cell) of a value."""
    rows, of = lifted(layout, kept)
    table = layout.table(rows)
    keys = np.stack((of, *(table[:, column] for column in layout.key_columns)))
    order = np.lexsort(keys[::-1])
    keys = keys[:, order]
    begins = np.flatnonzero(np.concatenate(([True], (keys[:, 1:] != keys[:, :-1]).any(axis=0)))[: len(order)])
    return merge(layout, rows, order, begins), of[order[begins]]


def alive(layout: Layout, times_us: Int, horizon: int) -> NDArray[np.bool_]:
    """(k,) which events some window may still hold."""
    if layout.finest == LIFETIME_US:
        return np.ones(len(times_us), np.bool_)
    found: NDArray[np.bool_] = floor(times_us, layout.finest) + layout.finest > horizon
    return found


def headers(layout: Layout, owners: Int, horizons: Int, since_us: Int, since_offset: Int) -> Bytes:
    """(k, ``HEADER.itemsize``) headers of k state values."""
    out = np.zeros(len(owners), HEADER)
    out["format"], out["levels"], out["owner"], out["layout"] = FORMAT, len(layout.levels), owners, layout.id
    out["horizon"], out["time_us"], out["offset"] = horizons, since_us, since_offset
    return out.view(np.uint8).reshape(len(owners), HEADER.itemsize)


def _fields(layout: Layout) -> tuple[list[str], list[str]]:
    """The fields that are numbers here, and those that are strings."""
    return [n for n in layout.read if n not in layout.texts], [n for n in layout.read if n in layout.texts]


def _numbers(values: NDArray[np.float64], payload: NDArray[np.uint64], kinds: Bytes) -> None:
    """Fill in what (k, fields) numbers are as bytes, and of which kind."""
    with np.errstate(invalid="ignore", over="ignore"):
        hundredths = np.rint(values * 100.0)
        whole = (values == np.rint(values)) & (np.abs(values) < WHOLE_ABS)
        cents = ~whole & (np.abs(hundredths) < HUNDREDTHS_ABS) & (hundredths / 100.0 == values)
    payload[:] = np.ascontiguousarray(values).view(np.uint64)
    kinds[:] = np.where(np.isnan(values), 0, FLOAT)
    for chosen, numbers, base in ((whole, values, 1), (cents, hundredths, HUNDREDTHS)):
        found = _zigzag(numbers[chosen].astype(np.int64))
        payload[chosen] = found
        kinds[chosen] = base + np.searchsorted(_BOUNDS, found, side="right")


def _zigzag(numbers: Int) -> NDArray[np.uint64]:
    return ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)


def _unzigzag(codes: NDArray[np.uint64]) -> Int:
    return (codes >> np.uint64(1)).view(np.int64) ^ -(codes & np.uint64(1)).view(np.int64)


def _nibbles(kinds: Bytes) -> Bytes:
    """(k, kinds) as (k, half of it), the first of two in the lower bits."""
    if kinds.shape[1] % 2:
        kinds = np.concatenate((kinds, np.zeros((len(kinds), 1), np.uint8)), axis=1)
    return kinds[:, ::2] | (kinds[:, 1::2] << np.uint8(4))
