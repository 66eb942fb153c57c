"""Features as the answers of /v1/features: what is the same in many of them is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.reading.features import Features
from featureflow.serve.answer import Answer
from featureflow.serve.explain import STATUS_NAMES, feature_value, rfc3339
from featureflow.serve.wire import v1

REMEMBERED = 1_024  # offsets, as they are encoded
Applied = dict[str, dict[int, int]]


class Shown:
    """Answers of one server. ``found`` has the entities of all who ask in a turn, ``rows`` says which are those of one who asks."""

    def __init__(self) -> None:
        self._applied: dict[int, tuple[Applied, Raw]] = {}
        self._statuses: dict[bytes, list[str]] = {}
        self._instant = 0, rfc3339(0)
        self._listed: tuple[Features | None, list[v1.FeaturesRow]] = None, []

    def many(self, q_us: int, found: Features, rows: Sequence[int]) -> Answer:
        """Of POST /v1/features/{view}."""
        view = found.plan.view
        return _json(
            v1.FeaturesAnswer(
                view.name,
                view.version,
                view.entity,
                q_us,
                self._at(q_us),
                self._of(found, rows[0]) if rows else {},  # type: ignore[arg-type]  # encoded already
                found.plan.names,
                self._rows(found, rows),
                list(found.degraded),
            )
        )

    def one(self, q_us: int, found: Features, rows: Sequence[int]) -> Answer:
        """Of GET /v1/features/{view}/{id}."""
        view, (row,) = found.plan.view, rows
        features = {feature.name: feature_value(found, row, i) for i, feature in enumerate(view.features)}
        applied: Any = self._of(found, row)
        return _json(
            v1.EntityFeatures(
                view.name, view.version, view.entity, found.ids[row], q_us, self._at(q_us), applied, features, list(found.degraded)
            )
        )

    def _at(self, q_us: int) -> str:
        """All of a turn are of one instant."""
        if self._instant[0] != q_us:
            self._instant = q_us, rfc3339(q_us)
        return self._instant[1]

    def _rows(self, found: Features, rows: Sequence[int]) -> list[v1.FeaturesRow]:
        if self._listed[0] is not found:
            self._listed = found, self._all(found)
        own = [self._listed[1][row] for row in rows]
        places, applied = [found.places[row] for row in rows], {}
        for row, place in zip(rows, places, strict=True):
            if place != places[0] and place not in applied:
                applied[place] = self._of(found, row)
        if not applied:
            return own
        return [replace(row, applied=_or_unset(applied.get(place))) for row, place in zip(own, places, strict=True)]

    def _all(self, found: Features) -> list[v1.FeaturesRow]:
        """Every entity's, but for the offsets."""
        plan = found.plan
        times: list[Any] = found.event_times_us.tolist()
        if (found.event_times_us == NO_TIME_US).any():
            times = [[None if t == NO_TIME_US else t for t in row] for row in times]
        values: list[Any]
        if plan.single:
            values = found.values.tolist()
        else:
            features = range(len(plan.references))
            values = [[found.shown(i, feature) for feature in features] for i in range(len(found.ids))]
        named = map(self._named, found.statuses)
        return [v1.FeaturesRow(*row) for row in zip(found.ids, values, named, times, strict=True)]

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
