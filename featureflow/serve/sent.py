"""What a caller sent, for whichever version is to answer: two versions of a model may read different things of one body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import UNSET

from featureflow.serve import problem
from featureflow.serve.asked import Asked, rows_of
from featureflow.serve.request import Row
from featureflow.serve.version import Version
from featureflow.serve.wire.v1 import SCORE_BODY, EntityId, ScoreBody


class Sent(Protocol):
    """Raises RequestError (400, 422) for what does not fit."""

    def of(self, version: Version) -> Asked:
        """As this version takes it."""

    def rows(self, version: Version, places: Sequence[int]) -> list[Row]:
        """These rows of it, whatever the others are like."""

    def said(self) -> Asked:
        """What stands beside its rows."""

    def ids(self, key: str) -> list[EntityId]:
        """The id under a join key in each row, null where a row has none; of rows that one version answers together, of the first."""

    def check(self) -> None:
        """As far as can be told before it is known which version answers."""


class SentScore:
    """The body of a score request."""

    __slots__ = ("_body", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._body: ScoreBody | None = None

    def of(self, version: Version) -> Asked:
        return version.body.decode(self._raw)

    def rows(self, version: Version, places: Sequence[int]) -> list[Row]:
        return rows_of(self._general(), version.plan, places)

    def said(self) -> Asked:
        body = self._general()
        return Asked([], body.deadline_ms, body.explain, priority=body.priority)

    def ids(self, key: str) -> list[EntityId]:
        body = self._general()
        if body.rows is not UNSET:
            return [row.entities.get(key) for row in body.rows]
        return [None if body.entities is UNSET else body.entities.get(key)]

    def check(self) -> None:
        self._general()

    def _general(self) -> ScoreBody:
        if self._body is None:
            try:
                self._body = SCORE_BODY.decode(self._raw)
            except (ValueError, RecursionError) as error:
                raise problem.undecodable(error, self._raw) from None
        return self._body
