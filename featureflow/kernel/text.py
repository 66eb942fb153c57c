"""Strings as int64 columns: UTF-8 in words of eight bytes, zeros behind it, and then its length in bytes, or ``NULL``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.errors import StateError
from featureflow.kernel.exact import Int

NULL = -1
WORD_BYTES = 8


def words(width: int) -> int:
    """How many words hold ``width`` bytes."""
    return -(-width // WORD_BYTES)


def lengths(strings: NDArray[Any]) -> Int:
    """(n,) bytes of UTF-8 of each string, ``NULL`` where there is none."""
    return np.array([NULL if s is None else len(s.encode()) for s in strings.tolist()], np.int64)


def pack(strings: NDArray[Any], width: int) -> Int:
    """(n, words + 1) columns of strings (n,). Raises StateError for one that is longer than ``width`` bytes."""
    encoded = [None if s is None else s.encode() for s in strings.tolist()]
    n, size = len(encoded), words(width)
    packed = np.zeros((n, size + 1), np.int64)
    packed[:, size] = [NULL if s is None else len(s) for s in encoded]
    if n and int(packed[:, size].max()) > width:
        raise StateError(f"a string of {packed[:, size].max()} bytes was to be kept in {width}: its event should have been refused")
    packed[:, :size] = np.array([s or b"" for s in encoded], f"S{size * WORD_BYTES}").view("<i8").reshape(n, size)
    return packed


def unpack(columns: Int) -> NDArray[np.object_]:
    """The strings (...,) of columns (..., words + 1), None for null. Raises UnicodeDecodeError where they were damaged."""
    shape, size = columns.shape[:-1], (columns.shape[-1] - 1) * WORD_BYTES
    flat = np.ascontiguousarray(columns).reshape(-1, columns.shape[-1])
    raw = np.ascontiguousarray(flat[:, :-1], "<i8").tobytes()
    found = np.empty(len(flat), object)
    found[:] = [
        None if length < 0 else raw[at : at + length].decode()
        for at, length in zip(range(0, len(raw), size) if size else [], flat[:, -1].tolist(), strict=True)
    ]
    return found.reshape(shape)
