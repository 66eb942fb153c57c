"""A training set of the very bytes that were served: lag, outages and late events are in it as they were in life."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappush, heappushpop
from typing import Any

import msgspec
import numpy as np

from featureflow.clock import NO_TIME_US
from featureflow.define import spec
from featureflow.define.system import predictions as predictions_of
from featureflow.define.version import feature_version
from featureflow.errors import RequestError
from featureflow.kernel.finalize import Status, Values
from featureflow.store.history.protocol import HistoryStore
from featureflow.train.dataset import Dataset, assemble
from featureflow.train.needs import Needs
from featureflow.train.prediction import Prediction, view_definitions, view_sources
from featureflow.train.spine import SpineLike, columns_of, read_spine

TITLE = "The logged predictions cannot be used"
COLUMNS = (
    "asked_at", "prediction_id", "model", "model_version", "entities", "context", "views", "applied", "features", "statuses", "texts",
)  # fmt: skip
STATUS = {status.letter: status for status in Status}


def as_served(
    history: HistoryStore,
    project: spec.Project,
    spine: SpineLike,
    *,
    model: str,
    prediction_id: str = "prediction_id",
    label: str | None = None,
) -> Dataset:
    """For each row of ``spine`` (a column of prediction ids, and a label) the inputs that ``model`` has now, from the features logged then.

    The instants, ids and request inputs are those of the logged prediction. Raises RequestError for an id that is not in history, or
    a prediction that was made without a feature that the model reads now.
    """
    needs = Needs.of(project, model=model)
    columns = columns_of(spine)
    if prediction_id not in columns:
        raise RequestError(TITLE, f"the spine has no column {prediction_id!r} of prediction ids; it has {', '.join(columns) or 'none'}")
    if label is not None and label not in columns:
        raise RequestError(TITLE, f"the spine has no column {label!r} of labels; it has {', '.join(columns) or 'none'}")
    wanted = [str(value) for value in columns[prediction_id]]
    logged = find(history, project, set(wanted))
    absent = next((name for name in wanted if name not in logged), None)
    if absent is not None:
        raise RequestError(
            TITLE,
            f"prediction {absent!r} is not in history (yet): the history writer may be behind, or predictions were "
            "not logged",
        )
    predictions = [logged[name] for name in wanted]
    rows: list[dict[str, object]] = [
        {
            **{key: p.entities.get(key) for key in needs.join_keys},
            **{name: p.context.get(name) for name in needs.context},
            "at": p.asked_at_us,
        }
        for p in predictions
    ]
    labels = {} if label is None else {"label": columns[label]}
    names = ["at", *needs.join_keys, *needs.context]
    read = read_spine(
        {**{name: [row[name] for row in rows] for name in names}, **labels},
        join_keys=needs.join_keys, context=needs.context, instant="at", label=None if label is None else "label",
    )
    return assemble(needs, _values(needs, predictions, _Served(history, project)), read, simulated=False)


def newest(history: HistoryStore, project: spec.Project, model: str, most: int) -> list[str]:
    """Ids of the ``most`` latest predictions of the model that history holds, oldest first: what it is asked now, by real callers.

    Of versions that read other things, those alone that were made with all that the model reads as ``project`` has it.
    """
    latest: list[tuple[int, str]] = []     # a heap: the oldest of those kept is the first
    source = predictions_of(project.name)
    if model not in {one.name for one in project.models}:
        return []
    able = _Able(Needs.of(project, model=model), _Served(history, project))
    columns = ("prediction_id", "model", "views", "entities", "context")
    for partition in sorted(history.offsets(source.name)):
        for page in history.scan(source, partition=partition, columns=("asked_at", *columns), page_rows=5_000):
            read = (page.events.columns[name].tolist() for name in columns)
            for at_us, prediction_id, of, *made in zip(page.events.times_us.tolist(), *read, strict=True):
                newer = len(latest) < most or (at_us, prediction_id) > latest[0]
                if of == model and newer and able(*made):
                    (heappush if len(latest) < most else heappushpop)(latest, (at_us, prediction_id))
    return list(dict.fromkeys(name for _, name in sorted(latest)))


class _Served:
    """The views that were ever applied, by id, and which of their features each had."""

    def __init__(self, history: HistoryStore, project: spec.Project) -> None:
        self._history, self._project = history, project
        self.views = view_definitions(history, project)
        self._known: dict[str, dict[str, str]] = {}

    def features(self, view: spec.View) -> dict[str, str]:
        """Reference -> version: one of the same name and another version is another feature."""
        if view.id not in self._known:
            sources = view_sources(self._history, self._project, view)
            self._known[view.id] = {f.reference: feature_version(view, f, sources[f.aggregation.source]) for f in view.features}
        return self._known[view.id]


class _Able:
    """Whether a prediction was made with all that a model reads."""

    def __init__(self, needs: Needs, served: _Served) -> None:
        self._needs, self._served = needs, served
        self._known: dict[str, bool] = {}  # by the views that were read, as they stand in the log

    def __call__(self, views: str, entities: str, context: str) -> bool:
        needs = self._needs
        if views not in self._known:
            read = [f"{name}@{version}" for name, version in msgspec.json.decode(views, type=dict[str, str]).items()]
            names = {view.name for view in needs.views}
            then = [view for one in read if (view := self._served.views.get(one)) is not None and view.name in names]
            found = {name: version for view in then for name, version in self._served.features(view).items()}
            own = {name: version for view in needs.views for name, version in self._served.features(view).items()}
            self._known[views] = all(found.get(name) == own[name] for name in needs.references)
        if not self._known[views] or not needs.join_keys.keys() <= msgspec.json.decode(entities, type=dict[str, object]).keys():
            return False
        needed = [name for name, field in needs.context.items() if not field.nullable]
        sent = msgspec.json.decode(context, type=dict[str, object]) if needed else {}
        return all(sent.get(name) is not None for name in needed)


def find(history: HistoryStore, project: spec.Project, ids: set[str]) -> dict[str, Prediction]:
    """Prediction id -> prediction, for those of ``ids`` that history holds. One appended twice is one prediction."""
    found: dict[str, Prediction] = {}
    source = predictions_of(project.name)
    for partition in sorted(history.offsets(source.name)):
        for page in history.scan(source, partition=partition, columns=COLUMNS, page_rows=5_000):
            columns = page.events.columns
            for index, name in enumerate(columns["prediction_id"].tolist()):
                if name in ids and name not in found:
                    row: Mapping[str, Any] = {column: columns[column][index] for column in COLUMNS}
                    found[name] = Prediction.of({**row, "asked_at": int(page.events.times_us[index])})
    return found


def _values(needs: Needs, predictions: list[Prediction], known: _Served) -> dict[str, Values]:
    n = len(predictions)
    values = {
        view.name: Values(
            np.full((n, view.width), np.nan),
            np.full((n, len(view.features)), Status.MISSING, np.int8),
            np.full((n, len(view.features)), NO_TIME_US, np.int64),
            {place: np.full((n, view.features[place].size), None, object) for place in view.texts},
        )
        for view in needs.views
    }
    for index, prediction in enumerate(predictions):
        sliced = prediction.sliced(known.views)
        for view in needs.views:
            served, own = sliced.get(view.name), values[view.name]
            then = {} if served is None else {feature.name: number for number, feature in enumerate(served.view.features)}
            for place, feature in enumerate(view.features):
                number = then.get(feature.name)
                if served is None or number is None or _version(known, served.view, feature) != _version(known, view, feature):
                    if feature.reference in needs.references:
                        what = "without" if served is None or number is None else "when another thing was calculated as"
                        raise RequestError(
                            TITLE,
                            f"prediction {prediction.prediction_id!r} of {prediction.model}@{prediction.model_version} was made {what} "
                            f"{feature.reference}; leave it out, or make the dataset from history with known_at or delay"
                        )
                    continue
                if feature.is_text:
                    own.texts[place][index] = served.values(number)
                else:
                    own.values[index, view.spans[place]] = served.numbers[served.view.spans[number]]
                own.statuses[index, place] = STATUS[served.statuses[number]]
    return values


def _version(known: _Served, view: spec.View, feature: spec.Feature) -> str | None:
    """Of the feature of that name in this version of its view."""
    return known.features(view).get(feature.reference)
