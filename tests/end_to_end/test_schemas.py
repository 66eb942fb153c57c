"""``apply`` looks at the schema registry before it changes anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_server import RegistryServer, running
from world import World, embedded

DEFINITIONS = '''
from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key


class User(Entity[str]): ...


class Payment(Event, topic="{topic}-payments", time="at", disorder="1m", format="avro"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]
    note: Field[str | None]


class UserNow(View, of=User):
    payments = count(Payment, over=("1h",))
'''


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with running() as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, registry: RegistryServer) -> Iterator[World]:
    with embedded(tmp_path / "project") as made:
        (made.folder / "features.py").write_text(DEFINITIONS.format(topic=made.topic))
        made.settings["FEATUREFLOW_LOG_SCHEMA_REGISTRY_URL"] = registry.url
        yield made


def register(registry: RegistryServer, world: World, *fields: str) -> None:
    types = {"at": "long", "user": "string", "amount": "double", "note": ["null", "string"]}
    schema = {"type": "record", "name": "Payment", "fields": [{"name": name, "type": types[name]} for name in fields]}
    registry.avro(f"{world.topic}-payments-value", schema)


def apply(world: World, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """What it answered, and what it said beside that."""
    command = [sys.executable, "-m", "featureflow.cli", "--project", str(world.folder), "apply", *words, "--json"]
    done = subprocess.run(command, env=world.environment(), capture_output=True, text=True, timeout=150)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout) if code == 0 else {}, done.stderr


def test_a_required_field_that_the_newest_schema_lacks_is_named_and_nothing_is_applied(world: World, registry: RegistryServer) -> None:
    answer, said = apply(world)                                # before any producer
    assert "no producer of payment has registered its schema" in said
    assert answer["applied"]
    assert len(answer["schemas"]) == 1
    changed = DEFINITIONS.replace('over=("1h",)', 'over=("1h", "1d")').format(topic=world.topic)
    (world.folder / "features.py").write_text(changed)
    register(registry, world, "at", "user")
    _, said = apply(world, code=1)
    assert "nothing is applied" in said
    assert "has no field 'amount': every record of payment is refused" in said
    assert "has no field 'note': it is null" in said
    assert "apply --no-schemas" in said
    answer, said = apply(world, "--plan")
    assert not answer["applied"]
    assert len(answer["changes"]) > 0, "what was refused is still to be done"
    assert "amount" in said
    assert apply(world, "--no-schemas")[0]["schemas"] == []
    register(registry, world, "at", "user", "amount")
    assert "has no field 'note': it is null" in apply(world)[1]
    register(registry, world, "at", "user", "amount", "note")
    assert apply(world)[0]["schemas"] == []


def test_a_registry_that_is_away_or_not_set_is_a_warning(world: World, registry: RegistryServer) -> None:
    registry.failing = 503
    answer, said = apply(world)
    assert answer["applied"]
    assert "was not looked at" in said
    assert "503" in said
    del world.settings["FEATUREFLOW_LOG_SCHEMA_REGISTRY_URL"]
    assert "set log.schema_registry_url" in apply(world)[1]
