"""``featureflow model add``: which file becomes a version, and which does not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from featureflow.cli.main import app
from featureflow.errors import ModelError
from featureflow.models.export import export_mlp

DEFINITIONS = """
from datetime import datetime
from featureflow import Entity, Event, Field, Model, View, count, key

class User(Entity[str]): ...

class Payment(Event, topic="payments", time="at", disorder="1m"):
    at: Field[datetime]
    user: Field[str] = key(User)

class UserNow(View, of=User):
    payments = count(Payment, over=("1m", "1h"))

class Fraud(Model, deadline="20ms", drift=0.05):
    inputs = (UserNow.payments["1m"], UserNow.payments["1h"])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "features.py").write_text(DEFINITIONS)
    export_mlp([np.ones((2, 1))], [np.zeros(1)], tmp_path / "fraud.onnx")
    return tmp_path


def run(project: Path, *words: str) -> Any:
    """Its JSON. Raises what the command raises."""
    done = CliRunner().invoke(app, ["--project", str(project), "model", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def versions(project: Path) -> list[str]:
    return [entry["version"] for entry in run(project, "list")]


def test_a_file_that_is_not_the_one_that_was_named_adds_nothing(project: Path) -> None:
    file = project / "fraud.onnx"
    with pytest.raises(ModelError, match="is another file than was named"):
        run(project, "add", "fraud", str(file), "--sha256", "0" * 64)
    assert versions(project) == []
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert run(project, "add", "fraud", str(file), "--sha256", digest)["sha256"] == digest


def test_where_a_key_is_set_a_file_without_its_signature_adds_nothing(project: Path) -> None:
    key, file, signature = Ed25519PrivateKey.generate(), project / "fraud.onnx", project / "fraud.sig"
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (project / "team.pem").write_bytes(public)
    (project / "featureflow.toml").write_text('[models]\npublic_key = "team.pem"\n')
    with pytest.raises(ModelError, match="files are to be signed by the key in .*team.pem"):
        run(project, "add", "fraud", str(file))
    signature.write_bytes(Ed25519PrivateKey.generate().sign(file.read_bytes()))
    with pytest.raises(ModelError, match="is not the signature of this file"):
        run(project, "add", "fraud", str(file), "--signature", str(signature))
    assert versions(project) == []
    signature.write_bytes(key.sign(file.read_bytes()))
    assert run(project, "add", "fraud", str(file), "--signature", str(signature))["version"] == "1"


def test_a_signature_without_a_key_is_not_taken_for_one_that_was_checked(project: Path) -> None:
    with pytest.raises(ModelError, match="a signature is checked by a key"):
        run(project, "add", "fraud", str(project / "fraud.onnx"), "--signature", "fraud.sig")


def test_an_alias_is_given_and_moved(project: Path) -> None:
    for _ in range(2):
        run(project, "add", "fraud", str(project / "fraud.onnx"))
    assert run(project, "alias", "fraud", "champion", "1")["version"] == "1"
    assert run(project, "alias", "fraud", "latest", "champion")["version"] == "1"
    assert [entry["aliases"] for entry in run(project, "list")] == [["champion", "latest"], []]


