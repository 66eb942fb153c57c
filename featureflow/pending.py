"""What a caller waits for: the answer to one request, or to one read.

As a future of asyncio's, but whoever waits is told at once and not in the loop's next round, which reads what has arrived before it tells
anybody: under overload that is hundreds of requests. It also costs the loop nothing for each answer. A task of asyncio's that awaits one
goes on in the next round, as ever; an ``EagerTask`` at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Generic, Self, TypeVar, cast

import structlog

T = TypeVar("T")
log = structlog.get_logger("featureflow")


class Pending(Generic[T]):
    """Belongs to one event loop. It is set once; what comes later is ignored by those who ask ``done`` before, as with a future."""

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_error", "_result", "_told")  # the first is how asyncio's tasks know a future

    def __init__(self) -> None:
        self._asyncio_future_blocking = False
        self._result: T | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._told: list[Callable[[Any], object]] | None = []  # None: everybody was told

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

    def exception(self) -> BaseException | None:
        """The error that was set; None where there is none."""
        return self._error

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

    def cancel(self, msg: object = None) -> bool:
        """Nobody waits any more; False, and nothing done, where it is done. ``msg``: as asyncio's tasks call it."""
        if self._told is None:
            return False
        self._cancelled = True
        self._tell()
        return True

    def add_done_callback(self, tell: Callable[[Self], object], *, context: Context | None = None) -> None:
        """``tell`` is called with this once it is done, or now where it is. ``context``: of a task of asyncio's, which is told in the
        loop's next round, for no task may go on inside another.
        """
        if context is not None:
            tell = _told_later(tell, context)
        if self._told is None:
            tell(self)
        else:
            self._told.append(tell)

    def remove_done_callback(self, tell: Callable[[Self], object]) -> int:
        """How many there were of it: as ``asyncio.wait_for`` asks."""
        if self._told is None:
            return 0
        before, self._told = self._told, [one for one in self._told if one != tell]
        return len(before) - len(self._told)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def __await__(self) -> Generator[Any, None, T]:
        if self._told is not None:
            self._asyncio_future_blocking = True
            yield self
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


class EagerTask(Pending[T]):
    """A coroutine that begins within ``start``, and goes on within whoever sets what it waits for, where that is ``Pending``.

    A task of asyncio's takes a round of the loop for either, and one for each task that waits for another. Where it waits for a future of
    asyncio's, it goes on in the next round. ``cancel``: nobody waits for it any more; it runs on to its end all the same. There is no
    current task of asyncio's while it runs, so what needs one (``asyncio.timeout``) has no place in it.
    """

    __slots__ = ("_coroutine", "_loop")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self._coroutine, self._loop = coroutine, asyncio.get_running_loop()

    def start(self) -> Self:
        self._go_on()
        return self

    def _go_on(self, _: object = None) -> None:
        try:
            waits = self._coroutine.send(None)
        except StopIteration as end:
            if not self.done():
                self.set_result(end.value)
        except BaseException as error:
            if not self.done():
                self.set_exception(error)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
        else:
            if waits is None:  # asyncio.sleep(0)
                self._loop.call_soon(self._go_on)
            else:
                waits._asyncio_future_blocking = False
                waits.add_done_callback(self._go_on)


def _told_later(tell: Callable[[Any], object], context: Context) -> Callable[[Any], object]:
    loop = asyncio.get_running_loop()
    return lambda done: loop.call_soon(tell, done, context=context)
