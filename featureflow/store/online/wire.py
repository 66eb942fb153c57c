"""Packed calls on their way to a server: written one behind the other, their replies read later, in that order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import redis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError

Reply = Any
"""What the server said, or a RedisError."""


class Unsent(redis.ConnectionError):
    """There is no connection: nothing was sent."""


class Request(NamedTuple):
    """A packed command. ``before`` are others, sent first, whose replies are nobody's."""

    key: bytes                             # which decides who is asked
    message: bytes
    before: tuple[bytes, ...] = ()


class Talk(Protocol):
    """To whichever servers are to be asked."""

    def send(self, requests: Sequence[Request]) -> None:
        """Never raises and does not wait: what went wrong stands among the ``replies``."""
        ...

    def replies(self) -> list[Reply]:
        """To everything that was sent. The last call: a connection goes back to its pool."""
        ...


class Wire:
    """One connection of a pool, and what is said over it. redis-py would look at each argument of a call.

    A request that brought no reply has its error instead; where there was no connection, that is ``Unsent``. Nothing is written behind
    what may be lost: those requests have its error.
    """

    def __init__(self, pool: Any) -> None:
        self._pool, self._sent = pool, list[Request]()
        self._connection: Any = None
        self._problem: RedisError | None = None
        try:
            self._connection = pool.get_connection()
        except RedisError as problem:
            self._problem = Unsent(str(problem))

    def send(self, requests: Sequence[Request]) -> None:
        self._sent += requests
        if self._problem is not None:
            return
        try:
            self._connection.send_packed_command([part for request in requests for part in (*request.before, request.message)])
        except RedisError as problem:      # redis-py has closed the connection, and with it what it had to say
            self._problem = problem
            self._pool.release(self._connection)

    def replies(self) -> list[Reply]:
        replies: list[Reply] = []
        if self._problem is None:
            try:
                for request in self._sent:
                    for _ in range(len(request.before) + 1):
                        reply = self._reply()
                    replies.append(reply)
            except RedisError as problem:
                self._problem = problem
                self._connection.disconnect()      # what is still to come answers nobody's question
            finally:
                self._pool.release(self._connection)
        return replies + [self._problem] * (len(self._sent) - len(replies))

    def _reply(self) -> Reply:
        try:
            return self._connection.read_response()
        except (ResponseError, BusyLoadingError) as problem:
            return problem
