"""What is applied, for the OpenAPI document: a path for each model, source and view, with what exactly it takes and a body that succeeds.

The schemas take what the decoders take, but for a string's bound, which is in bytes of UTF-8 and here in characters, and for what the
recalls of one request have to be together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from featureflow import limits
from featureflow.define.spec import Field, Source
from featureflow.kernel.field import bound
from featureflow.reading.plan import ModelPlan, Plan, ViewPlan
from featureflow.serve.operation import ASKED, LOOKED_AT, TRACED, Schema, operation, path
from featureflow.serve.priority import NAMES as PRIORITIES
from featureflow.serve.wire import v1
from featureflow.serve.wire.rank import RankAnswer

REFUSED = (400, 408, 413, 415, 422, 503)
INTEGER: Schema = {"type": "integer", "minimum": -limits.INTEGER_ABS, "maximum": limits.INTEGER_ABS}
NUMBER: Schema = {"type": "number", "exclusiveMinimum": -limits.NUMBER_ABS, "exclusiveMaximum": limits.NUMBER_ABS}
INSTANT: Schema = {
    "description": "RFC 3339 with a zone, or whole microseconds since 1970 UTC",
    "anyOf": [{"type": "string", "format": "date-time"}, INTEGER],
}
AT: Schema = {
    "name": "at",
    "in": "query",
    "schema": {"type": "string", "minLength": 1},
    "description": "RFC 3339 with a zone, or microseconds since 1970 UTC",
}


def paths(plan: Plan, now: str, models: Mapping[str, ModelPlan]) -> dict[str, Schema]:
    """The paths under the names of ``plan``. ``now``: the instant of the examples, so that their events are not too old to count.
    ``models``: name -> the plan of the version that answers."""
    made: dict[str, Schema] = {}
    for name, model in models.items():
        made[f"/v1/score/{name}"] = {"post": _score(name, model, now)}
        if model.join_keys:
            made[f"/v1/rank/{name}"] = {"post": _rank(name, model, plan.views.values(), now)}
    for source in plan.project.sources:
        if source.format == "json":
            made[f"/v1/events/{source.name}"] = {"post": _events(source, now)}
    for name, view in plan.views.items():
        made[f"/v1/features/{name}"] = {"post": _features(name, view)}
        made[f"/v1/features/{name}/{{id}}"] = {"get": _entity(name, view)}
    return made


def _score(name: str, plan: ModelPlan, now: str) -> Schema:
    keys = {**plan.join_keys, **plan.other_keys}
    entities = _object({key: _id(kind, nullable=True) for key, kind in keys.items()}, plan.join_keys)
    context = _context(plan)
    in_row = ["entities", *(["context"] if context["required"] else [])]
    needed = in_row if plan.join_keys else in_row[1:]
    row: Mapping[str, Schema] = {"entities": entities, "context": context}
    common: Mapping[str, Schema] = {**_options(plan), "priority": {"enum": [*PRIORITIES, None]}}
    rows = {"type": "array", "items": _object(row, in_row), "minItems": 1, "maxItems": limits.ROWS_PER_REQUEST}
    example = {"entities": {key: _an_id(kind) for key, kind in plan.join_keys.items()}, **_a_context(plan, now)}
    return operation(
        f"score_{name}",
        f"Score rows of {name}",
        v1.ScoreAnswer,
        body={"oneOf": [_object({**row, **common}, needed), _object({"rows": rows, **common}, ["rows"])]},
        examples={"one": example, "several": {"rows": [example, example], "explain": True}},
        parameters=[*ASKED],
        problems=REFUSED,
    )


def _rank(name: str, plan: ModelPlan, views: Iterable[ViewPlan], now: str) -> Schema:
    """Features of recalls may be of entities that the model does not know."""
    views = list(views)
    context = _context(plan)
    kinds = []
    for candidate, kind in plan.join_keys.items():
        others = {key: _id(other, nullable=True) for key, other in plan.join_keys.items() if key != candidate}
        ranked = _id(kind, nullable=False)
        one: Schema = {"anyOf": [ranked, _object({"id": ranked, "context": _object(context["properties"], [])}, ["id"])]}
        beside = [view for view in views if view.view.join_key != candidate]
        more = {view.view.join_key: _id(view.entity_type, nullable=True) for view in beside}
        body: Mapping[str, Schema] = {
            "entities": _object({**more, **others}, others),
            "context": context,
            "recalls": {"type": "array", "items": {"anyOf": _recalls(one, kind, beside)}, "minItems": 1, "maxItems": limits.RECALLS},
            "exclude": {"type": "array", "items": ranked, "maxItems": limits.CANDIDATES},
            "k": {"type": "integer", "minimum": 1, "maximum": limits.CANDIDATES, "default": 10},
            **_options(plan),
        }
        kinds.append(_object(body, ["recalls", *(["entities"] if others else []), *(["context"] if context["required"] else [])]))
    *known, (_, kind) = plan.join_keys.items()
    example = {
        "entities": {key: _an_id(other) for key, other in known},
        "recalls": [{"source": "search", "ids": [_an_id(kind)]}],
        **_a_context(plan, now),
    }
    return operation(
        f"rank_{name}",
        f"Score candidates with {name}, and answer the best",
        RankAnswer,
        body={"anyOf": kinds},
        examples={"one": example, "explained": {**example, "k": 1, "explain": True}},
        parameters=[*ASKED],
        problems=REFUSED,
    )


def _recalls(candidate: Schema, kind: str, views: Iterable[ViewPlan]) -> list[Schema]:
    """A recall of each kind that there may be: of ids, of a feature that holds such ids, and of a vector index of them."""
    features = [feature for view in views for feature in view.view.features]
    listing = [f.reference for f in features if not f.aggregation.vector and f.is_text == (kind == "str")]
    vectors = [f.reference for f in features if f.aggregation.vector]
    near: list[Schema] = [{"type": "array", "items": {"type": "number"}}, *([{"enum": vectors}] if vectors else [])]
    named: Mapping[str, Schema] = {
        "source": {"type": "string", "minLength": 1, "maxLength": 64},
        "weight": {"type": "number", "exclusiveMinimum": 0, "maximum": 1_000, "default": 1.0},
    }
    number: Schema = {"type": "integer", "minimum": 1, "maximum": limits.CANDIDATES, "default": 100}
    made = [
        _object({**named, "ids": {"type": "array", "items": candidate, "minItems": 1, "maxItems": limits.CANDIDATES}}, ["source", "ids"]),
        _object({**named, "index": {"type": "string"}, "near": {"anyOf": near}, "n": number}, ["source", "index", "near"]),
    ]
    return [*made, *([_object({**named, "feature": {"enum": listing}}, ["source", "feature"])] if listing else [])]


def _context(plan: ModelPlan) -> Schema:
    """The request fields that the version reads which answers, and those that another one may read."""
    fields = {key: asked.field for key, asked in plan.context.items()}
    properties = {key: _value(field, field.max_bytes) for key, field in fields.items()}
    for key, others in plan.other_context.items():
        properties[key] = {"anyOf": [*(_value(field, field.max_bytes) for field in others), {"type": "null"}]}
    return _object(properties, [key for key, field in fields.items() if not field.nullable])


def _a_context(plan: ModelPlan, now: str) -> dict[str, Any]:
    """One that succeeds, as a member of a body; none where the model reads none."""
    values = {key: _a_value(asked.field, now) for key, asked in plan.context.items()}
    return {"context": values} if values else {}


def _options(plan: ModelPlan) -> Mapping[str, Schema]:
    """What may stand beside the rows or candidates of any request for scores."""
    return {
        "deadline_ms": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 60_000, "default": plan.model.deadline_us / 1e3},
        "explain": {"type": "boolean", "default": False},
    }


def _events(source: Source, now: str) -> Schema:
    event = _object(
        {field.name: _value(field, bound(field)) for field in source.fields}, [f.name for f in source.fields if not f.nullable], more=True
    )
    example = {field.name: _a_value(field, now) for field in source.fields}
    several = {"type": "array", "items": event, "minItems": 1, "maxItems": limits.ROWS_PER_REQUEST}
    return operation(
        f"postEvents_{source.name}",
        f"Append events to {source.topic}; answered once they are durable",
        v1.EventsAnswer,
        body={"oneOf": [event, several]},
        examples={"one": example, "several": [example, example]},
        parameters=[*TRACED],
        problems=REFUSED,
    )


def _features(name: str, plan: ViewPlan) -> Schema:
    key = plan.view.join_key
    entity = _id(plan.entity_type, nullable=True)
    one: Schema = {"anyOf": [entity, _object({key: entity}, [key])]}
    body = _object(
        {"entities": {"type": "array", "items": one, "maxItems": limits.ROWS_PER_REQUEST}, "at": {"anyOf": [{"type": "null"}, INSTANT]}},
        ["entities"],
    )
    known = _an_id(plan.entity_type)
    return operation(
        f"features_{name}",
        f"Features of {name}, from one atomic read",
        v1.FeaturesAnswer,
        body=body,
        examples={"ids": {"entities": [known, None]}, "by key": {"entities": [{key: known}]}},
        parameters=[*LOOKED_AT],
        problems=REFUSED,
    )


def _entity(name: str, plan: ViewPlan) -> Schema:
    kind = plan.entity_type
    return operation(
        f"entityFeatures_{name}",
        f"Features of {name} of one {plan.view.entity}",
        v1.EntityFeatures,
        parameters=[path("id", "its id, percent-encoded", _id(kind, nullable=False), _an_id(kind)), AT, *LOOKED_AT],
        problems=(400, 422, 503),
    )


# -- values ------------------------------------------------------------------------------------------------------------


def _object(properties: Mapping[str, Schema], required: Iterable[str], *, more: bool = False) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(required), "additionalProperties": more}


def _id(kind: str, *, nullable: bool) -> Schema:
    made = {"type": "string", "minLength": 1, "maxLength": limits.KEY_BYTES} if kind == "str" else dict(INTEGER)
    return {**made, "type": [made["type"], "null"]} if nullable else made


def _value(field: Field, most_bytes: int) -> Schema:
    made: Schema
    match field.type:
        case "str" if field.categories:
            made = {"type": "string", "enum": list(field.categories)}
        case "str":
            made = {"type": "string", "maxLength": most_bytes, "minLength": 1 if field.entity else 0}
        case "int":
            made = INTEGER
        case "float":
            made = NUMBER
        case "bool":
            made = {"type": "boolean"}
        case "datetime":
            made = INSTANT
        case "vector":
            made = {"type": "array", "items": NUMBER, "minItems": field.size, "maxItems": field.size}
    return {"anyOf": [made, {"type": "null"}]} if field.nullable else made


def _an_id(kind: str) -> str | int:
    return "u1" if kind == "str" else 1


def _a_value(field: Field, now: str) -> Any:
    match field.type:
        case "str":
            return field.categories[0] if field.categories else "u1"
        case "int":
            return 1
        case "float":
            return 1.5
        case "bool":
            return True
        case "datetime":
            return now
        case "vector":
            return [0.5] * field.size
