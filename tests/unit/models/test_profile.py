"""A profile is of one version on one machine, and decides what answers there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from unit.models.networks import INPUTS, fitted, network, with_gaps

from featureflow.clock import ManualClock
from featureflow.models import profile
from featureflow.models.machine import machine
from featureflow.models.manifest import Variant
from featureflow.models.store import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    found = ModelStore(tmp_path / "models", ManualClock(1_000))
    found.path.mkdir()
    path = network().export(tmp_path / "m.onnx")
    found.add("late", path, inputs=INPUTS, transforms=fitted(), calibration=with_gaps(600))
    found.quantize("late", tolerance=0.09, variants=("int8",))
    return found


def file_of(store: ModelStore) -> Path:
    return store.path / "late" / "1" / profile.file_of(machine())


def test_a_profile_is_of_its_machine_its_variants_and_its_own_bytes_or_none(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store.profile("late", batches=(1, 32))
    assert store.profiled("late") == made
    assert (made.rows, made.expected_batch) == (600, 32)

    content = file_of(store).read_bytes()
    for at in (content.index(b'"median_us"') + 14, content.index(b'"fp32"') + 2, len(content) // 2):
        bad = bytearray(content)
        bad[at] ^= 1
        file_of(store).write_bytes(bad)
        assert store.profiled("late") is None
        assert ModelStore(store.path).load("late").reason == store.load("late").manifest.choice("cpu").reason     # as if never measured
    file_of(store).write_bytes(content)

    monkeypatch.setattr(profile, "machine", lambda: "another")
    assert store.profiled("late") is None
    monkeypatch.undo()
    assert store.profiled("late") == made
    store.quantize("late", tolerance=0.09, vectors=with_gaps(600, seed=3), variants=("int8",))
    assert store.profiled("late") is None


def test_a_model_answers_as_it_was_placed_and_a_new_profile_is_seen(store: ModelStore) -> None:
    made = store.profile("late", batches=(1, 32))
    other: Variant = "fp32" if made.chosen.variant == "int8" else "int8"
    before = store.load("late")
    assert (before.variant, before.reason) == (made.chosen.variant, made.chosen.reason)
    assert store.is_current(before)
    chosen = msgspec.structs.replace(made.chosen, variant=other, reason=f"{other}: measured to be faster")
    profile.write(store.path / "late" / "1", msgspec.structs.replace(made, chosen=chosen))
    assert not store.is_current(before)
    assert (store.load("late").variant, store.load("late").reason) == (other, f"{other}: measured to be faster")


def test_a_version_without_kept_rows_is_measured_on_drawn_ones(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", ManualClock(1_000))
    store.path.mkdir()
    store.add("late", network().export(tmp_path / "m.onnx"), inputs=INPUTS, transforms=fitted())
    made = store.profile("late", batches=(1,))
    assert (made.rows, made.variants[0].drift) == (0, None)
    assert [t.batch for t in made.variants[0].times] == [1, 32]
