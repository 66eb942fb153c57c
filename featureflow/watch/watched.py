"""What of an event a model is asked about: ids, request fields, and whose average its score goes into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.kernel.events import Events
from featureflow.kernel.expression import evaluate
from featureflow.reading.plan import ModelPlan

Id = str | int | None


class Watched:
    """One source that one model scores. ``entities``: (entity, the field that holds its id), one for each that some alert averages for."""

    def __init__(self, source: spec.Source, alerts: Sequence[spec.Alert], plan: ModelPlan) -> None:
        """``alerts``: those of the model on this source, at least one. They read the same ids and the same context, which the model
        decides, but for what each gives itself: the first one's stands for all. Raises ModelError for what is not said of the event."""
        first = alerts[0]
        self.source, self.plan = source, plan
        ids = {view.view.join_key: _id_of(source, view.view, first) for view in plan.views}
        context = {asked.column: (_value_of(source, asked.column, asked.field, first), asked.field.type) for asked in plan.context.values()}
        self._ids = {key: field for key, field in ids.items() if field is not None}
        self._context = {column: (value, kind) for column, (value, kind) in context.items() if value is not None}
        if lacks := [*(ids.keys() - self._ids.keys()), *(context.keys() - self._context.keys())]:
            raise ModelError(_unsaid(plan.model.name, lacks, first))
        self.entities = tuple(dict.fromkeys((alert.entity, alert.field) for alert in alerts))

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields of the source that are read."""
        fields = [*self._ids.values(), *(field for _, field in self.entities)]
        fields += [name for expr, _ in self._context.values() for name in spec.columns_of(expr)]
        return tuple(dict.fromkeys(fields))

    def ids(self, events: Events) -> dict[str, list[Id]]:
        """By join key, one of each event."""
        return {key: ids_of(events.columns[field], self.source.by_name[field]) for key, field in self._ids.items()}

    def context(self, events: Events) -> dict[str, NDArray[Any]]:
        """``request:field`` -> (n,): object of a str, else float64 with NaN for null."""
        found: dict[str, NDArray[Any]] = {}
        for name, (expr, kind) in self._context.items():
            values = evaluate(expr, events.columns, len(events))
            found[name] = values if kind == "str" else values.astype(np.float64) + 0.0  # -0.0 becomes 0.0
        return found


def ids_of(column: NDArray[Any], field: spec.Field) -> list[Id]:
    """(n,) as ``kernel.events.Events`` has it -> ids, None for null."""
    values = column.tolist()
    return values if field.type == "str" else [None if value != value else int(value) for value in values]


def by_source(project: spec.Project, model: str) -> Mapping[str, tuple[spec.Alert, ...]]:
    """Source -> the alerts on this model's scores of it."""
    found: dict[str, tuple[spec.Alert, ...]] = {}
    for alert in project.alerts:
        if alert.model == model:
            found[alert.source] = (*found.get(alert.source, ()), alert)
    return found


def check_said(project: spec.Project, model: spec.Model, name: str) -> None:
    """Raises ModelError where an event that an alert watches does not say all that the model reads. ``name``: of the version."""
    columns = dict.fromkeys(name for one in model.inputs for name in spec.columns_of(one.expr))
    fields = {f"{request.name}:{field.name}": field for request in project.requests for field in request.fields}
    views = dict.fromkeys(column.partition(":")[0] for column in columns if column not in fields)
    for alert in (alert for alert in project.alerts if alert.model == model.name):
        source = project.source(alert.source)
        lacks = [column for column in columns if column in fields and _value_of(source, column, fields[column], alert) is None]
        read = [project.view(view) for view in views]
        lacks += dict.fromkeys(view.join_key for view in read if _id_of(source, view, alert) is None)
        if lacks:
            raise ModelError(_unsaid(name, lacks, alert))


def _unsaid(name: str, lacks: Sequence[str], alert: spec.Alert) -> str:
    return (
        f"{name} reads {', '.join(lacks)}, and neither an event of {alert.source} nor the alert {alert.name} says what that is. Say it in "
        "the alert's context, or release a version that does not read it"
    )


def _id_of(source: spec.Source, view: spec.View, alert: spec.Alert) -> str | None:
    """The field that holds the id by which the view is read: as the alert says, of a view that its model does not read any more as it
    would (see ``define.alert``)."""
    if view.join_key in alert.ids:
        return alert.ids[view.join_key]
    if source.name in view.keys:
        return view.keys[source.name]
    able = [field.name for field in source.fields if field.entity == view.entity]
    if view.join_key in able:
        return view.join_key
    return able[0] if len(able) == 1 else None


def _value_of(source: spec.Source, column: str, asked: spec.Field, alert: spec.Alert) -> spec.Expr | None:
    """What stands for a request field, likewise."""
    if column in alert.context:
        return alert.context[column]
    own = source.by_name.get(asked.name)
    if own is None or ((own.type, own.size) != (asked.type, asked.size) and (own.type, asked.type) != ("int", "float")):
        return None
    return spec.Column(own.name)
