"""The parts of an OpenAPI document: an operation, its parameters, its answers."""

from __future__ import annotations

from typing import Any

from featureflow.serve import problem
from featureflow.serve.wire import v1

Schema = dict[str, Any]


def operation(
    name: str,
    summary: str,
    answer: type,
    *,
    body: type | Schema | None = None,
    examples: dict[str, Any] | None = None,
    parameters: list[Schema] | None = None,
    problems: tuple[int, ...] = (),
) -> Schema:
    """``body``: the wire's type, or a schema. ``examples``: bodies that are answered with 200, by name. ``problems``: with what it may
    refuse."""
    made: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": answered("The answer", answer),
            **{str(status): _refused(status) for status in problems},
        },
    }
    if parameters:
        made["parameters"] = parameters
    if body is not None:
        content: Schema = {"schema": body if isinstance(body, dict) else reference(body)}
        if examples:
            content["examples"] = {key: {"value": value} for key, value in examples.items()}
        made["requestBody"] = {"required": True, "content": {"application/json": content}}
    return made


def plain(name: str, summary: str, content_type: str) -> Schema:
    """An operation whose answer has no schema."""
    kind = "string" if content_type.startswith("text") else "object"
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {content_type: {"schema": {"type": kind}}}}},
    }


def answered(description: str, answer: type) -> Schema:
    """A response of that type."""
    return {"description": description, "content": {"application/json": {"schema": reference(answer)}}}


def reference(kind: type) -> Schema:
    """The schema of a type of the wire."""
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def path(name: str, description: str, schema: Schema | None = None, example: Any = None) -> Schema:
    """A parameter in the path."""
    text: Schema = {"type": "string", "minLength": 1}
    made: Schema = {"name": name, "in": "path", "required": True, "schema": schema or text, "description": description}
    return made if example is None else {**made, "example": example}


def one_of(names: list[str]) -> Schema:
    """A name in the path: of what is applied one of these, or something else, which there is not or not now."""
    anything: Schema = {"type": "string", "minLength": 1}
    return {"anyOf": [{"type": "string", "enum": names}, anything]} if names else anything


def header(name: str, description: str = "", *, kind: str = "string") -> Schema:
    """A header that the operation reads."""
    made: Schema = {"name": name, "in": "header", "schema": {"type": kind}}
    return {**made, "description": description} if description else made


def _refused(status: int) -> Schema:
    response: Schema = {
        "description": "What to change" if status != 503 else "Not now: see Retry-After",
        "content": {problem.CONTENT_TYPE: {"schema": reference(v1.Problem)}},
    }
    if status == 503:
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "required": True, "description": "seconds"}}
    return response


TRACED = (header("X-Request-ID"), header("traceparent"))  # by which a request is found again in logs and traces
_WHOSE = header("X-API-Key", "whose request it is, for a fair share; else the address that it comes from")
ASKED = (
    *TRACED,
    header("X-Deadline-Ms", "milliseconds until the answer is useless, unless the body says it", kind="number"),
    header("X-Priority", "critical, normal or batch, unless the body says it"),
    _WHOSE,
)  # fmt: skip
LOOKED_AT = (
    header("X-Request-ID"),
    header("X-Deadline-Ms", "milliseconds until the answer is useless; 1,000 where it is left out", kind="number"),
    header("X-Priority", "critical, normal or batch"),
    _WHOSE,
)  # fmt: skip
