"""A training set of the very bytes that were served: lag, outages and late events are in it as they were in life."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappush, heappushpop
from typing import Any

import numpy as np

from featureflow.clock import NO_TIME_US
from featureflow.define import spec
from featureflow.define.system import predictions as predictions_of
from featureflow.errors import RequestError
from featureflow.kernel.finalize import Status, Values
from featureflow.store.history.protocol import HistoryStore
from featureflow.train.dataset import Dataset, assemble
from featureflow.train.needs import Needs
from featureflow.train.prediction import Prediction, view_definitions
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
    return assemble(needs, _values(needs, predictions, view_definitions(history, project)), read, simulated=False)


def newest(history: HistoryStore, project: spec.Project, model: str, most: int) -> list[str]:
    """Ids of the ``most`` latest predictions of the model that history holds, oldest first: what it is asked now, by real callers."""
    latest: list[tuple[int, str]] = []     # a heap: the oldest of those kept is the first
    source = predictions_of(project.name)
    for partition in sorted(history.offsets(source.name)):
        for page in history.scan(source, partition=partition, columns=("asked_at", "prediction_id", "model"), page_rows=5_000):
            ids, models = (page.events.columns[name].tolist() for name in ("prediction_id", "model"))
            for asked in zip(page.events.times_us.tolist(), ids, models, strict=True):
                if asked[2] == model:
                    (heappush if len(latest) < most else heappushpop)(latest, asked[:2])
    return list(dict.fromkeys(name for _, name in sorted(latest)))


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


def _values(needs: Needs, predictions: list[Prediction], definitions: Mapping[str, spec.View]) -> dict[str, Values]:
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
        sliced = prediction.sliced(definitions)
        for view in needs.views:
            served, own = sliced.get(view.name), values[view.name]
            then = {} if served is None else {feature.name: number for number, feature in enumerate(served.view.features)}
            for place, feature in enumerate(view.features):
                number = then.get(feature.name)
                if served is None or number is None or _shape(served.view.features[number]) != _shape(feature):
                    if feature.reference in needs.references:
                        raise RequestError(
                            TITLE,
                            f"prediction {prediction.prediction_id!r} of {prediction.model}@{prediction.model_version} was made without "
                            f"{feature.reference}; leave it out, or make the dataset from history with known_at or delay"
                        )
                    continue
                if feature.is_text:
                    own.texts[place][index] = served.values(number)
                else:
                    own.values[index, view.spans[place]] = served.numbers[served.view.spans[number]]
                own.statuses[index, place] = STATUS[served.statuses[number]]
    return values


def _shape(feature: spec.Feature) -> tuple[int, bool]:
    return feature.size, feature.is_text
