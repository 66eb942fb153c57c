"""What a caller waits for: the answer to one request.

As a future of asyncio's, but whoever waits is told at once and not in the loop's next round, which reads what has arrived before it tells
anybody: under overload that is hundreds of requests. It also costs the loop nothing for each answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Generic, TypeVar, cast

import structlog

T = TypeVar("T")
log = structlog.get_logger("featureflow.serve")


class Pending(Generic[T]):
    """Belongs to one event loop. It is set once; what comes later is ignored by those who ask ``done`` before, as with a future."""

    __slots__ = ("_cancelled", "_error", "_result", "_told")

    def __init__(self) -> None:
        self._result: T | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._told: list[Callable[[Pending[T]], object]] | None = []  # None: everybody was told

    def done(self) -> bool:
        return self._told is None

    def cancelled(self) -> bool:
        return self._cancelled

    def result(self) -> T:
        """Raises what was set, or asyncio.CancelledError; InvalidStateError where nothing was yet."""
        if self._error is not None:
            raise self._error
        if self._cancelled:
            raise asyncio.CancelledError
        if self._told is not None:
            raise asyncio.InvalidStateError("it is not answered yet")
        return cast(T, self._result)

    def set_result(self, answer: T) -> None:
        """Raises InvalidStateError where it is done."""
        if self._told is not None:
            self._result = answer
        self._tell()

    def set_exception(self, error: BaseException) -> None:
        """As ``set_result``."""
        if self._told is not None:
            self._error = error
        self._tell()

    def cancel(self) -> None:
        """The caller has gone away; nothing where it is done."""
        if self._told is not None:
            self._cancelled = True
            self._tell()

    def add_done_callback(self, tell: Callable[[Pending[T]], object]) -> None:
        """``tell`` is called with this once it is done, or now where it is."""
        if self._told is None:
            tell(self)
        else:
            self._told.append(tell)

    def __await__(self) -> Generator[object, None, T]:
        if not self.done():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.add_done_callback(lambda _: None if future.done() else future.set_result(None))
            try:
                yield from future
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()

    def _tell(self) -> None:
        told, self._told = self._told, None
        if told is None:
            raise asyncio.InvalidStateError("it is done already")
        for tell in told:
            try:
                tell(self)
            except Exception:  # whoever waits must not take the others of a turn along
                log.exception("not_told")
