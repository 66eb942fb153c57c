"""One connection pool to the server that keeps the streams."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from featureflow.errors import LogError, UnavailableError, UnknownOutcomeError
from featureflow.store.online.login import refusal
from featureflow.store.online.not_now import is_not_now

SOCKET_TIMEOUT_S = 10.0


def connect(url: str) -> redis.Redis:
    """A client that never sends a command twice by itself."""
    client: redis.Redis = redis.Redis.from_url(
        url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=SOCKET_TIMEOUT_S
    )
    for command in ("XREAD", "XRANGE", "HGETALL"):
        client.set_response_callback(command, _as_sent)
    return client


def command(client: redis.Redis, *words: Any) -> Any:
    """One command, its reply as it was sent: lists of bytes, not dictionaries made of them."""
    return client.execute_command(*words)  # type: ignore[no-untyped-call]  # untyped in redis-py


def translated(error: redis.RedisError, what: str, *, writing: bool = False) -> Exception:
    """redis-py's error as ours: is the server away, was the reply lost, or does it refuse?"""
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return UnavailableError(f"{what}: the server is still loading its data ({detail})")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        if writing and "connecting to" not in str(error):
            return UnknownOutcomeError(f"{what}: the reply was lost, it may or may not be there ({detail})")
        if (said := refusal(error, "log.url")) is not None:
            return UnavailableError(f"{what}: its server {said}")
        return UnavailableError(f"{what} ({detail}); log.url points to it")
    if isinstance(error, redis.ResponseError) and is_not_now(error):
        return UnavailableError(f"{what}: its server takes no writes now ({detail}); log.url points to it")
    return LogError(f"{what} ({detail})")


def _as_sent(reply: Any, **options: Any) -> Any:
    return reply
