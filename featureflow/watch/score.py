"""A score on a stream, and an alert: records of ``define.system.scores`` and ``define.system.alerts``, in their fields' order."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from featureflow.store.log.protocol import Record

Level = Literal["raised", "cleared"]


class Score(Struct, frozen=True):
    """Of one event, by one model, for one entity. ``score`` None: the model gave none, and ``degraded`` says why.

    ``features`` and ``degraded`` are JSON text: an object (None where it would be too long for a record), and a list.
    """

    event_time: int
    scored_at: int
    model: str
    model_version: str
    variant: str
    provider: str
    score: float | None
    entity: str
    id: str
    source: str
    partition: int
    offset: int
    features: str | None
    degraded: str

    def record(self) -> Record:
        """By the id, so that all scores of an entity are in one partition."""
        return Record(_ENCODER.encode(self), self.id.encode())


class Alert(Struct, frozen=True):
    """``value`` of the average came to the ``threshold``, or fell below it."""

    event_time: int
    alert_id: str
    rule: str
    level: Level
    value: float
    threshold: float
    score: float
    model: str
    model_version: str
    entity: str
    id: str
    source: str
    partition: int
    offset: int
    features: str | None
    degraded: str

    def record(self) -> Record:
        """By the id of its entity."""
        return Record(_ENCODER.encode(self), self.id.encode())


_ENCODER = msgspec.json.Encoder()
SCORE = msgspec.json.Decoder(Score)
ALERT = msgspec.json.Decoder(Alert)
