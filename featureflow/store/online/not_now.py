"""Errors of Redis that say "not now": waiting cures them. They come before a script's first write, so nothing was applied."""

from __future__ import annotations

from redis.exceptions import ResponseError

WORDS = ("OOM", "READONLY", "MISCONF", "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "TRYAGAIN")
# redis-py cuts the first word of these off
TYPES = ("ReadOnlyError", "OutOfMemoryError", "TryAgainError", "ClusterDownError", "MasterDownError", "MovedError", "AskError")


def is_not_now(problem: ResponseError) -> bool:
    """Whether the same command may be sent again later: the server's disk or memory is full, it is a replica for now, and the like."""
    return str(problem).startswith(WORDS) or type(problem).__name__ in TYPES
