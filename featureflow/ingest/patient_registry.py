"""A schema registry as a consumer asks it: one that is away is left alone for a while, so that what needs none is not held up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from featureflow.backoff import Backoff
from featureflow.clock import Clock
from featureflow.errors import SchemasAwayError, UnavailableError
from featureflow.store.schemas.protocol import Schema, SchemaRegistry

FIRST_WAIT_US, LONGEST_WAIT_US = 1_000_000, 30_000_000    # an attempt may take a time-out, and all sources wait meanwhile

T = TypeVar("T")


class PatientRegistry:
    """Of one source: an id that cannot be had for one says nothing of the schemas of others."""

    def __init__(self, registry: SchemaRegistry, clock: Clock) -> None:
        self._registry, self._backoff, self._problem = registry, Backoff(clock, FIRST_WAIT_US, LONGEST_WAIT_US), ""

    def schema(self, number: int) -> Schema | None:
        return self._ask(lambda: self._registry.schema(number))

    def version(self, subject: str, version: int) -> Schema | None:
        return self._ask(lambda: self._registry.version(subject, version))

    def latest(self, subject: str) -> Schema | None:
        return self._ask(lambda: self._registry.latest(subject))

    def ping(self) -> str:
        return self._ask(self._registry.ping)

    def _ask(self, question: Callable[[], T]) -> T:
        """Raises SchemasAwayError, without having asked where it is too early."""
        if self._backoff.waiting:
            raise SchemasAwayError(self._problem, self._backoff.left_us)
        try:
            answer = question()
        except UnavailableError as error:
            self._problem = str(error)
            raise SchemasAwayError(self._problem, self._backoff.failed()) from error
        self._backoff.succeeded()
        return answer
