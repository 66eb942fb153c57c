"""The OpenAPI 3.1 document, generated from the wire's types."""

from __future__ import annotations

from typing import Any

import msgspec

from featureflow.serve.wire import v1

TYPES = (
    v1.ScoreBody,
    v1.ScoreAnswer,
    v1.FeaturesBody,
    v1.FeaturesAnswer,
    v1.EntityFeatures,
    v1.EventsAnswer,
    v1.ViewsAnswer,
    v1.ModelsAnswer,
    v1.Health,
    v1.Ready,
    v1.Problem,
)


def document(version: str) -> dict[str, Any]:
    """The document as JSON types. ``version`` is the package's."""
    _, components = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FeatureFlow",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Windowed features, kept exactly once, and the scores that models make of them.",
        },
        "paths": {
            "/v1/score/{model}": {
                "post": _operation(
                    "score",
                    "Score one or many rows",
                    v1.ScoreAnswer,
                    body=v1.ScoreBody,
                    parameters=[
                        _path("model", "a model's name, or name@version"),
                        _header("X-Request-ID"),
                        _header("traceparent"),
                    ],
                    problems=(400, 404, 408, 413, 415, 422, 503),
                )
            },
            "/v1/events/{source}": {
                "post": _operation(
                    "postEvents",
                    "Append events to a source's topic; answered once they are durable",
                    v1.EventsAnswer,
                    body_schema={
                        "oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]
                    },
                    parameters=[_path("source", "an event's name, as in the definitions"), _header("X-Request-ID")],
                    problems=(400, 404, 408, 413, 415, 422, 503),
                )
            },
            "/v1/features/{view}": {
                "post": _operation(
                    "features",
                    "Features of many entities, from one atomic read",
                    v1.FeaturesAnswer,
                    body=v1.FeaturesBody,
                    parameters=[_path("view", "a view's name")],
                    problems=(400, 404, 408, 413, 415, 422, 503),
                )
            },
            "/v1/features/{view}/{id}": {
                "get": _operation(
                    "entityFeatures",
                    "Features of one entity",
                    v1.EntityFeatures,
                    parameters=[
                        _path("view", "a view's name"),
                        _path("id", "the entity's id, percent-encoded"),
                        {
                            "name": "at",
                            "in": "query",
                            "schema": {"type": "string"},
                            "description": "RFC 3339 with a zone, or microseconds since 1970 UTC",
                        },
                    ],
                    problems=(400, 404, 422, 503),
                )
            },
            "/v1/views": {
                "get": _operation(
                    "views", "Views, their features, and how far they are", v1.ViewsAnswer, problems=(503,)
                )
            },
            "/v1/models": {
                "get": _operation("models", "Models and what answers for them", v1.ModelsAnswer, problems=(503,))
            },
            "/healthz": {"get": _operation("health", "Whether the process runs", v1.Health)},
            "/readyz": {
                "get": {
                    **_operation("ready", "Whether it can answer, and what is down", v1.Ready),
                    "responses": {
                        "200": _response("It can answer", v1.Ready),
                        "503": _response("Something is down", v1.Ready),
                    },
                }
            },
            "/metrics": {"get": _without_schema("metrics", "Prometheus exposition text", "text/plain")},
            "/openapi.json": {"get": _without_schema("openapi", "This document", "application/json")},
            "/": {"get": _without_schema("index", "What there is", "text/plain")},
        },
        "components": {"schemas": components},
    }


def _operation(
    name: str,
    summary: str,
    answer: type,
    *,
    body: type | None = None,
    body_schema: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    problems: tuple[int, ...] = (),
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": _response("The answer", answer)},
    }
    if parameters:
        operation["parameters"] = parameters
    schema = _reference(body) if body is not None else body_schema
    if schema is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    for status in problems:
        operation["responses"][str(status)] = _problem(status)
    return operation


def _without_schema(name: str, summary: str, content_type: str) -> dict[str, Any]:
    kind = "string" if content_type.startswith("text") else "object"
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {content_type: {"schema": {"type": kind}}}}},
    }


def _response(description: str, answer: type) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _reference(answer)}}}


def _problem(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": "What to change" if status != 503 else "Not now: see Retry-After",
        "content": {"application/problem+json": {"schema": _reference(v1.Problem)}},
    }
    if status == 503:
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return response


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _path(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": description}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {"type": "string"}}
