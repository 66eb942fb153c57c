"""A request on its way: what was asked, checked against the definitions, and where its answer goes.

    Request   one call: some rows, one deadline, one future
    Row       one prediction to make: an id per view, and the request's own inputs as floats or strings
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

import msgspec
from msgspec import UNSET

from featureflow import limits
from featureflow.clock import to_us
from featureflow.define.spec import Field
from featureflow.errors import RequestError
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.deadline import Deadline
from featureflow.serve.plan import ModelPlan
from featureflow.serve.wire.v1 import EntityId, Scalar, ScoreBody

NAN = float("nan")
INSTANT_US = (-62_135_596_800_000_000, 253_402_300_799_999_999)   # years 1 to 9999


class Row:
    __slots__ = ("context", "entities", "ids", "inputs")

    def __init__(self, entities: Mapping[str, EntityId], context: Mapping[str, Scalar], ids: tuple[EntityId, ...], inputs: tuple[float | str | None, ...]) -> None:
        self.entities = entities           # as sent, for the prediction log
        self.context = context
        self.ids = ids                     # one per view of the model, in its order
        self.inputs = inputs               # one per request input of the model, in its order; None: a null string


class Request:
    __slots__ = ("deadline", "explain", "future", "id", "plan", "ref", "rows", "trace")

    def __init__(self, id: str, plan: ModelPlan, ref: str, rows: list[Row], deadline: Deadline, future: asyncio.Future[Answer | Shed],
                 *, explain: bool = False, trace: str = "") -> None:
        self.id, self.plan, self.ref, self.rows, self.deadline, self.future = id, plan, ref, rows, deadline, future
        self.explain = explain
        self.trace = trace                 # W3C traceparent, or empty


def rows_of(body: ScoreBody, plan: ModelPlan) -> list[Row]:
    """The rows of a score body.

    Raises RequestError (422) naming the row and the field, and what to send instead.
    """
    if body.rows is not UNSET:
        if body.entities is not UNSET or body.context is not UNSET:
            raise RequestError("Two kinds of body", "send either rows, or entities and context at the top; not both", status=422)
        return [row_of(r.entities, r.context, plan, f"rows[{i}].") for i, r in enumerate(body.rows)]
    if body.entities is UNSET:
        if plan.join_keys:
            raise RequestError("No entities", f"send entities: {_shape(plan)}", status=422)
        return [row_of({}, {} if body.context is UNSET else body.context, plan, "")]
    return [row_of(body.entities, {} if body.context is UNSET else body.context, plan, "")]


def row_of(entities: Mapping[str, EntityId], context: Mapping[str, Scalar], plan: ModelPlan, place: str) -> Row:
    """One row, checked. ``place`` stands before a field's name in messages."""
    if entities.keys() != plan.join_keys.keys():
        absent, unknown = plan.join_keys.keys() - entities.keys(), entities.keys() - plan.join_keys.keys()
        said = "; ".join(filter(None, (_names("absent", absent), _names("not known", unknown))))
        raise RequestError("Wrong entities", f"{place}entities: {said}. Send {_shape(plan)} (an id may be null)", status=422)
    for name, kind in plan.join_keys.items():
        check_id(entities[name], kind, f"{place}entities.{name}")
    inputs: tuple[float | str | None, ...] = ()
    if plan.context or context:
        inputs = _inputs(context, plan, place)
    return Row(entities, context, tuple([entities[name] for name in plan.slots]), inputs)


def check_id(value: EntityId, kind: str, place: str) -> None:
    """Raises RequestError (422) unless the id is of the entity's type and within limits; null is allowed."""
    if kind == "str":
        if type(value) is str:
            if len(value) * 4 > limits.KEY_BYTES and len(value.encode()) > limits.KEY_BYTES:
                raise RequestError("Id too long", f"{place} has more than {limits.KEY_BYTES} bytes of UTF-8", status=422)
            return
    elif type(value) is int:
        if abs(value) > limits.INTEGER_ABS:
            raise RequestError("Id out of range", f"{place} must be within +-2^53", status=422)
        return
    if value is not None:
        wanted = "a string" if kind == "str" else "a whole number"
        raise RequestError("Wrong type of id", f"{place} must be {wanted} (or null), not {type(value).__name__}", status=422)


def _inputs(context: Mapping[str, Scalar], plan: ModelPlan, place: str) -> tuple[float | str | None, ...]:
    if unknown := context.keys() - plan.context.keys():
        raise RequestError("Unknown context", f"{place}context: {_names('not known', unknown)}. Send {_context(plan)}", status=422)
    out: list[float | str | None] = []
    for name, asked in plan.context.items():
        value = context.get(name)
        if value is None:
            if not asked.field.nullable:
                raise RequestError("Context is absent", f"{place}context.{name} is absent or null. Send {_context(plan)}", status=422)
            out.append(None if asked.field.type == "str" else NAN)
        else:
            out.append(_scalar(value, asked.field, f"{place}context.{name}"))
    return tuple(out)


def _scalar(value: bool | int | float | str, field: Field, place: str) -> float | str:
    match field.type:
        case "int" if type(value) is int or (type(value) is float and value.is_integer()):
            if abs(value) <= limits.INTEGER_ABS:
                return float(value)
            raise RequestError("Number out of range", f"{place} must be within +-2^53", status=422)
        case "float" if type(value) is int or type(value) is float:
            if abs(value) < limits.NUMBER_ABS:
                return float(value) + 0.0  # -0.0 becomes 0.0
            raise RequestError("Number out of range", f"{place} must be within +-2^63", status=422)
        case "bool" if type(value) is bool:
            return float(value)
        case "str" if type(value) is str:
            if len(value.encode()) <= field.max_bytes:
                return value
            raise RequestError("String too long", f"{place} has more than {field.max_bytes} bytes of UTF-8", status=422)
        case "datetime" if type(value) is str or type(value) is int:
            return float(instant_us(value, place))
    raise RequestError("Wrong type of context", f"{place} must be {field.type}, not {type(value).__name__}", status=422)


def instant_us(value: str | int, place: str) -> int:
    """An instant as RFC 3339 with a zone, or as microseconds since 1970 UTC. Raises RequestError (422)."""
    try:
        us = value if isinstance(value, int) else to_us(msgspec.convert(value, datetime))
    except (msgspec.ValidationError, ValueError, OverflowError):
        us = INSTANT_US[1] + 1
    if not INSTANT_US[0] <= us <= INSTANT_US[1]:
        raise RequestError(
            "Not an instant", f'{place} must be RFC 3339 with a zone ("2013-12-30T22:00:00Z") or microseconds since 1970 UTC', status=422,
        )
    return us


def _names(what: str, names: set[str]) -> str:
    shown = ", ".join(sorted(name[:64] for name in names)[:8])
    return f"{what}: {shown}" if names else ""


def _shape(plan: ModelPlan) -> str:
    return "{" + ", ".join(f'"{name}": {"string" if kind == "str" else "integer"}' for name, kind in plan.join_keys.items()) + "}"


def _context(plan: ModelPlan) -> str:
    return "{" + ", ".join(f'"{name}": {asked.field.type}' for name, asked in plan.context.items()) + "}"
