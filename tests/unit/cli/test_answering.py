"""``apply`` and ``doctor`` name each version under release that definitions cannot compute: who it is, what it lacks, and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from unit.cli.test_model_add import DEFINITIONS
from unit.cli.test_model_release import ENSEMBLE, run, told

from featureflow.cli.context import Context
from featureflow.cli.doctor import Finding, examine
from featureflow.models.export import export_mlp

ALL = "from featureflow import Ensemble\n" + DEFINITIONS.replace('("1m", "1h")', '("1m", "1h", "1d")')
OF_NOW = ALL.replace('UserNow.payments["1m"]', 'UserNow.payments["1d"]')
GONE = OF_NOW.replace('("1m", "1h", "1d")', '("1h", "1d")')
OTHERWISE = OF_NOW.replace("count(Payment, over", 'count(Payment, where=Payment.user != "test", over')
STEPS = {
    "shadow": [("release", "2"), ("shadow", "1")],
    "candidate": [("release", "2"), ("canary", "1")],
    "stable": [("release", "1")],
}
MISSING = "the feature user_now:payments_1m is not in the definitions"
DONE = {
    "shadow": ("the shadow of fraud scores nothing", "or end it: featureflow model shadow fraud --off"),
    "candidate": ("the candidate of fraud answers nobody", "or end it: featureflow model rollback fraud"),
    "stable": ("the stable version of fraud cannot answer", "scores of fraud are refused (503)"),
}


def written(folder: Path, definitions: str) -> None:
    (folder / "features.py").write_text(definitions)


def add(folder: Path) -> None:
    export_mlp([np.ones((2, 1))], [np.zeros(1)], folder / "fraud.onnx")
    run(folder, "model", "add", "fraud", str(folder / "fraud.onnx"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Version 1 reads what version 2, of the definitions that are applied, does not."""
    for definitions in (ALL, OF_NOW):
        written(tmp_path, definitions)
        add(tmp_path)
    run(tmp_path, "apply")
    return tmp_path


def of_models(folder: Path) -> list[Finding]:
    with Context(folder, {}) as here:
        return [finding for finding in examine(here) if finding.part in ("models", "releases") and finding.state != "ok"]


@pytest.mark.parametrize("role", list(STEPS))
def test_a_version_whose_feature_is_gone_is_named_with_its_role_and_what_to_do(project: Path, role: str) -> None:
    for step, version in STEPS[role]:
        run(project, "model", step, "fraud", version)
    assert of_models(project) == []
    written(project, GONE)
    for words in (("apply", "--plan"), ("apply",)):
        made, said = told(project, *words)
        (unfit,) = made["unfit"]
        assert (unfit["model"], unfit["version"], unfit["role"]) == ("fraud", "1", role)
        for part in (*DONE[role], "fraud@1", MISSING, "Add a version that is trained on what there is now"):
            assert part in unfit["said"]
        assert said.count(unfit["said"]) == said.count(MISSING) == 1, "once"
        assert list(made["models"]) == (["fraud"] if role == "stable" else []), "who is refused"
    made, said = told(project, "apply")
    assert (made["changes"], made["unfit"]) == ([], [unfit]), "as long as it is so"
    assert said.count(unfit["said"]) == 1
    (finding,) = of_models(project)
    assert (finding.state, finding.said) == ("error" if role == "stable" else "warning", unfit["said"])


@pytest.mark.parametrize("role", list(STEPS))
def test_a_version_whose_feature_is_calculated_otherwise_is_too(project: Path, role: str) -> None:
    for step, version in STEPS[role]:
        run(project, "model", step, "fraud", version)
    written(project, OTHERWISE)
    unfit = {(one["role"], one["version"]): one["said"] for one in run(project, "apply")["unfit"]}
    assert (role, "1") in unfit
    assert "the feature user_now:payments_1m is calculated otherwise now" in unfit[role, "1"]
    assert {finding.said for finding in of_models(project)} == set(unfit.values())


def test_the_latest_version_of_a_model_of_which_nothing_is_released_is_said_to_be_that(tmp_path: Path) -> None:
    written(tmp_path, ALL)
    add(tmp_path)
    run(tmp_path, "apply")
    written(tmp_path, GONE.replace('UserNow.payments["1m"]', 'UserNow.payments["1d"]'))
    (unfit,) = run(tmp_path, "apply")["unfit"]
    assert unfit["role"] == "latest"
    assert "the latest version of fraud cannot answer" in unfit["said"]


def test_what_reads_as_before_is_no_matter_and_a_shadow_that_goes_on_is_told_as_others_are(project: Path) -> None:
    run(project, "model", "release", "fraud", "2")
    run(project, "model", "shadow", "fraud", "1")
    written(project, OF_NOW.replace('("1m", "1h", "1d")', '("1m", "1h", "1d", "7d")'))
    made, said = told(project, "apply")
    assert (made["unfit"], made["models"], said) == ([], {}, "")
    assert of_models(project) == []


def test_the_ensembles_that_are_refused_with_their_member_are_named(project: Path) -> None:
    written(project, OF_NOW + ENSEMBLE)
    run(project, "apply")
    run(project, "model", "release", "fraud", "1")
    written(project, GONE + ENSEMBLE)
    (unfit,) = run(project, "apply", "--plan")["unfit"]
    assert "scores of fraud and combined are refused (503)" in unfit["said"]


def test_a_models_folder_that_cannot_be_read_is_said_and_does_not_keep_definitions_from_being_applied(project: Path) -> None:
    aliases = project / "models" / "fraud" / "aliases.json"
    aliases.write_text("{")
    for definitions in (OF_NOW, GONE):
        written(project, definitions)
        made, said = told(project, "apply")
        assert made["applied"]
        assert "whether versions of models can be computed was not looked at" in said
        assert str(aliases) in said
