"""Graphs that are optimized once: the same scores, checked, made again where they do not fit, never needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from unit.models.networks import INPUTS, WIDTH, fitted, network, with_gaps

from featureflow.clock import ManualClock
from featureflow.errors import ModelError
from featureflow.models import loader, prepare
from featureflow.models.export import export_mlp
from featureflow.models.manifest import Manifest
from featureflow.models.prepared import Prepared
from featureflow.models.store import ModelStore


@pytest.fixture
def models(tmp_path: Path) -> ModelStore:
    found = ModelStore(tmp_path / "models", ManualClock(1_000))
    found.path.mkdir()
    return found


def add(models: ModelStore, name: str = "late", **more: object) -> Manifest:
    return models.add(name, network().export(models.path.parent / f"{name}.onnx"), inputs=INPUTS, transforms=fitted(), **more)


def home(models: ModelStore) -> Path:
    return models.path / "late" / "1"


def fresh(models: ModelStore) -> ModelStore:
    """With a pool of its own, so that files are read."""
    return ModelStore(models.path)


def loaded_from(models: ModelStore, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What sessions are made of from now on."""
    seen: list[object] = []
    made = loader.Session

    def noting(content: object, *rest: object, **more: object) -> object:
        seen.append(content)
        return made(content, *rest, **more)

    monkeypatch.setattr(loader, "Session", noting)
    return seen


def test_a_model_is_prepared_as_it_is_added_and_scores_the_same_bits_from_that(models: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add(models, calibration=with_gaps(600))
    models.quantize("late", tolerance=0.09)
    rows = with_gaps(300, seed=5)
    seen = loaded_from(models, monkeypatch)
    prepared = {v: fresh(models).load("late", variant=v).score(rows) for v in ("fp32", "fp16", "int8")}
    assert [type(content) for content in seen] == [Prepared] * 3
    shutil.rmtree(home(models) / prepare.FOLDER)
    for variant, scores in prepared.items():
        assert fresh(models).load("late", variant=variant).score(rows).tolist() == scores.tolist()
    assert [type(content) for content in seen[3:]] == [bytes] * 3


def test_large_weights_stand_in_a_file_beside_the_graph(models: ModelStore) -> None:
    draw = np.random.default_rng(0)
    path = models.path.parent / "wide.onnx"
    export_mlp([draw.normal(size=(WIDTH, 400)), draw.normal(size=(400, 1))], [np.zeros(400), np.zeros(1)], path)
    made = models.add("late", path, inputs=INPUTS, transforms=fitted())
    found = prepare.find(home(models), made.variants["fp32"])
    assert found is not None
    assert found.path.with_suffix(".bin").stat().st_size > 4 * 400 * WIDTH > found.path.stat().st_size
    assert found.bytes == sum(p.stat().st_size for p in (found.path, found.path.with_suffix(".bin")))


@pytest.mark.parametrize("suffix", [".onnx", ".bin", ".json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_what_is_not_as_it_was_prepared_is_never_loaded(models: ModelStore, suffix: str, how: str) -> None:
    draw = np.random.default_rng(0)
    path = models.path.parent / "wide.onnx"
    export_mlp([draw.normal(size=(WIDTH, 400)), draw.normal(size=(400, 1))], [np.zeros(400), np.zeros(1)], path)
    made = models.add("late", path, inputs=INPUTS, transforms=fitted())
    (file,) = (home(models) / prepare.FOLDER).glob(f"*{suffix}")
    content = file.read_bytes()
    for at in (0, len(content) // 2, len(content) - 1):
        bad = bytearray(content)
        bad[at] ^= 4
        file.unlink(missing_ok=True)
        if how != "gone":
            file.write_bytes(bad if how == "flipped" else content[:at])
        assert prepare.find(home(models), made.variants["fp32"]) is None
    rows = with_gaps(9)
    expected = models.load("late").score(rows)
    assert fresh(models).load("late").score(rows).tolist() == expected.tolist()    # from the file that was added


def test_a_file_that_was_changed_is_refused_though_what_was_prepared_of_it_is_whole(models: ModelStore) -> None:
    add(models)
    file = home(models) / "fp32.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="is not the file that was added"):
        fresh(models).load("late")


def test_another_runtime_or_processor_prepares_its_own(models: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    item = add(models).variants["fp32"]
    assert prepare.find(home(models), item) is not None
    monkeypatch.setattr(prepare, "machine", lambda: "onnxruntime 9.9.9, another processor")
    assert prepare.find(home(models), item) is None
    prepare.make(home(models), item, (home(models) / item.file).read_bytes())
    assert prepare.find(home(models), item) is not None
    assert len(list((home(models) / prepare.FOLDER).glob("*.json"))) == 2          # both machines share the folder
    monkeypatch.undo()
    assert prepare.find(home(models), item) is not None


def test_a_scorer_has_a_large_file_prepared_by_another_process(models: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    item = add(models).variants["fp32"]
    shutil.rmtree(home(models) / prepare.FOLDER)
    monkeypatch.setattr(prepare, "LARGE_BYTES", 1)
    seen = loaded_from(models, monkeypatch)
    fresh(models).load("late")
    assert [type(content) for content in seen] == [Prepared]
    assert prepare.find(home(models), item) is not None


def test_a_folder_that_cannot_be_written_to_is_done_without(models: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add(models)
    shutil.rmtree(home(models) / prepare.FOLDER)
    (home(models) / prepare.FOLDER).write_text("a file where the folder would be")
    monkeypatch.setattr(prepare, "LARGE_BYTES", 1)
    assert fresh(models).load("late").variant == "fp32"


def test_what_was_prepared_of_a_variant_goes_with_it(models: ModelStore) -> None:
    add(models, calibration=with_gaps(600))
    for seed in (1, 2):
        models.quantize("late", tolerance=0.09, vectors=with_gaps(600, seed=seed), variants=("int8",))
        assert len(list((home(models) / prepare.FOLDER).glob("*.json"))) == 2
    assert not list((home(models) / prepare.FOLDER).glob(".making-*"))
