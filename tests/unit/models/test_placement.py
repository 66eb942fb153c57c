from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from unit.models.networks import INPUTS, fitted, network, with_gaps

from featureflow.clock import ManualClock
from featureflow.models import profile
from featureflow.models.machine import machine
from featureflow.models.manifest import BatchTime, Drift, Provider, Variant, VariantReport
from featureflow.models.placement import place
from featureflow.models.store import ModelStore


def report(variant: Variant, provider: Provider, *us: float, problem: str | None = None) -> VariantReport:
    times = tuple(BatchTime(batch=batch, median_us=t, p99_us=2 * t) for batch, t in zip((1, 32), us, strict=False))
    drift = None if problem else Drift(max=0.012, mean=0.001, agreement=1.0)
    return VariantReport(variant=variant, provider=provider, scheme=variant, bytes=1, drift=drift, times=times, problem=problem)


EXACT = report("fp32", "cpu", 10, 100)


def test_the_fastest_at_the_expected_batch_is_chosen_wherever_it_runs() -> None:
    found = place([EXACT, report("int8", "cpu", 12, 50), report("fp16", "cuda", 40, 45)], 32)
    assert (found.variant, found.provider) == ("fp16", "cuda")
    assert found.reason == (
        "fp16 on cuda: 2.2x faster at batch 32 (45 us, fp32 on cpu 100), drift at most 0.0120; "
        "faster elsewhere: fp32 on cpu at 1 (10 us, not 40)"
    )


def test_a_small_model_stays_on_the_cpu_though_there_is_a_gpu() -> None:
    found = place([EXACT, report("fp32", "cuda", 40, 96), report("int8", "cpu", 12, 97)], 32)
    assert (found.variant, found.provider) == ("fp32", "cpu")
    assert found.reason == "fp32 on cpu: no other is faster at batch 32 (100 us)"


def test_what_drifts_too_far_or_does_not_run_is_no_choice() -> None:
    found = place([EXACT, report("int8", "cpu", 1, 1, problem="int8 on cpu differs"), report("fp16", "cuda", problem="no kernel")], 32)
    assert (found.variant, found.provider) == ("fp32", "cpu")


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
