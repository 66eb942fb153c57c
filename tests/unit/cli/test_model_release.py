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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two versions of ``fraud``."""
    written(tmp_path)
    for weight in (1.0, 2.0):
        export_mlp([np.full((2, 1), weight)], [np.zeros(1)], tmp_path / "fraud.onnx")
        run(tmp_path, "model", "add", "fraud", str(tmp_path / "fraud.onnx"))
    return tmp_path


def written(folder: Path, *more: str) -> None:
    """Definitions, applied."""
    imports = "from featureflow import Alert, Ensemble\n"
    (folder / "features.py").write_text(imports + DEFINITIONS + "".join(more))
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
