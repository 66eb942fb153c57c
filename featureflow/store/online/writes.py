"""What one commit changes, key by key: written as objects where there are few, kept in columns, which is how they travel.

Nearly every event of a stream changes a key, so a commit makes no object per key: a slab fills the columns from its own arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow import limits

WHOLE = 65_535                             # as a number of patches: one whole value
ANY = 2**32 - 1                            # as expected bytes: whatever is there, a whole value takes its place
HEAD = np.dtype([("expected", "<u4"), ("header", "<u2"), ("patches", "<u2"), ("ttl_ms", "<u8"), ("renew_ms", "<u8")])
PLACE = np.dtype([("position", "<u4"), ("size", "<u4")])


class Patch(msgspec.Struct, frozen=True, gc=False):
    """Bytes to put at a position of a state value; at its end they extend it."""

    position: int
    data: bytes


class StateWrite(msgspec.Struct, frozen=True, gc=False):
    """The change of one state key. Exactly one of ``patches`` and ``whole`` is set."""

    key: bytes
    expected_bytes: int                    # the length it must have now; 0: must be absent; ANY: is not looked at
    header: bytes                          # the header it must have now, where expected_bytes > 0
    ttl_ms: int                            # the life that is given; 0: a whole value never expires, a patch leaves it as it is
    patches: tuple[Patch, ...] = ()
    whole: bytes | None = None             # None with patches; b"" deletes the key
    renew_ms: int = 0                      # by the store's clock: a patch before it leaves the life that the key has


@dataclass(frozen=True)
class Writes:
    """Many ``StateWrite``, each with another key, in columns.

    ``heads`` are of ``HEAD``: the expected bytes (or ``ANY``), the bytes of the header, how many patches (``WHOLE``: a whole value),
    and the two times. ``places`` are of ``PLACE``, all patches of all keys in order; a whole value has one too, at position 0.
    ``headers`` and ``data`` are what these describe, joined. ``lua/commit.lua`` reads the same four.
    """

    keys: tuple[bytes, ...] = ()
    heads: bytes = b""
    headers: bytes = b""
    places: bytes = b""
    data: bytes = b""

    @staticmethod
    def of(writes: Iterable[StateWrite]) -> Writes:
        """Raises ValueError for a write that is no change, or two."""
        writes = tuple(writes)
        heads, places, data = [], [], []
        for write in writes:
            if (write.whole is None) != bool(write.patches):
                raise ValueError(f"the write of {write.key!r} is both patches and a whole value, or neither")
            if len(write.patches) > limits.PATCHES_PER_KEY:
                raise ValueError(too_many(write.key, len(write.patches)))
            patches = write.patches if write.whole is None else (Patch(0, write.whole),)
            number = len(patches) if write.whole is None else WHOLE
            heads.append((write.expected_bytes, len(write.header), number, write.ttl_ms, write.renew_ms))
            places += [(patch.position, len(patch.data)) for patch in patches]
            data += [patch.data for patch in patches]
        return Writes(
            tuple(write.key for write in writes),
            np.array(heads, HEAD).tobytes(),
            b"".join(write.header for write in writes),
            np.array(places, PLACE).tobytes(),
            b"".join(data),
        )

    def __add__(self, other: Writes) -> Writes:
        if not other.keys:
            return self
        if not self.keys:
            return other
        return Writes(
            self.keys + other.keys,
            self.heads + other.heads,
            self.headers + other.headers,
            self.places + other.places,
            self.data + other.data,
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[StateWrite]:
        places = iter(np.frombuffer(self.places, PLACE).tolist())
        header = at = 0
        for key, (expected, header_bytes, number, ttl_ms, renew_ms) in zip(
            self.keys, np.frombuffer(self.heads, HEAD).tolist(), strict=True
        ):
            patches = []
            for _ in range(1 if number == WHOLE else number):
                position, size = next(places)
                patches.append(Patch(position, self.data[at : at + size]))
                at += size
            head = self.headers[header : header + header_bytes]
            header += header_bytes
            whole = patches.pop().data if number == WHOLE else None
            yield StateWrite(key, expected, head, ttl_ms, tuple(patches), whole, renew_ms)

    def check(self) -> None:
        """Raises ValueError where the columns contradict each other, a key is written twice, or a patch leaves a hole."""
        heads, places = np.frombuffer(self.heads, HEAD), np.frombuffer(self.places, PLACE)
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("a commit writes a key twice")
        whole = heads["patches"] == WHOLE
        numbers = np.where(whole, 1, heads["patches"]).astype(np.int64)
        sizes = places["size"].astype(np.int64)
        described = len(heads), int(heads["header"].sum(dtype=np.int64)), int(numbers.sum()), int(sizes.sum())
        if described != (len(self.keys), len(self.headers), len(places), len(self.data)):
            raise ValueError(f"writes are described as {described}: keys, bytes of headers, patches, bytes of data")
        if len(numbers) and not 0 < numbers.min() <= numbers.max() <= limits.PATCHES_PER_KEY:
            worst = int(numbers.argmax())
            raise ValueError(too_many(self.keys[worst], int(numbers[worst])) if numbers.all() else "a write of no patch")
        unchecked = heads["expected"] == ANY
        if (unchecked & (~whole | (heads["header"] > 0))).any():
            raise ValueError("a value that replaces whatever is there is written whole, and expects no header")
        self._check_holes(heads["expected"].astype(np.int64), numbers, np.repeat(~whole, numbers), places["position"], sizes)

    def _check_holes(
        self, expected: NDArray[np.int64], numbers: NDArray[np.int64], patches: NDArray[np.bool_],
        positions: NDArray[np.uint32], sizes: NDArray[np.int64],
    ) -> None:  # fmt: skip
        if len(positions) == len(expected):                        # one patch each
            wrong = np.flatnonzero(patches & ((positions > expected) | (sizes == 0)))
            if len(wrong):
                raise ValueError(self._hole(int(wrong[0]), int(positions[wrong[0]]), int(expected[wrong[0]])))
            return
        # How far a key reaches before each of its patches is a running maximum; lifting each key above the one before it keeps
        # the maxima of different keys apart.
        key = np.repeat(np.arange(len(numbers)), numbers)
        lift = key << 33
        reach = np.repeat(expected, numbers) + lift
        ends = positions + sizes + lift
        reach[1:] = np.maximum(reach[1:], np.maximum.accumulate(ends)[:-1])
        wrong = np.flatnonzero(patches & ((positions + lift > reach) | (sizes == 0)))
        if len(wrong):
            first = wrong[0]
            raise ValueError(self._hole(int(key[first]), int(positions[first]), int(expected[key[first]])))

    def _hole(self, index: int, position: int, held: int) -> str:
        return f"a patch at {position} leaves a hole in {self.keys[index]!r} of {held} bytes"


def too_many(key: bytes, patches: int) -> str:
    """The refusal of more than a commit takes."""
    return f"{patches} patches of {key!r}; a commit takes at most {limits.PATCHES_PER_KEY}: write it whole"
