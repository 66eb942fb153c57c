"""An alert: what a model's scores of an event come to, before somebody is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from featureflow.define import spec
from featureflow.define.ensemble import Ensemble
from featureflow.define.entity import Entity, is_entity
from featureflow.define.event import Event
from featureflow.define.expression import Expr
from featureflow.define.keys import declared, keys_of, only_key
from featureflow.define.model import Model
from featureflow.define.name import a, check_class_name, listed, shown
from featureflow.define.place import Place, here, wrong
from featureflow.define.view import View, views_of

_BODY = ("context",)


class Alert:
    """Base of alerts.

        class Suspicious(Alert, model=Fraud, on=Payment, of=User, average=0.3, above=0.87, until=0.8):
            context = {Ask.amount: Payment.amount}

    ``featureflow watch`` scores every event as it arrives.

    - ``model``: the model, or ensemble, that scores it; ``on``: the event.
    - ``of``: the entity whose scores are averaged; ``role``: which field of the event holds its id, where several may.
    - ``average``: how much the newest score weighs in the exponential moving average; 1 is the score itself.
    - ``above``: the alert is raised where the average comes to it or beyond.
    - ``until``: it stays raised until the average is below this; left out, ``above``.
    - ``context``: what stands for the request fields that the model reads. A field of the event with the same name needs no mention.
    """

    _definition: ClassVar[spec.Alert]
    _place: ClassVar[Place]
    _uses: ClassVar[tuple[type, ...]]
    context: ClassVar[Mapping[Expr[Any], Expr[Any]]]

    def __init_subclass__(
        cls,
        *,
        model: type[Model] | type[Ensemble],
        on: type[Event],
        of: type[Entity[Any]],
        above: float,
        until: float | None = None,
        average: float = 0.3,
        role: Expr[str | int | None] | None = None,
    ) -> None:
        super().__init_subclass__()
        at = cls._place = here()
        name = check_class_name(cls, "alert", at)
        if cls.__bases__ != (Alert,):
            raise wrong(
                f"the alert {cls.__name__} is built on another class", write=f"class {cls.__name__}(Alert, model=...)", at=at
            )
        _check_kinds(cls, model, on, of, at)
        _check_numbers(cls, above, until, average, at)
        _check_body(cls, at)
        views = views_of(model._owners)
        cls._uses = (model, on, of)
        cls._definition = spec.Alert(
            name=name,
            model=model._definition.name,
            source=on._definition.name,
            entity=of._definition.name,
            field=_role(cls, on, of, role, at) if role is not None else _key(cls, on, of, at),
            ids={view._definition.join_key: _id(model, view, on, at) for view in views},
            context=_context(cls, model, on, at),
            average=float(average),
            above=float(above),
            until=float(above if until is None else until),
        )


def _check_kinds(cls: type[Alert], model: object, on: object, of: object, at: Place) -> None:
    kinds: tuple[tuple[str, object, tuple[type, ...], str], ...] = (
        ("model", model, (Model, Ensemble), "Fraud"), ("on", on, (Event,), "Payment"),
    )  # fmt: skip
    for word, value, bases, example in kinds:
        if not (isinstance(value, type) and issubclass(value, bases) and value not in bases):
            raise wrong(
                f"{word}={shown(value)} of {cls.__name__} is no {bases[0].__name__.lower()}",
                write=f"{word}={example}, a class of this file that is built on {bases[0].__name__}",
                at=at,
            )
    if not is_entity(of):
        raise wrong(f"of={shown(of)} of {cls.__name__} is no entity", write="of=User", at=at)


def _check_numbers(cls: type[Alert], above: object, until: object, average: object, at: Place) -> None:
    for word, value in (("above", above), ("until", until)):
        if value is not None and not _is_number(value):
            raise wrong(f"{word}={value!r} of {cls.__name__} is not a number", write=f"{word}=0.87", at=at)
    if until is not None and until > above:  # type: ignore[operator]  # numbers, as just looked at
        raise wrong(
            f"until={until!r} of {cls.__name__} is above above={above!r}: it would be cleared where it is raised",
            write=f"until={above!r} or less",
            at=at,
        )
    if not _is_number(average) or not 0 < average <= 1:  # type: ignore[operator]  # a number
        raise wrong(
            f"average={average!r} of {cls.__name__} is no weight of the newest score: above 0, and at most 1", write="average=0.3", at=at
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_body(cls: type[Alert], at: Place) -> None:
    for name, value in vars(cls).items():
        if not name.startswith("_") and name not in _BODY:
            raise wrong(
                f"{cls.__name__}.{name} is {shown(value)}; an Alert's body holds context only",
                write="it in the body of the Model, where it is a derived feature",
                at=at.within(name),
            )


def _id(model: type[Model] | type[Ensemble], view: type[View], on: type[Event], at: Place) -> str:
    """The field of the event that holds the id that this view is read by."""
    source, definition = on._definition, view._definition
    if source.name in definition.keys:
        return definition.keys[source.name]
    able = keys_of(on, view._of)
    if definition.join_key in able:
        return definition.join_key
    if len(able) == 1:
        return able[0]
    entity = view._of
    raise wrong(
        f"{model.__name__} reads {view.__name__}, of {entity.__name__}, and {on.__name__} has "
        + (f"{len(able)} keys of it ({listed(able)}), none of them named {definition.join_key}" if able else "no key of it"),
        write=f"{declared(definition.join_key, entity, on)}, or another model",
        at=at,
    )


def _key(cls: type[Alert], on: type[Event], of: type[Entity[Any]], at: Place) -> str:
    return only_key(cls, on, of, at, choose=lambda field: f"role={on.__name__}.{field}")


def _role(cls: type[Alert], on: type[Event], of: type[Entity[Any]], role: object, at: Place) -> str:
    match role:
        case Expr(node=spec.Column(name=name), owners=owners) if {owner.cls for owner in owners} == {on} and name in keys_of(on, of):
            return name
    raise wrong(
        f"role={role if isinstance(role, Expr) else shown(role)} of {cls.__name__} is no key of {of.__name__} in {on.__name__}",
        write=f"role={on.__name__}.{_key(cls, on, of, at)}",
        at=at,
    )


def _context(cls: type[Alert], model: type[Model] | type[Ensemble], on: type[Event], at: Place) -> dict[str, spec.Expr]:
    """``request:field`` -> what of the event stands for it, for each that the model reads; what else is written, for a version of it that
    was added when it did."""
    written = vars(cls).get("context", {})
    at = at.within("context")
    if not isinstance(written, dict):
        raise wrong(f"context of {cls.__name__} is {written!r}, not a dict", write="context = {Ask.amount: Payment.amount}", at=at)
    requests = {owner.cls for owner in model._owners if owner.kind == "request"}
    fields = {f"{request._definition.name}:{field.name}": (request, field) for request in requests for field in request._definition.fields}  # type: ignore[attr-defined]  # set on every Request
    wanted = [name for one in model._definition.inputs for name in spec.columns_of(one.expr) if name in fields]
    given: dict[str, Expr[Any]] = {}
    for key, value in written.items():
        owner = next(iter(key.owners), None) if isinstance(key, Expr) and isinstance(key.node, spec.Column) else None
        if owner is None or owner.kind != "request":
            raise wrong(
                f"context of {cls.__name__} names {key if isinstance(key, Expr) else shown(key)}, which is no request field",
                write=f"context = {{{_example(fields, wanted)}: {on.__name__}. ...}}",
                at=at,
            )
        name = key.node.name
        asked: spec.Request = owner.cls._definition  # type: ignore[attr-defined]  # set on every Request
        fields[name] = (owner.cls, next(field for field in asked.fields if name == f"{asked.name}:{field.name}"))
        if not isinstance(value, Expr) or {owner.cls for owner in value.owners} - {on}:
            raise wrong(
                f"context of {cls.__name__} gives {value if isinstance(value, Expr) else shown(value)} for {key}, which is not of "
                f"{on.__name__}",
                write=f"{key}: {_fitting(on, fields[name][1])}",
                at=at,
            )
        given[name] = value
    found: dict[str, spec.Expr] = {}
    for name in dict.fromkeys((*wanted, *given)):
        request, field = fields[name]
        full = f"{request.__name__}.{field.name}"
        if name not in given:
            own = on._definition.by_name.get(field.name)
            if own is None:
                raise wrong(
                    f"{model.__name__} reads {full}, and {on.__name__} has no field {field.name}",
                    write=f"context = {{{full}: {_fitting(on, field)}}}   (in the body of {cls.__name__})",
                    at=at,
                )
            given[name] = getattr(on, field.name)
        _check_type(cls, full, field, given[name], at)
        found[name] = given[name].node
    return found


def _example(fields: Mapping[str, tuple[Any, spec.Field]], wanted: Sequence[str]) -> str:
    return next((f"{fields[name][0].__name__}.{fields[name][1].name}" for name in wanted), "Ask.amount")


def _fitting(on: type[Event], field: spec.Field) -> str:
    """A field of the event that could stand for one of a request."""
    able = [own.name for own in on._definition.fields if own.type == field.type and own.name != on._definition.time_field]
    return f"{on.__name__}.{able[0] if able else field.name}"


def _check_type(cls: type[Alert], full: str, field: spec.Field, given: Expr[Any], at: Place) -> None:
    if (given.type, given.size) != (field.type, field.size) and (given.type, field.type) != ("int", "float"):
        has, wants = (f"{a(one.type)} of {one.size}" if one.type == "vector" else a(one.type) for one in (given, field))
        raise wrong(
            f"{given.text} is {has}, and {full}, for which it stands in {cls.__name__}, is {wants}",
            write=f"{a(field.type)}, in context = {{{full}: ...}}",
            at=at,
        )
