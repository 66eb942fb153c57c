"""The OpenAPI document is valid, and describes what is served."""

from __future__ import annotations

import jsonschema
import msgspec

from featureflow.serve.openapi import TYPES, document


def test_every_reference_resolves_and_every_schema_is_valid() -> None:
    made = msgspec.json.decode(msgspec.json.encode(document("0")))
    schemas = made["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert {kind.__name__ for kind in TYPES} <= set(schemas)
    for reference in _references(made):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


def test_operations_are_named_once_and_every_path_parameter_is_declared() -> None:
    made = document("0")
    operations = [operation for path in made["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for path, methods in made["paths"].items():
        for operation in methods.values():
            declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert declared == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert "200" in operation["responses"]


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [r for value in node.values() for r in _references(value)]
    if isinstance(node, list):
        return [r for value in node for r in _references(value)]
    return []
