"""How deep lists and objects of JSON stand in each other, told without decoding it: a decoder recurses."""

from __future__ import annotations

import numpy as np

from featureflow import limits

FLAT_BYTES = 2 * limits.JSON_DEPTH             # a text this short cannot nest deeper
_CLOSED, _OPENED = 0x7D, 0x7B                  # ] and }, [ and { with the bit that tells them apart
_SAME = 0x20
_OTHERS = bytes(set(range(256)) - set(b'"[]{}'))


def surely_flat(value: bytes) -> bool:
    """Whether the text is surely not nested too deep: of nearly all, at no cost."""
    return len(value) <= FLAT_BYTES or value.count(b"[") + value.count(b"{") <= limits.JSON_DEPTH


def is_too_deep(value: bytes) -> bool:
    """Whether lists and objects are nested deeper than ``limits.JSON_DEPTH``, in a text that may break off or be none.

    In time that grows with its bytes: a MiB of rows takes 4 ms, one of brackets and quotes alone 10.
    """
    if surely_flat(value):
        return False
    plain = value.replace(b"\\\\", b"").replace(b'\\"', b"")  # no quote that is left is escaped
    text = np.frombuffer(plain.translate(None, _OTHERS), np.uint8)
    outside = np.cumsum(text == ord('"'), dtype=np.uint8) & 1 == 0
    bracket = text | _SAME
    steps = ((bracket == _OPENED) & outside).astype(np.int8)
    steps -= (bracket == _CLOSED) & outside
    return bool(steps.cumsum(dtype=np.int32).max(initial=0) > limits.JSON_DEPTH)
