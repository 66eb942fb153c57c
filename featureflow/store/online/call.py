"""A commit as the keys and arguments of ``lua/commit.lua``, checked for sense before it is sent."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from featureflow import limits
from featureflow.store import keys
from featureflow.store.online.protocol import Commit, StateWrite
from featureflow.store.online.record import digits

WHOLE = 65_535                             # as a number of patches: one whole value
_WRITE = struct.Struct("<IQHH")            # expected bytes, ttl ms, header bytes, number of patches
_PATCH = struct.Struct("<II")              # position, bytes
_BYTES = struct.Struct("<I")


def check(commit: Commit) -> None:
    """Raises ValueError for a commit that no store may apply, whatever it holds."""
    if not commit.advances:
        raise ValueError(f"a commit of {commit.source}/{commit.partition} moves no view")
    if len({advance.to_offset for advance in commit.advances}) != 1:
        raise ValueError(f"the views of one commit share a running maximum, so go to one offset: {commit.advances}")
    if any(not 0 <= advance.from_offset <= advance.to_offset for advance in commit.advances):
        raise ValueError(f"an offset goes back: {commit.advances}")
    if len({advance.view_id for advance in commit.advances}) != len(commit.advances):
        raise ValueError(f"a view is named twice: {commit.advances}")
    if len({write.key for write in commit.writes}) != len(commit.writes):
        raise ValueError(f"a commit of {commit.source}/{commit.partition} writes a key twice")
    for write in commit.writes:
        if (write.whole is None) != bool(write.patches):
            raise ValueError(f"the write of {write.key!r} is both patches and a whole value, or neither")
        if len(write.patches) > limits.PATCHES_PER_KEY:
            most = limits.PATCHES_PER_KEY
            raise ValueError(f"{len(write.patches)} patches of {write.key!r}; over {most} it is written whole")
        end = write.expected_bytes
        for patch in write.patches:
            if not (0 <= patch.position <= end and patch.data):
                raise ValueError(f"a patch at {patch.position} leaves a hole in {write.key!r} of {end} bytes")
            end = max(end, patch.position + len(patch.data))


def arguments(commit: Commit) -> tuple[list[bytes], list[bytes | int]]:
    """KEYS and ARGV of ``commit.lua``. Raises ValueError as ``check`` does."""
    check(commit)
    source, partition = commit.source, commit.partition
    names = [keys.offset_key(advance.view_id, source, partition) for advance in commit.advances]
    names += [keys.visibility_key(advance.view_id, source, partition) for advance in commit.advances]
    names += [write.key for write in commit.writes]
    values: list[bytes | int] = [
        commit.token.hex().encode(),
        digits(commit.advances[0].to_offset),
        digits(commit.max_time_us),
        len(commit.advances),
        len(commit.writes),
        limits.VISIBILITY_ENTRIES,
    ]
    values += [digits(advance.from_offset) for advance in commit.advances]
    values.append(packed(commit.writes))
    return names, values


def packed(writes: Sequence[StateWrite]) -> bytes:
    """The writes as ``commit.lua`` unpacks them."""
    parts: list[bytes] = []
    for write in writes:
        count = WHOLE if write.whole is not None else len(write.patches)
        parts += (_WRITE.pack(write.expected_bytes, write.ttl_ms, len(write.header), count), write.header)
        if write.whole is not None:
            parts += (_BYTES.pack(len(write.whole)), write.whole)
        for patch in write.patches:
            parts += (_PATCH.pack(patch.position, len(patch.data)), patch.data)
    return b"".join(parts)
