"""What of an event a model is asked about: ids, request fields, and whose average its score goes into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.kernel.events import Events
from featureflow.kernel.expression import evaluate
from featureflow.reading.plan import ModelPlan

Id = str | int | None


class Watched:
    """One source that one model scores. ``entities``: (entity, the field that holds its id), one for each that some alert averages for."""

    def __init__(self, source: spec.Source, alerts: Sequence[spec.Alert], plan: ModelPlan) -> None:
        """``alerts``: those of the model on this source, at least one. They read the same ids and the same context, which the model
        decides, but for what each gives itself: the first one's stands for all."""
        first = alerts[0]
        self.source, self.plan = source, plan
        self._ids = {key: first.ids[key] for key in plan.join_keys}
        self._context = {asked.column: (first.context[asked.column], asked.field.type) for asked in plan.context.values()}
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


def unsaid(project: spec.Project, model: spec.Model, alert: spec.Alert) -> list[str]:
    """What the model reads and the alert does not say of its events: request fields, and join keys of views."""
    columns = dict.fromkeys(name for one in model.inputs for name in spec.columns_of(one.expr))
    fields = {f"{request.name}:{field.name}" for request in project.requests for field in request.fields}
    keys = {view.name: view.join_key for view in project.views}
    lacks = [name for name in columns if name in fields and name not in alert.context]
    read = dict.fromkeys(keys[name.partition(":")[0]] for name in columns if name not in fields)
    return [*lacks, *(key for key in read if key not in alert.ids)]
