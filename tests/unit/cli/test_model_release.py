"""``featureflow model canary`` and ``shadow``: what a candidate is not tried on is said before it is tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from unit.cli.test_model_add import DEFINITIONS

from featureflow.cli.context import Context
from featureflow.cli.doctor import examine
from featureflow.cli.main import app
from featureflow.errors import ModelError
from featureflow.models.export import export_mlp

ENSEMBLE = """
class Combined(Ensemble, deadline="30ms"):
    score = Fraud.score * 0.5
"""
ALERT = """
class Suspect(Alert, model={of}, on=Payment, of=User, average=0.3, above=0.87): ...
"""
TWO_ENTITIES = (
    DEFINITIONS.replace("class Payment", "class Shop(Entity[str]): ...\n\nclass Payment")
    .replace("= key(User)", "= key(User)\n    shop: Field[str] = key(Shop)")
    .replace("class Fraud", 'class ShopNow(View, of=Shop):\n    payments = count(Payment, over=("1h",))\n\nclass Fraud')
    .replace('UserNow.payments["1m"]', 'ShopNow.payments["1h"]')
)
NO_ENTITY = DEFINITIONS.replace("class Fraud", "class Ask(Request):\n    a: Field[float]\n    b: Field[float]\n\nclass Fraud").replace(
    'UserNow.payments["1m"], UserNow.payments["1h"]', "Ask.a, Ask.b"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    written(tmp_path)
    return with_versions(tmp_path)


def with_versions(folder: Path) -> Path:
    """Two versions of ``fraud``."""
    for weight in (1.0, 2.0):
        export_mlp([np.full((2, 1), weight)], [np.zeros(1)], folder / "fraud.onnx")
        run(folder, "model", "add", "fraud", str(folder / "fraud.onnx"))
    return folder


def written(folder: Path, *more: str, definitions: str = DEFINITIONS) -> None:
    """Definitions, applied."""
    imports = "from featureflow import Alert, Ensemble, Request\n"
    (folder / "features.py").write_text(imports + definitions + "".join(more))
    run(folder, "apply")


def run(folder: Path, *words: str) -> Any:
    """Its JSON. Raises what the command raises."""
    return told(folder, *words)[0]


def told(folder: Path, *words: str) -> tuple[Any, str]:
    """Its JSON, and what it said on standard error."""
    done = CliRunner().invoke(app, ["--project", str(folder), *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def steps(folder: Path) -> list[str]:
    return [release["step"] for release in run(folder, "model", "releases", "fraud")]


@pytest.mark.parametrize("step", [("canary", "fraud", "2", "--stable", "1"), ("shadow", "fraud", "1")])
def test_a_candidate_in_an_ensemble_is_refused_unless_it_is_to_be_tried_alone(project: Path, step: tuple[str, ...]) -> None:
    written(project, ENSEMBLE)
    with pytest.raises(ModelError, match=r"combined, .*stable version.*--alone"):
        run(project, "model", *step)
    assert steps(project) == []
    made, said = told(project, "model", *step, "--alone")
    assert made["step"] == step[0]
    assert "combined" in said


@pytest.mark.parametrize("weight", ["nan", "inf", "-5", "0", "0.001", "100", "1e308"])
def test_a_weight_that_is_no_part_is_refused_and_releases_nothing(project: Path, weight: str) -> None:
    for _ in range(2):
        with pytest.raises(ModelError, match="more than nothing and less than all"):
            run(project, "model", "canary", "fraud", "2", "--stable", "1", "--weight", weight)
        assert steps(project) == []


def test_what_is_for_everybody_needs_no_such_word(project: Path) -> None:
    written(project, ENSEMBLE)
    run(project, "model", "canary", "fraud", "2", "--stable", "1", "--alone")
    run(project, "model", "promote", "fraud")
    run(project, "model", "release", "fraud", "1")
    run(project, "model", "shadow", "fraud", "2", "--alone")
    run(project, "model", "shadow", "fraud", "--off")
    assert steps(project) == ["release", "canary", "promote", "release", "shadow", "shadow"]


def test_a_model_of_no_ensemble_is_tried_without_a_word(project: Path) -> None:
    assert told(project, "model", "canary", "fraud", "2", "--stable", "1")[1] == ""


@pytest.mark.parametrize("more", [(ALERT.format(of="Fraud"),), (ENSEMBLE, ALERT.format(of="Combined"))])
def test_a_stream_that_the_candidate_does_not_score_is_named(project: Path, more: tuple[str, ...]) -> None:
    written(project, *more)
    said = told(project, "model", "canary", "fraud", "2", "--stable", "1", "--alone")[1]
    assert "events of payment" in said and "alert suspect" in said and "stable version" in said


def test_an_ensemble_is_not_released_and_its_members_are_named(project: Path) -> None:
    written(project, ENSEMBLE)
    for step in (("release",), ("canary", "1"), ("shadow", "1")):
        with pytest.raises(ModelError, match="combined is an ensemble.*fraud"):
            run(project, "model", step[0], "combined", *step[1:])


def test_the_doctor_names_who_does_not_get_a_candidate_also_where_the_ensemble_came_later(project: Path) -> None:
    run(project, "model", "canary", "fraud", "2", "--stable", "1")
    written(project, ENSEMBLE)
    with Context(project, {}) as here:
        said = [finding.said for finding in examine(here) if finding.part == "releases" and finding.state == "warning"]
    assert len(said) == 1 and "combined" in said[0]
    run(project, "model", "promote", "fraud")
    with Context(project, {}) as here:
        assert [finding for finding in examine(here) if finding.part == "releases" and finding.state == "warning"] == []


@pytest.mark.parametrize("sticky", ["driver", "User", "user_now", " user"])
def test_an_entity_that_no_version_is_asked_with_is_named_with_the_versions_and_those_that_they_are(tmp_path: Path, sticky: str) -> None:
    written(tmp_path, definitions=TWO_ENTITIES)
    with_versions(tmp_path)
    with pytest.raises(ModelError) as refused:
        run(tmp_path, "model", "canary", "fraud", "2", "--stable", "1", "--sticky", sticky)
    for part in (f"--sticky {sticky!r} is no join key", "fraud@1 and fraud@2 are asked with", "sticky may be shop, user"):
        assert part in str(refused.value)
    assert steps(tmp_path) == []


def test_of_a_model_that_reads_no_entity_it_is_said_to_leave_sticky_out(tmp_path: Path) -> None:
    written(tmp_path, definitions=NO_ENTITY)
    with_versions(tmp_path)
    with pytest.raises(ModelError) as refused:
        run(tmp_path, "model", "canary", "fraud", "2", "--stable", "1", "--sticky", "user")
    for part in ("--sticky 'user'", "fraud@1 and fraud@2 are asked with no entity", "leave --sticky out"):
        assert part in str(refused.value)


def test_who_keeps_the_version_is_said_also_where_it_is_as_it_was_said_last(project: Path) -> None:
    words = ("--project", str(project), "model", "canary", "fraud", "2")
    for more in (("--stable", "1", "--sticky", "user"), ("--weight", "5")):
        said = CliRunner().invoke(app, [*words, *more], catch_exceptions=False).output
        assert "Each user keeps its version." in said
    run(project, "model", "rollback", "fraud")
    said = CliRunner().invoke(app, [*words], catch_exceptions=False).output
    assert "Each request is drawn by itself." in said


def test_a_candidate_that_is_made_sticky_by_another_entity_draws_anew_and_it_is_said_how_it_was(tmp_path: Path) -> None:
    written(tmp_path, definitions=TWO_ENTITIES)
    with_versions(tmp_path)
    canary = ("model", "canary", "fraud", "2")
    first, said = told(tmp_path, *canary, "--stable", "1", "--sticky", "user", "--weight", "5")
    assert said == ""
    assert told(tmp_path, *canary, "--sticky", "user", "--weight", "10")[1] == ""
    made, said = told(tmp_path, *canary, "--sticky", "shop", "--weight", "20")
    assert made["sticky"] == "shop"
    assert "fraud@2 was sticky by user in release 3, and is by shop from release 4 on" in said
    assert "drawn anew" in said
    assert "featureflow model canary fraud 2 --weight 20 --sticky user" in said
    back, said = told(tmp_path, *canary, "--sticky", "user", "--weight", "5")
    assert "was sticky by shop" in said
    assert (back["salt"], back["sticky"], back["arms"]) == (first["salt"], first["sticky"], first["arms"]), "whom it had, it has"


def test_a_candidate_that_was_not_sticky_takes_nobodys_version_from_him_when_it_is(project: Path) -> None:
    run(project, "model", "canary", "fraud", "2", "--stable", "1")
    assert told(project, "model", "canary", "fraud", "2", "--sticky", "user")[1] == ""
    run(project, "model", "rollback", "fraud")
    assert told(project, "model", "canary", "fraud", "2", "--sticky", "user")[1] == "", "it begins anew"
