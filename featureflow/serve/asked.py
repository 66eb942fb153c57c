"""A score body against one model: decoded straight into that model's own types, and looked at again, by the exact rules, where it
does not fit, for a message that says what to change.

The typed structs take a subset of what the rules take (a string is measured in characters, times four), with the same values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import astuple

from featureflow import limits
from featureflow.define.spec import Field
from featureflow.errors import RequestError
from featureflow.reading.plan import ModelPlan
from featureflow.serve import problem
from featureflow.serve.ranking import Ranking
from featureflow.serve.request import ContextInput, Row, check_id, instant_us
from featureflow.serve.wire.v1 import SCORE_BODY, DeadlineMs, EntityId, PriorityName, ScoreBody, Value


class Asked(msgspec.Struct, eq=False):
    """What a body asks for."""

    rows: list[Row]
    deadline_ms: float | None
    explain: bool
    ranking: Ranking | None = None
    priority: str | None = None


class BodyDecoder:
    """Decodes the bodies of one model, for versions of one plan.

    What only other versions read is checked and let through, to be logged with the rest: a caller who sends all that any version needs is
    answered by each. It is looked for by the typed structs once somebody has sent it.
    """

    def __init__(self, plan: ModelPlan) -> None:
        self._plan = plan
        self._instants = [i for i, asked in enumerate(plan.context.values()) if asked.field.type == "datetime"]
        self._large = _large(plan)
        self._with_others = False
        self._make([], [])

    def _make(self, keys: list[tuple[str, str]], others: list[Field]) -> None:
        """The structs. ``keys`` and ``others``: what is taken beside what the plan reads."""
        plan = self._plan
        self._own_keys, self._own = len(plan.join_keys), len(plan.context)
        self._names = (*plan.context, *(other.name for other in others))
        entities = msgspec.defstruct(
            "Entities",
            [
                *((f"f{i}", _id(kind), msgspec.field(name=name)) for i, (name, kind) in enumerate(plan.join_keys.items())),
                *((f"o{i}", _id(kind) | UnsetType, msgspec.field(default=UNSET, name=name)) for i, (name, kind) in enumerate(keys)),
            ],
            forbid_unknown_fields=True,
            gc=False,
        )
        fields = [
            *(_input(i, asked.field) for i, asked in enumerate(plan.context.values())),
            *((f"o{i}", _kind(other) | None | UnsetType, msgspec.field(default=UNSET, name=other.name)) for i, other in enumerate(others)),
        ]
        context = msgspec.defstruct("Context", fields, forbid_unknown_fields=True, kw_only=True, gc=False)
        needed = not all(asked.field.nullable for asked in plan.context.values())
        row = msgspec.defstruct(
            "Row",
            [
                ("entities", entities),
                ("context", context) if needed else ("context", context, msgspec.field(default_factory=context)),
            ],
            forbid_unknown_fields=True,
        )
        one = msgspec.defstruct(
            "Body",
            [
                ("entities", entities),
                ("context", context) if needed else ("context", context, msgspec.field(default_factory=context)),
                ("deadline_ms", DeadlineMs | None, None),
                ("explain", bool, False),
                ("priority", PriorityName | None, None),
            ],
            forbid_unknown_fields=True,
        )
        many = msgspec.defstruct(
            "Bodies",
            [
                ("rows", Annotated[list[row], Meta(min_length=1, max_length=limits.ROWS_PER_REQUEST)]),  # type: ignore[valid-type]  # made here
                ("deadline_ms", DeadlineMs | None, None),
                ("explain", bool, False),
                ("priority", PriorityName | None, None),
            ],
            forbid_unknown_fields=True,
        )
        self._one = msgspec.json.Decoder(one).decode
        self._many = msgspec.json.Decoder(many).decode
        self._row = self._row_with_others if keys or others else self._row_alone

    def decode(self, raw: bytes) -> Asked:
        """Raises RequestError: 400 for a body that is not JSON, 422 for one that does not fit the model, naming the row and the field."""
        body: Any
        try:
            if b'"rows"' in raw:
                body = self._many(raw)
                return Asked([self._row(row) for row in body.rows], body.deadline_ms, body.explain, priority=body.priority)
            body = self._one(raw)
            return Asked([self._row(body)], body.deadline_ms, body.explain, priority=body.priority)
        except (ValueError, RecursionError):  # msgspec's and Unicode errors are ValueErrors
            pass
        try:
            general = SCORE_BODY.decode(raw)
        except (ValueError, RecursionError) as error:
            raise problem.undecodable(error, raw) from None
        rows = rows_of(general, self._plan)
        if not self._with_others and any(has_others(row.entities, row.context, self._plan) for row in rows):
            self._with_others = True
            others = [one for one, *more in self._plan.other_context.values() if _is_plain(one, more)]
            self._make(list(self._plan.other_keys.items()), others)
        return Asked(rows, general.deadline_ms, general.explain, priority=general.priority)

    def _row_with_others(self, body: Any) -> Row:
        row = self._row_alone(body)
        row.ids, row.inputs = row.ids[: self._own_keys], row.inputs[: self._own]
        return row

    def _row_alone(self, body: Any) -> Row:
        sent = inputs = _packed(astuple(body.context)) if self._large else astuple(body.context)
        if self._instants:
            changed = list(inputs)
            for i in self._instants:
                if changed[i] is not None:
                    changed[i] = float(instant_us(changed[i], "context"))
            inputs = tuple(changed)
        context = body.context
        if self._large:
            context = _logged({name: value for name, value in zip(self._names, sent, strict=True) if value is not UNSET})
        return Row(body.entities, context, astuple(body.entities), inputs)


def _id(kind: str) -> Any:
    if kind == "str":
        return Annotated[str, Meta(min_length=1, max_length=limits.KEY_BYTES // 4)] | None
    return Annotated[int, Meta(ge=-limits.INTEGER_ABS, le=limits.INTEGER_ABS)] | None


def _input(i: int, field: Field) -> tuple[str, Any, Any]:
    if field.nullable:
        return f"f{i}", _kind(field) | None, msgspec.field(default=None, name=field.name)
    return f"f{i}", _kind(field), msgspec.field(name=field.name)


def _kind(field: Field) -> Any:
    kinds: dict[str, Any] = {
        "str": Annotated[str, Meta(max_length=field.max_bytes // 4)],
        "int": Annotated[int, Meta(ge=-limits.INTEGER_ABS, le=limits.INTEGER_ABS)],
        "float": Annotated[float, Meta(gt=-limits.NUMBER_ABS, lt=limits.NUMBER_ABS)],
        "bool": bool,
        "datetime": str | int,
        "vector": Annotated[
            list[Annotated[float, Meta(gt=-limits.NUMBER_ABS, lt=limits.NUMBER_ABS)]], Meta(min_length=field.size, max_length=field.size)
        ],
    }
    return Literal[field.categories] if field.categories else kinds[field.type]


def _is_plain(field: Field, more: list[Field]) -> bool:
    """Whether a field that another version reads has one type, and one that its JSON shows: the exact rules look at the others."""
    return field.type not in ("vector", "datetime") and not more


def has_others(entities: Any, context: Any, plan: ModelPlan) -> bool:
    """Whether a row as it was sent has what only other versions read."""
    return not (entities.keys() <= plan.join_keys.keys() and context.keys() <= plan.context.keys())


def _large(plan: ModelPlan) -> bool:
    """Whether a row's vectors are more than its record in the prediction log has room for."""
    return sum(asked.field.size for asked in plan.context.values() if asked.field.type == "vector") > limits.LOGGED_NUMBERS


def _logged(context: Mapping[str, Any]) -> dict[str, Any]:
    """The context with each vector's SHA-256, of its numbers as little-endian float64, in place of its numbers."""
    return {
        name: {"sha256": sha256(np.asarray(value, "<f8").tobytes()).hexdigest(), "numbers": len(value)}
        if isinstance(value, list | np.ndarray)
        else value
        for name, value in context.items()
    }


def _packed(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """With vectors as arrays: a list takes four times the bytes, and rows wait for their turn."""
    return tuple([np.array(value, np.float64) if isinstance(value, list) else value for value in inputs])


# -- the exact rules ---------------------------------------------------------------------------------------------------


def rows_of(body: ScoreBody, plan: ModelPlan, places: Sequence[int] | None = None) -> list[Row]:
    """The rows of a score body; ``places``: some of them.

    Raises RequestError (422) naming the row and the field, and what to send instead.
    """
    if body.rows is not UNSET:
        if body.entities is not UNSET or body.context is not UNSET:
            raise RequestError(
                "Two kinds of body", "send either rows, or entities and context at the top; not both", status=422
            )
        chosen = range(len(body.rows)) if places is None else places
        return [row_of(body.rows[i].entities, body.rows[i].context, plan, f"rows[{i}].") for i in chosen]
    if body.entities is UNSET:
        if plan.join_keys:
            raise RequestError("No entities", f"send entities: {_shape(plan)}", status=422)
        return [row_of({}, {} if body.context is UNSET else body.context, plan, "")]
    return [row_of(body.entities, {} if body.context is UNSET else body.context, plan, "")]


def row_of(entities: Mapping[str, EntityId], context: Mapping[str, Value], plan: ModelPlan, place: str) -> Row:
    """One row, checked. ``place`` stands before a field's name in messages."""
    if entities.keys() != plan.join_keys.keys():
        absent, others = plan.join_keys.keys() - entities.keys(), entities.keys() - plan.join_keys.keys()
        unknown = others - plan.other_keys.keys()
        if absent or unknown:
            said = "; ".join(filter(None, (_names("absent", absent), _names("not known", unknown))))
            raise RequestError(
                "Wrong entities", f"{place}entities: {said}. Send {_shape(plan)} (an id may be null)", status=422
            )
        for name in others:
            check_id(entities[name], plan.other_keys[name], f"{place}entities.{name}")
    for name, kind in plan.join_keys.items():
        check_id(entities[name], kind, f"{place}entities.{name}")
    inputs: tuple[ContextInput, ...] = ()
    if plan.context or context:
        inputs = _inputs(context, plan, place)
    ids = tuple(entities[name] for name in plan.join_keys)
    if _large(plan) or sum(len(value) for value in context.values() if isinstance(value, list)) > limits.LOGGED_NUMBERS:
        return Row(entities, _logged(context), ids, _packed(inputs))
    return Row(entities, context, ids, inputs)


def _inputs(context: Mapping[str, Value], plan: ModelPlan, place: str) -> tuple[ContextInput, ...]:
    if others := context.keys() - plan.context.keys():
        if unknown := others - plan.other_context.keys():
            raise RequestError(
                "Unknown context", f"{place}context: {_names('not known', unknown)}. Send {_context(plan)}", status=422
            )
        for name in sorted(others):
            _check_other(context[name], plan.other_context[name], f"{place}context.{name}")
    out: list[ContextInput] = []
    for name, asked in plan.context.items():
        value = context.get(name)
        if value is None:
            if not asked.field.nullable:
                raise RequestError(
                    "Context is absent", f"{place}context.{name} is absent or null. Send {_context(plan)}", status=422
                )
            out.append(None)
        else:
            out.append(_scalar(value, asked.field, f"{place}context.{name}"))
    return tuple(out)


def _check_other(value: Value, fields: Sequence[Field], place: str) -> None:
    """A value that another version reads, as one of the fields of that name has it."""
    problem: RequestError | None = None
    for field in fields:
        try:
            if value is not None:
                _scalar(value, field, place)
            return
        except RequestError as error:
            problem = error
    if problem is not None:
        raise problem


def _scalar(value: bool | int | float | str | list[float], field: Field, place: str) -> float | str | list[float]:
    match field.type:
        case "vector" if type(value) is list:
            if len(value) != field.size:
                raise RequestError("Wrong length", f"{place} must have {field.size} numbers, not {len(value)}", status=422)
            if all(abs(number) < limits.NUMBER_ABS for number in value):
                return value
            raise RequestError("Number out of range", f"the numbers of {place} must be within +-2^63", status=422)
        case "int" if type(value) is int or (type(value) is float and value.is_integer()):
            if abs(value) <= limits.INTEGER_ABS:
                return float(value)
            raise RequestError("Number out of range", f"{place} must be within +-2^53", status=422)
        case "float" if type(value) is int or type(value) is float:
            if abs(value) < limits.NUMBER_ABS:
                return float(value)
            raise RequestError("Number out of range", f"{place} must be within +-2^63", status=422)
        case "bool" if type(value) is bool:
            return float(value)
        case "str" if field.categories and type(value) is str:
            if value in field.categories:
                return value
            known = ", ".join(field.categories[:10]) + ", ..." * (len(field.categories) > 10)
            raise RequestError("Unknown category", f"{place} must be one of {known}", status=422)
        case "str" if type(value) is str:
            if len(value.encode()) <= field.max_bytes:
                return value
            raise RequestError("String too long", f"{place} has more than {field.max_bytes} bytes of UTF-8", status=422)
        case "datetime" if type(value) is str or type(value) is int:
            return float(instant_us(value, place))
    kind = f"a list of {field.size} numbers" if field.type == "vector" else field.type
    raise RequestError("Wrong type of context", f"{place} must be {kind}, not {type(value).__name__}", status=422)


def _names(what: str, names: set[str]) -> str:
    shown = ", ".join(sorted(name[:64] for name in names)[:8])
    return f"{what}: {shown}" if names else ""


def _shape(plan: ModelPlan) -> str:
    return (
        "{"
        + ", ".join(f'"{name}": {"string" if kind == "str" else "integer"}' for name, kind in plan.join_keys.items())
        + "}"
    )


def _context(plan: ModelPlan) -> str:
    return "{" + ", ".join(f'"{name}": {asked.field.type}' for name, asked in plan.context.items()) + "}"
