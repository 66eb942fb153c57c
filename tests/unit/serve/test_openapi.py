"""The OpenAPI document is valid, and describes what is served."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import msgspec
import pytest
from serve_rig import WITH_MODELS, Listening, fed, listening, serving

from featureflow.models.store import ModelStore
from featureflow.reading.plan import Plan
from featureflow.serve.openapi import TYPES, document

PLAN = Plan(WITH_MODELS, {"trip": 3})
GOOD = {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}
NOW = 1_700_000_000_000_000
TRIP = {"at": NOW, "rider": "ada", "zone": 7, "fare": 1.5}
RANK = {"entities": {"zone": 7}, "context": {"hour": 17}, "recalls": [{"source": "all", "ids": ["ada", "bob"]}]}
ZONES = {"entities": {"rider": "ada"}, "context": {"hour": 17}, "recalls": [{"source": "all", "ids": [7, 8]}]}
BODIES: dict[str, list[Any]] = {
    "/v1/rank/tip": [
        RANK, {**RANK, "k": 1_000, "explain": True}, {**RANK, "k": 0}, {**RANK, "k": 1_001}, {**RANK, "surprise": 1}, {},
        {**RANK, "entities": {}}, {**RANK, "entities": GOOD["entities"]}, {**RANK, "entities": {"rider": "ada"}},
        {**RANK, "entities": {"rider": None}, "recalls": [{"source": "all", "ids": [7, {"id": 8}]}]}, {**RANK, "context": {}},
        {**RANK, "recalls": []}, {**RANK, "recalls": [{"source": "all", "ids": []}]}, {**RANK, "recalls": [{"source": "all"}]},
        {**RANK, "recalls": [{"source": "", "ids": ["ada"]}]}, {**RANK, "recalls": [{"source": "all", "ids": [None]}]},
        {**RANK, "recalls": [{"source": "all", "ids": [{"id": "ada", "context": {"weight": 1.5}}]}]},
        {**RANK, "recalls": [{"source": "all", "ids": [{"id": "ada", "context": {"weight": "x"}}]}]},
        {**RANK, "recalls": [{"source": "all", "ids": ["ada"], "weight": 0}]}, {**RANK, "deadline_ms": 0}, [], None,
        {**RANK, "exclude": ["bob"]}, {**RANK, "exclude": 7}, {**RANK, "priority": "batch"},
        {**RANK, "recalls": [{"source": "one", "ids": ["ada"]}, {"source": "two", "ids": ["bob"], "weight": 0.5}]},
        {**RANK, "recalls": [{"source": str(n), "ids": ["ada"]} for n in range(16)]},
        {**RANK, "recalls": [{"source": str(n), "ids": ["ada"]} for n in range(17)]},
        {**ZONES, "recalls": [*ZONES["recalls"], {"source": "listed", "feature": "rider_now:count_1h"}]},
        {**ZONES, "recalls": [{"source": "listed", "feature": 7}]},
        {**ZONES, "recalls": [{"source": "listed", "feature": "rider_now:none"}]},
        {**ZONES, "recalls": [{"source": "listed", "feature": "rider_now:count_1h", "ids": [7]}]},
        {**RANK, "recalls": [{"source": "listed", "feature": "zone_now:last_n"}]},
        {**RANK, "recalls": [{"source": "near", "index": "all"}]},
        {**RANK, "recalls": [*RANK["recalls"], {"source": "near", "index": "all", "near": {}}]},
    ],
    "/v1/score/tip": [
        GOOD, {**GOOD, "deadline_ms": 60_000, "explain": True}, {**GOOD, "deadline_ms": 60_001}, {**GOOD, "deadline_ms": 0},
        {**GOOD, "deadline_ms": None}, {**GOOD, "priority": "batch"}, {**GOOD, "priority": None}, {**GOOD, "priority": "urgent"},
        {"rows": [GOOD], "priority": "critical"}, {**GOOD, "surprise": 1}, {}, {"entities": {}}, {"entities": GOOD["entities"]},
        {"entities": {"rider": None, "zone": None}, "context": {"hour": 1}},
        {"entities": {"rider": "", "zone": 7}, "context": {"hour": 1}},
        {"entities": {"rider": 7, "zone": 7}, "context": {"hour": 1}},
        {"entities": {"rider": "a" * 257, "zone": 7}, "context": {"hour": 1}},
        {"entities": {"rider": "a" * 256, "zone": 7}, "context": {"hour": 1}},
        {"entities": {"rider": "a", "zone": 2**53 + 1}, "context": {"hour": 1}},
        {"entities": GOOD["entities"], "context": {"hour": 1, "weight": None, "vip": True, "since": NOW, "city": "Paris"}},
        {"entities": GOOD["entities"], "context": {"hour": 1, "since": "2026-03-01T12:00:00Z"}},
        {"entities": GOOD["entities"], "context": {"hour": None}}, {"entities": GOOD["entities"], "context": {"hour": "x"}},
        {"entities": GOOD["entities"], "context": {"hour": 1, "vip": 1}},
        {"entities": GOOD["entities"], "context": {"hour": 1, "weight": 1e19}},
        {"entities": GOOD["entities"], "context": {"hour": 1, "city": "p" * 41}},
        {"entities": GOOD["entities"], "context": {"hour": 1, "more": 1}},
        {"rows": [GOOD]}, {"rows": []}, {"rows": [GOOD] * 1_000}, {"rows": [GOOD] * 1_001}, {"rows": [GOOD], **GOOD}, [], 1, None,
    ],
    "/v1/score/strict": [{"entities": GOOD["entities"]}, {"entities": GOOD["entities"], "context": {}}, {"rows": [{}]}],
    "/v1/events/trip": [
        TRIP, [TRIP], [], [TRIP] * 1_000, [TRIP] * 1_001, {**TRIP, "more": [1]}, {**TRIP, "rider": None}, {**TRIP, "rider": ""},
        {**TRIP, "zone": None}, {**TRIP, "at": "2026-03-01T12:00:00Z"}, {**TRIP, "at": None}, {**TRIP, "at": 2**53 + 1}, {}, [{}], 7,
    ],
    "/v1/features/rider_now": [
        {"entities": []}, {"entities": ["ada", None, {"rider": "ada"}]}, {"entities": [7]}, {"entities": [""]}, {"entities": [{"zone": 7}]},
        {"entities": ["a"] * 1_000}, {"entities": ["a"] * 1_001}, {"entities": ["a"], "at": None}, {"entities": ["a"], "at": True}, {}, [],
    ],
    "/v1/features/zone_now": [{"entities": [7, None]}, {"entities": ["7"]}, {"entities": [1.5]}],
}  # fmt: skip


@pytest.mark.parametrize("plan", [None, PLAN])
def test_every_reference_resolves_and_every_schema_is_valid(plan: Plan | None) -> None:
    made = msgspec.json.decode(msgspec.json.encode(document("0", plan)))
    schemas = made["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert {kind.__name__ for kind in TYPES} <= set(schemas)
    for reference in _references(made):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


def test_operations_are_named_once_and_every_path_parameter_is_declared() -> None:
    made = document("0", PLAN)
    operations = [operation for path in made["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for path, methods in made["paths"].items():
        for operation in methods.values():
            declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert declared == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert "200" in operation["responses"]


@pytest.mark.parametrize("verb", ["score", "rank"])
def test_a_model_is_asked_by_its_name_with_the_headers_that_any_is(verb: str) -> None:
    paths = document("0", PLAN)["paths"]

    def headers(path: str) -> list[str]:
        return [p["name"] for p in paths[path]["post"]["parameters"] if p["in"] == "header"]

    assert headers(f"/v1/{verb}/tip") == headers(f"/v1/{verb}/{{model}}")


def test_every_route_that_the_server_names_is_described_and_every_example_succeeds(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50)) as serve, listening(serve) as server:
            made = json.loads((await _ask(server, "get", "/openapi.json"))[1])
            described = {(method.upper(), path) for path, methods in made["paths"].items() for method in methods}
            listed = (await _ask(server, "get", "/"))[1].decode().replace("<id>", "{id}").split()
            named = {(word, listed[i + 1]) for i, word in enumerate(listed) if word in ("GET", "POST")}
            assert named <= described
            asked = set()
            for path, methods in made["paths"].items():
                for method, operation in methods.items():
                    for url, body in _examples(path, operation):
                        status, said = await _ask(server, method, url, body)
                        assert status == 200, (method, url, body, said)
                        asked.add(path)
            of_one = {"/v1/features/rider_now/{id}", "/v1/features/zone_now/{id}"}
            assert asked >= {path for path in made["paths"] if "{" not in path} | of_one

    asyncio.run(go())


def test_a_body_is_taken_where_its_schema_says_so_and_refused_where_not(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50)) as serve, listening(serve) as server:
            made = json.loads((await _ask(server, "get", "/openapi.json"))[1])
            for path, bodies in BODIES.items():
                schema = made["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
                looked = jsonschema.Draft202012Validator(schema)
                for body in bodies:
                    status, said = await _ask(server, "post", path, body)
                    assert status in (200, 400, 422), said
                    assert looked.is_valid(body) == (status == 200), (path, str(body)[:200], status, said[:300])

    asyncio.run(go())


def _examples(path: str, operation: dict[str, Any]) -> list[tuple[str, Any]]:
    """(path, body) of each example; of an operation that takes nothing, the one way to call it."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            if "example" not in parameter:
                return []
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
    if "requestBody" not in operation:
        return [(path, None)]
    return [(path, example["value"]) for example in operation["requestBody"]["content"]["application/json"].get("examples", {}).values()]


async def _ask(server: Listening, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    sent = None if method == "get" else json.dumps(body).encode()
    async with server.client.request(method, server.url + path, data=sent) as response:
        return response.status, await response.read()


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [r for value in node.values() for r in _references(value)]
    if isinstance(node, list):
        return [r for value in node for r in _references(value)]
    return []
