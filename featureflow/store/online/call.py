"""A commit as the keys and arguments of ``lua/commit.lua``, checked for sense before it is sent."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from featureflow import limits
from featureflow.store.keys import Keys
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
            position, size = patch.position, len(patch.data)
            if not (0 <= position <= end and size):
                raise ValueError(f"a patch at {position} leaves a hole in {write.key!r} of {end} bytes")
            if position + size > end:
                end = position + size


def arguments(commit: Commit, keys: Keys) -> tuple[list[bytes], list[bytes | int]]:
    """KEYS and ARGV of ``commit.lua``. Raises ValueError as ``check`` does."""
    check(commit)
    source, partition = commit.source, commit.partition
    names = [keys.offset(advance.view_id, source, partition) for advance in commit.advances]
    names += [keys.visibility(advance.view_id, source, partition) for advance in commit.advances]
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
    head, place = _WRITE.pack, _PATCH.pack
    for write in writes:
        header, patches, whole = write.header, write.patches, write.whole
        if whole is None:
            parts += (head(write.expected_bytes, write.ttl_ms, len(header), len(patches)), header)
            for patch in patches:
                data = patch.data
                parts += (place(patch.position, len(data)), data)
        else:
            parts += (head(write.expected_bytes, write.ttl_ms, len(header), WHOLE), header, _BYTES.pack(len(whole)), whole)
    return b"".join(parts)
