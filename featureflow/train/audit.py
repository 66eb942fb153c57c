"""Served == recomputed: a logged prediction's features, computed again from history by the kernel, to the bit.

A prediction says at which instant, up to which offsets and by which view versions its features were computed. That is all
that they depend on, however far behind the stream was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featureflow.define import spec
from featureflow.errors import HistoryError
from featureflow.kernel.finalize import Status, Values
from featureflow.store.history.protocol import HistoryStore
from featureflow.train.prediction import Prediction, Served, view_definitions
from featureflow.train.recall import Question, recall


@dataclass(frozen=True)
class Difference:
    """One feature's values as they were served, and as history has them."""

    feature: str                           # view:feature
    served: tuple[float | str | None, ...]
    recomputed: tuple[float | str | None, ...]


@dataclass(frozen=True)
class Audited:
    """``compared`` features were looked at: all but those that were served as missing. ``differences`` is empty where all is well."""

    prediction_id: str
    compared: int
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether history agrees, to the bit."""
        return not self.differences


def recompute_prediction(history: HistoryStore, project: spec.Project, row: Mapping[str, Any]) -> Audited:
    """One logged prediction (a row of the named query ``prediction``). Raises HistoryError where history cannot judge it."""
    return recompute_predictions(history, project, [row])[0]


def recompute_predictions(history: HistoryStore, project: spec.Project, rows: Sequence[Mapping[str, Any]]) -> list[Audited]:
    """Each logged prediction computed again; one reading of history for all.

    Raises HistoryError naming the first prediction that history has not come as far as, or does not reach back to, and for a view
    version that was never applied.
    """
    predictions = [Prediction.of(row) for row in rows]
    definitions = view_definitions(history, project)
    unknown = next((f"{n}@{v}" for p in predictions for n, v in p.views.items() if f"{n}@{v}" not in definitions), None)
    if unknown is not None:
        raise HistoryError(f"view version {unknown} was never applied to this history; audit with the project that served it")
    compared = [0] * len(predictions)
    differences: list[list[Difference]] = [[] for _ in predictions]
    sliced = [p.sliced(definitions) for p in predictions]
    for view_id in dict.fromkeys(f"{name}@{version}" for p in predictions for name, version in p.views.items()):
        view = definitions[view_id]
        users = [i for i, p in enumerate(predictions) if p.views.get(view.name) == view.version]
        values = recall(history, project, view, [_question(view, predictions[i]) for i in users])
        for place, i in enumerate(users):
            looked, found = _compare(sliced[i][view.name], values, place)
            compared[i] += looked
            differences[i] += found
    return [Audited(p.prediction_id, compared[i], tuple(differences[i])) for i, p in enumerate(predictions)]


def _question(view: spec.View, prediction: Prediction) -> Question:
    return Question(
        prediction.entities.get(view.join_key),
        prediction.asked_at_us,
        prediction.applied.get(view.name, {}),
        f"prediction {prediction.prediction_id!r} was made",
    )


def _compare(served: Served, values: Values, place: int) -> tuple[int, list[Difference]]:
    looked, found = 0, []
    for number, feature in enumerate(served.view.features):
        if served.statuses[number] == Status.MISSING.letter:
            continue
        looked += 1
        then = served.values(number)
        if feature.is_text:
            now = values.texts[number][place].tolist()
            equal = then == now
        else:
            cells = values.values[place, served.view.spans[number]]
            now = cells.tolist()
            equal = served.numbers[served.view.spans[number]].tobytes() == np.ascontiguousarray(cells).tobytes()
        if not equal:
            found.append(Difference(feature.reference, tuple(then), tuple(now)))
    return looked, found
