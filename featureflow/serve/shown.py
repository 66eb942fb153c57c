"""Features as the answers of /v1/features: what is the same in many of them is encoded once."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.reading.features import Features
from featureflow.serve.answer import Answer
from featureflow.serve.explain import STATUS_NAMES, feature_value, rfc3339
from featureflow.serve.wire import v1

REMEMBERED = 1_024  # offsets, as they are encoded
Applied = dict[str, dict[int, int]]


class Shown:
    """Answers of one server."""

    def __init__(self) -> None:
        self._applied: dict[int, tuple[Applied, Raw]] = {}
        self._statuses: dict[bytes, list[str]] = {}

    def many(self, q_us: int, found: Features) -> Answer:
        """Of POST /v1/features/{view}."""
        view = found.plan.view
        return _json(
            v1.FeaturesAnswer(
                view.name,
                view.version,
                view.entity,
                q_us,
                rfc3339(q_us),
                self._of(found, 0) if found.ids else {},  # type: ignore[arg-type]  # encoded already
                found.plan.names,
                self._rows(found),
                list(found.degraded),
            )
        )

    def one(self, q_us: int, found: Features) -> Answer:
        """Of GET /v1/features/{view}/{id}."""
        view, (entity_id,) = found.plan.view, found.ids
        features = {feature.name: feature_value(found, 0, i) for i, feature in enumerate(view.features)}
        applied: Any = self._of(found, 0)
        return _json(
            v1.EntityFeatures(
                view.name, view.version, view.entity, entity_id, q_us, rfc3339(q_us), applied, features, list(found.degraded)
            )
        )

    def _rows(self, found: Features) -> list[v1.FeaturesRow]:
        plan = found.plan
        times = found.event_times_us.tolist()
        if (found.event_times_us == NO_TIME_US).any():
            times = [[None if t == NO_TIME_US else t for t in row] for row in times]
        values: list[Any]
        if plan.single:
            values = found.values.tolist()
        else:
            features = range(len(plan.references))
            values = [[found.shown(i, feature) for feature in features] for i in range(len(found.ids))]
        first, applied = found.places[0] if found.places else 0, {}
        for i, place in enumerate(found.places):
            if place != first and place not in applied:
                applied[place] = self._of(found, i)
        rows: list[Any] = list(zip(found.ids, values, found.statuses, times, found.places, strict=True))
        return [
            v1.FeaturesRow(entity_id, row, self._named(statuses), of, _or_unset(applied.get(place)))
            for entity_id, row, statuses, of, place in rows
        ]

    def _named(self, statuses: NDArray[Any]) -> list[str]:
        """Most rows of most answers have the same."""
        raw = statuses.tobytes()
        names = self._statuses.get(raw)
        if names is None:
            if len(self._statuses) >= REMEMBERED:
                self._statuses.clear()
            names = self._statuses[raw] = [STATUS_NAMES[status] for status in raw]
        return names

    def _of(self, found: Features, row: int) -> Raw:
        """Up to which offsets events count in the row, as JSON."""
        applied = found.applied(row)
        known = self._applied.get(id(applied))
        if known is None or known[0] is not applied:
            if len(self._applied) >= REMEMBERED:
                self._applied.clear()
            named = {source: {str(partition): offset for partition, offset in of.items()} for source, of in applied.items()}
            known = self._applied[id(applied)] = applied, Raw(msgspec.json.encode(named))
        return known[1]


def _or_unset(applied: Raw | None) -> Any:
    unset: UnsetType = UNSET
    return unset if applied is None else applied


def _json(value: msgspec.Struct) -> Answer:
    return Answer(200, msgspec.json.encode(value))
