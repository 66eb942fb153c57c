"""The log behind a circuit breaker, for what a scorer appends: events that are posted, and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from featureflow.breaker import Breaker
from featureflow.errors import UnavailableError
from featureflow.store.log.protocol import Log, Record

T = TypeVar("T")


class GuardedLog:
    """What a scorer asks of a log; appends go through ``breaker``."""

    def __init__(self, log: Log, breaker: Breaker) -> None:
        self._log, self.breaker = log, breaker

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        """As ``Log.append``; raises CircuitOpenError too."""
        return self._guarded(lambda: self._log.append(topic, records))

    def ping(self) -> str:
        """As ``Log.ping``. Past the breaker, so that what is wrong is known; but through one that is half open, which it may close."""
        return self._guarded(self._log.ping) if self.breaker.state == "half_open" else self._log.ping()

    def _guarded(self, do: Callable[[], T]) -> T:
        call = self.breaker.enter()
        try:
            done = do()
        except UnavailableError as error:
            self.breaker.leave(call, error)
            raise
        except BaseException:  # what was asked is at fault, and was answered
            self.breaker.leave(call)
            raise
        self.breaker.leave(call)
        return done
