"""One logged score, read back."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import HistoryError
from featureflow.store.history.protocol import HistoryStore
from featureflow.store.ledger import Ledger


@dataclass(frozen=True)
class Served:
    """One view's part of a logged score: numbers (width,), a status letter per feature, and the strings of those that have them."""

    view: spec.View
    numbers: NDArray[np.float64]
    statuses: str
    texts: dict[int, list[str | None]]     # a feature's place in ``view.features`` -> its values

    def values(self, place: int) -> list[float] | list[str | None]:
        """The values of the feature at that place of ``view.features``."""
        if place in self.texts:
            return self.texts[place]
        return self.numbers[self.view.spans[place]].tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Prediction:
    """A row of ``define.system.predictions``. ``features`` (width,) float64 and ``statuses`` (letters) go view by view, in
    the order of ``views``."""

    prediction_id: str
    asked_at_us: int                       # q
    model: str
    model_version: str
    entities: dict[str, str | int | None]
    context: dict[str, Any]
    views: dict[str, str]                  # view -> version
    applied: dict[str, dict[str, dict[int, int]]]   # view -> source -> partition -> offset
    features: NDArray[np.float64]
    statuses: str
    texts: list[str | None]                # likewise, of the features that are strings

    @staticmethod
    def of(row: Mapping[str, Any]) -> Prediction:
        """From a row of the history store. Raises HistoryError for one that was not written by a scorer."""
        try:
            return Prediction(
                prediction_id=str(row["prediction_id"]),
                asked_at_us=int(row["asked_at"]),
                model=str(row["model"]),
                model_version=str(row["model_version"]),
                entities=msgspec.json.decode(row["entities"], type=dict[str, str | int | None]),
                context=msgspec.json.decode(row["context"], type=dict[str, Any]),
                views=msgspec.json.decode(row["views"], type=dict[str, str]),
                applied=msgspec.json.decode(row["applied"], type=dict[str, dict[str, dict[int, int]]]),
                features=np.frombuffer(base64.b64decode(row["features"]), "<f8"),
                statuses=str(row["statuses"]),
                texts=[] if row.get("texts") is None else msgspec.json.decode(row["texts"], type=list[str | None]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise HistoryError(f"prediction {row.get('prediction_id', '?')!r} in history cannot be read: {error}") from error

    def sliced(self, views: Mapping[str, spec.View]) -> dict[str, Served]:
        """View name -> what it was then. ``views``: view id -> definition."""
        found, at, letter, string = {}, 0, 0, 0
        for name, version in self.views.items():
            view = views[f"{name}@{version}"]
            count, texts = len(view.features), {}
            for place in view.texts:
                texts[place] = self.texts[string:string + view.features[place].size]
                string += view.features[place].size
            found[name] = Served(view, self.features[at:at + view.width], self.statuses[letter:letter + count], texts)
            at, letter = at + view.width, letter + count
        if (at, letter, string) != (len(self.features), len(self.statuses), len(self.texts)):
            raise HistoryError(
                f"prediction {self.prediction_id!r} holds {len(self.features)} numbers, {len(self.texts)} strings and "
                f"{len(self.statuses)} statuses; its views have {at}, {string} and {letter}"
            )
        return found


def view_definitions(history: HistoryStore, project: spec.Project) -> dict[str, spec.View]:
    """View id -> definition, of every version that was ever applied; the project's own as the project says."""
    versions = Ledger(history).versions()
    recorded = {view_id: msgspec.json.decode(version.definition, type=spec.View) for view_id, version in versions.items()}
    return {**recorded, **{view.id: view for view in project.views}}


def view_sources(history: HistoryStore, project: spec.Project, view: spec.View) -> dict[str, spec.Source]:
    """The view's sources by name as they were when this version of it was applied: how late or early an event may be decides what
    counts, and is part of what a version means. As the project has them where no applied project is known to have had the version.

    Raises HistoryError where neither knows a source.
    """
    sources = {source.name: source for source in project.sources}
    if view.id not in {known.id for known in project.views}:
        for applied in reversed(_applied(history)):
            if view.id in {known.id for known in applied.views}:
                sources = {source.name: source for source in applied.sources}
                break
    gone = next((name for name in view.sources if name not in sources), None)
    if gone is not None:
        raise HistoryError(f"view {view.id} reads event {gone!r}, which the project no longer has")
    return sources


def folded_by(history: HistoryStore, project: spec.Project, views: Sequence[spec.View]) -> dict[tuple[str, str], tuple[spec.Source, ...]]:
    """(View id, source name) -> by which definitions of its fields the view was folded: those of each project that had it.

    None for a source whose fields were always the same: every row is an event by them.
    """
    projects = [*_applied(history), project]
    found = {}
    for view in views:
        for name in view.sources:
            known = {source.fields: source for one in projects for source in one.sources if source.name == name}
            own = {s.fields: s for one in projects if view.id in {v.id for v in one.views} for s in one.sources if s.name == name}
            found[view.id, name] = tuple(own.values()) if len(known) > 1 else ()
    return found


def _applied(history: HistoryStore) -> list[spec.Project]:
    """The projects that were applied, oldest first, as far as this version of FeatureFlow can read them."""
    found = []
    for row in history.query("definitions", {}):
        with suppress(msgspec.MsgspecError):               # written by another version
            found.append(msgspec.json.decode(str(row["project"]), type=spec.Project))
    return found
