"""The OpenAPI 3.1 document: generated from the wire's types, and from what is applied (``described``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from featureflow import limits
from featureflow.clock import Clock
from featureflow.reading.plan import ModelPlan, Plan
from featureflow.serve import described
from featureflow.serve.explain import rfc3339
from featureflow.serve.operation import ASKED, LOOKED_AT, TRACED, answered, header, one_of, operation, path, plain
from featureflow.serve.wire import rank, v1

TYPES = (
    v1.ScoreBody,
    v1.ScoreAnswer,
    rank.RankBody,
    rank.RankAnswer,
    v1.FeaturesBody,
    v1.FeaturesAnswer,
    v1.EntityFeatures,
    v1.EventsAnswer,
    v1.ViewsAnswer,
    v1.ModelsAnswer,
    v1.ModelInfo,
    v1.CapacityAnswer,
    v1.Health,
    v1.Ready,
    v1.Problem,
)
POSTED = (400, 404, 408, 413, 415, 422, 503)  # what a route with a body may refuse with


class Document:
    """/openapi.json of one server, made again when the definitions or what answers change. ``version`` is the package's."""

    def __init__(self, version: str, clock: Clock) -> None:
        self._version, self._clock = version, clock
        self._made_of: tuple[Plan | None, list[ModelPlan]] = None, []
        self._bytes = b""

    def encode(self, plan: Plan | None, models: Mapping[str, ModelPlan]) -> bytes:
        """The document as JSON. ``models``: see ``document``."""
        made_of = plan, list(models.values())  # compared by identity: plans have no equality of their own
        if not self._bytes or made_of != self._made_of:
            self._bytes = msgspec.json.encode(document(self._version, plan, rfc3339(self._clock.now_us()), models))
            self._made_of = made_of
        return self._bytes


def document(
    version: str, plan: Plan | None = None, now: str = "2026-03-01T12:00:00Z", models: Mapping[str, ModelPlan] | None = None
) -> dict[str, Any]:
    """The document as JSON types: the routes, and under the name of each model, source and view of ``plan`` what exactly it takes.

    ``now``: the instant of its examples, RFC 3339. ``models``: by name the plan of the version that answers, the definitions' by default.
    """
    _, components = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FeatureFlow",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Windowed features, kept exactly once, and the scores that models make of them.",
        },
        "paths": {**(described.paths(plan, now, plan.models if models is None else models) if plan is not None else {}), **_routes(plan)},
        "components": {"schemas": components},
    }


def _routes(plan: Plan | None) -> dict[str, Any]:
    models, views = ([], []) if plan is None else (list(plan.models), list(plan.views))
    sources = [] if plan is None else [source.name for source in plan.project.sources]
    model, view = path("model", "a model's name", one_of(models)), path("view", "a view's name", one_of(views))
    version = path("model", "a model's name, name@version or name@alias", one_of(models))
    return {
        "/v1/score/{model}": {
            "post": operation(
                "score",
                "Score one or many rows",
                v1.ScoreAnswer,
                body=v1.ScoreBody,
                parameters=[version, *ASKED],
                problems=POSTED,
            )
        },
        "/v1/rank/{model}": {
            "post": operation(
                "rank",
                "Score the candidates of several recalls, and answer the best",
                rank.RankAnswer,
                body=rank.RankBody,
                parameters=[version, *ASKED],
                problems=POSTED,
            )
        },
        "/v1/events/{source}": {
            "post": operation(
                "postEvents",
                "Append events to a source's topic; answered once they are durable",
                v1.EventsAnswer,
                body={"oneOf": [
                    {"type": "object"},
                    {"type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": limits.ROWS_PER_REQUEST},
                ]},
                parameters=[path("source", "an event's name, as in the definitions", one_of(sources)), *TRACED],
                problems=POSTED,
            )
        },
        "/v1/features/{view}": {
            "post": operation(
                "features",
                "Features of many entities, from one atomic read",
                v1.FeaturesAnswer,
                body=v1.FeaturesBody,
                parameters=[view, *LOOKED_AT],
                problems=POSTED,
            )
        },
        "/v1/features/{view}/{id}": {
            "get": operation(
                "entityFeatures",
                "Features of one entity",
                v1.EntityFeatures,
                parameters=[view, path("id", "the entity's id, percent-encoded"), described.AT, *LOOKED_AT],
                problems=(400, 404, 422, 503),
            )
        },
        "/v1/views": {"get": operation("views", "Views, their features, and how far they are", v1.ViewsAnswer, problems=(503,))},
        "/v1/models": {"get": operation("models", "Models and what answers for them", v1.ModelsAnswer, problems=(503,))},
        "/v1/models/{model}": {
            "get": operation(
                "model",
                "One model, what answers for it, and its release",
                v1.ModelInfo,
                parameters=[model, header("X-Request-ID")],
                problems=(400, 404, 503),
            )
        },
        "/v1/models/{model}/capacity": {
            "get": operation(
                "capacity",
                "What this process measured of a model: requests a second within its deadline, by stage, and why",
                v1.CapacityAnswer,
                parameters=[model, header("X-Request-ID")],
                problems=(400, 404, 503),
            )
        },
        "/healthz": {"get": operation("health", "Whether the process runs", v1.Health)},
        "/readyz": {
            "get": {
                **operation("ready", "Whether it can answer, and what is down", v1.Ready),
                "responses": {"200": answered("It can answer", v1.Ready), "503": answered("Something is down", v1.Ready)},
            }
        },
        "/metrics": {"get": plain("metrics", "Prometheus exposition text", "text/plain")},
        "/openapi.json": {"get": plain("openapi", "This document", "application/json")},
        "/": {"get": plain("index", "What there is", "text/plain")},
    }  # fmt: skip
