"""What applying a project would change, said before it is done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from featureflow.define import spec

Action = Literal["add", "change", "remove"]
Kind = Literal["entity", "event", "view", "request", "model", "alert", "label"]
VIEW_REMOVED = "its state stays until retired views are dropped"
SIGNS: dict[str, str] = {"add": "+", "change": "~", "remove": "-"}


@dataclass(frozen=True)
class Change:
    """One line of a plan."""

    action: Action
    kind: Kind
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{SIGNS[self.action]} {self.kind} {self.name}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class Plan:
    """False where nothing changes."""

    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) if self.changes else "nothing changes"


def plan(old: spec.Project | None, new: spec.Project, *, kept: Collection[str] = ()) -> Plan:
    """``kept``: ids of view versions that are not in ``old`` and whose state is still there."""
    before = old if old is not None else spec.Project()
    return Plan(
        (
            *_changes("entity", before.entities, new.entities, lambda a, b: f"its id is now {b.type}, was {a.type}"),
            *_changes("event", before.sources, new.sources, _source_detail, removed="its topic and its history stay"),
            *_changes(
                "view", before.views, new.views, lambda a, b: _view_detail(a, b, kept), added=lambda view: _view_added(view, kept),
                removed=VIEW_REMOVED,
            ),
            *_changes("request", before.requests, new.requests, lambda a, b: _names(_named(a.fields), _named(b.fields), "field")),
            *_changes("model", before.models, new.models, _model_detail),
            *_changes("alert", before.alerts, new.alerts, _alert_detail, added=_alert_added, removed="its averages stay"),
            *_changes("label", before.labels, new.labels, lambda a, b: "counted anew", added=lambda label: f"of {label.model}"),
        )
    )


N = TypeVar("N", spec.Entity, spec.Source, spec.View, spec.Request, spec.Model, spec.Alert, spec.Label)


def _changes(
    kind: Kind,
    before: Iterable[N],
    after: Iterable[N],
    detail: Callable[[N, N], str],
    *,
    added: Callable[[N], str] = lambda value: "",
    removed: str = "",
) -> list[Change]:
    olds: dict[str, N] = {value.name: value for value in before}
    news: dict[str, N] = {value.name: value for value in after}
    return [
        *(Change("add", kind, name, added(value)) for name, value in news.items() if name not in olds),
        *(Change("change", kind, name, detail(olds[name], value)) for name, value in news.items() if name in olds and olds[name] != value),
        *(Change("remove", kind, name, removed) for name in olds if name not in news),
    ]


def _source_detail(old: spec.Source, new: spec.Source) -> str:
    parts = [_names(old.by_name, new.by_name, "field")]
    for name in ("topic", "time_field", "disorder_us", "future_us", "keyed_by", "format", "dedupe", "within_us"):
        a, b = getattr(old, name), getattr(new, name)
        if a != b:
            parts.append(f"{name} {a} -> {b}")
    return "; ".join(part for part in parts if part)


def _view_added(view: spec.View, kept: Collection[str]) -> str:
    features = "1 feature" if len(view.features) == 1 else f"{len(view.features)} features"
    begins = "; it goes on where it was left" if view.id in kept else ""
    return f"version {view.version}, {features} of {view.entity} from {', '.join(view.sources)}{begins}"


def _view_detail(old: spec.View, new: spec.View, kept: Collection[str]) -> str:
    if old.version == new.version:
        if old.publish == new.publish:
            return f"names or defaults only, version {new.version} stays"
        how = "are published from each entity's next event on" if new.publish else "are published no more; apply --prune deletes them"
        return f"its values {how}, version {new.version} stays"
    names = _names({f.name: f for f in old.features}, {f.name: f for f in new.features}, "feature")
    begins = "which goes on where it was left" if new.id in kept else "folded again from history and the log"
    return f"version {old.version} -> {new.version}, {begins}" + (f"; {names}" if names else "")


def _model_detail(old: spec.Model, new: spec.Model) -> str:
    parts = [_names({i.name: i for i in old.inputs}, {i.name: i for i in new.inputs}, "input")]
    if [i.name for i in old.inputs] != [i.name for i in new.inputs] and {i.name for i in old.inputs} == {i.name for i in new.inputs}:
        parts.append("inputs in another order")
    for name in ("deadline_us", "drift", "when_missing", "max_age_us", "stale_for_us", "cache_scores"):
        a, b = getattr(old, name), getattr(new, name)
        if a != b:
            parts.append(f"{name} {a} -> {b}")
    if old.ensemble != new.ensemble:
        parts.append("its rules" if old.ensemble is not None and new.ensemble is not None else "a model and an ensemble are not the same")
    return "; ".join(part for part in parts if part)


def _alert_added(alert: spec.Alert) -> str:
    return f"on {alert.source}, of {alert.entity}: raised at {alert.above}, cleared below {alert.until}; featureflow watch {alert.model}"


def _alert_detail(old: spec.Alert, new: spec.Alert) -> str:
    return "; ".join(
        f"{name} {a} -> {b}" if name not in ("ids", "context") else f"{name} changed"
        for name in old.__struct_fields__
        if (a := getattr(old, name)) != (b := getattr(new, name))
    )


def _named(fields: Iterable[spec.Field]) -> dict[str, spec.Field]:
    return {field.name: field for field in fields}


def _names(old: Mapping[str, object], new: Mapping[str, object], noun: str) -> str:
    """``fields +a +b ~c -d``, or nothing."""
    parts = [f"+{name}" for name in new if name not in old]
    parts += [f"~{name}" for name in new if name in old and old[name] != new[name]]
    parts += [f"-{name}" for name in old if name not in new]
    return f"{noun}s {' '.join(parts)}" if parts else ""
