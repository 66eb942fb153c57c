"""A commit as the keys and arguments of ``lua/commit.lua``, checked for sense before it is sent; and any script's call as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from featureflow import limits
from featureflow.store.keys import Bucket, Keys
from featureflow.store.online.protocol import Commit
from featureflow.store.online.record import digits


def check(commit: Commit) -> None:
    """Raises ValueError for a commit that no store may apply, whatever it holds."""
    if not commit.advances:
        raise ValueError(f"a commit of {commit.source}/{commit.partition} moves no view")
    if len({advance.to_offset for advance in commit.advances}) != 1:
        raise ValueError(f"the views of one commit share a running maximum, so go to one offset: {commit.advances}")
    if any(not 0 <= advance.from_offset <= advance.to_offset for advance in commit.advances):
        raise ValueError(f"an offset goes back: {commit.advances}")
    if len({advance.track for advance in commit.advances}) != len(commit.advances):
        raise ValueError(f"a view is named twice in one bucket: {commit.advances}")
    commit.writes.check()


def visibility_entries(bucket: Bucket) -> int:
    """Commits that a visibility stream of such a bucket remembers."""
    return max(1, limits.VISIBILITY_ENTRIES // bucket.of)


def arguments(commit: Commit, keys: Keys) -> tuple[list[bytes], list[bytes]]:
    """KEYS and ARGV of ``commit.lua``. Raises ValueError as ``check`` does."""
    check(commit)
    source, partition, writes = commit.source, commit.partition, commit.writes
    names = [keys.offset(advance.view_id, source, partition, advance.bucket) for advance in commit.advances]
    names += [keys.visibility(advance.view_id, source, partition, advance.bucket) for advance in commit.advances]
    names += writes.keys
    values = [
        commit.token.hex().encode(),
        digits(commit.advances[0].to_offset),
        digits(commit.max_time_us),
        digits(commit.complete_ms),
        b"%d" % len(commit.advances),
        b"%d" % len(writes),
        b"%d" % visibility_entries(commit.advances[0].bucket),
    ]
    values += [digits(advance.from_offset) for advance in commit.advances]
    values += [writes.heads, writes.headers, writes.places, writes.data]
    return names, values


def evalsha(sha: str, names: Sequence[bytes], values: Sequence[bytes]) -> bytes:
    """The call of a loaded script as it goes over the wire."""
    return packed(b"EVALSHA", sha.encode(), b"%d" % len(names), *names, *values)


def packed(*parts: bytes) -> bytes:
    """A command as it goes over the wire. One join of all of it: a commit has a key per event."""
    pieces = [b""] * (2 * len(parts))
    pieces[::2], pieces[1::2] = map(_before, map(len, parts)), parts
    return b"*%d%b\r\n" % (len(parts), b"".join(pieces))


@lru_cache(4_096)
def _before(size: int) -> bytes:
    """What stands between the end of one argument and the next one, of that size."""
    return b"\r\n$%d\r\n" % size
