from __future__ import annotations

import math
import multiprocessing
import os
import random
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from unit.models.networks import INPUTS, WIDTH, Network, fitted, network, with_gaps

from featureflow.clock import ManualClock
from featureflow.define import spec
from featureflow.errors import DriftError, ModelError
from featureflow.models import manifest as manifests
from featureflow.models.folder import TEXT_BYTES
from featureflow.models.manifest import Manifest, ModelInput, Probe
from featureflow.models.store import ModelStore
from featureflow.models.transform import Steps, fit, identity

TOLERANCE = 0.09


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> ModelStore:
    return ModelStore(tmp_path / "models", clock)


def add(store: ModelStore, name: str = "late", *, seed: int = 0, rows: int = 0, **more: object) -> Manifest:
    store.path.mkdir(parents=True, exist_ok=True)
    path = network(seed=seed).export(store.path.parent / f"{name}-{seed}.onnx")
    if rows:
        more = {"calibration": with_gaps(rows), **more}
    return store.add(name, path, **{"inputs": INPUTS, "transforms": fitted(), **more})


def files(store: ModelStore, name: str = "late", version: str = "1") -> set[str]:
    return {p.name for p in (store.path / name / version).iterdir() if p.is_file()}


# -- add, list, resolve ------------------------------------------------------------------------------------------------

def test_an_added_model_scores_what_its_transforms_and_weights_say(store: ModelStore) -> None:
    add(store)
    matrix = with_gaps(50, seed=7)
    loaded = store.load("late")
    net: Network = network()
    assert np.abs(loaded.score(matrix) - net.score(fitted().apply(matrix))).max() < 1e-6
    assert (loaded.name, loaded.version, loaded.variant, loaded.provider) == ("late", "1", "fp32", "cpu")
    assert loaded.reason == "fp32: no other variant was made"


def test_versions_count_up_from_the_highest_and_latest_follows(store: ModelStore) -> None:
    assert [add(store).version, add(store).version] == ["1", "2"]
    assert add(store, version="40").version == "40"
    assert add(store, version="2024-06").version == "2024-06"
    assert store.resolve("late") == "2024-06"
    assert add(store).version == "41"
    assert store.resolve("late") == store.resolve("late", "latest") == "41"


def test_a_version_is_never_overwritten(store: ModelStore) -> None:
    add(store, version="7")
    before = (store.path / "late" / "7" / "manifest.json").read_bytes()
    with pytest.raises(ModelError, match="has a version 7 already"):
        add(store, version="7", seed=1)
    assert (store.path / "late" / "7" / "manifest.json").read_bytes() == before


def test_an_alias_names_a_version_until_it_is_moved(store: ModelStore) -> None:
    add(store)
    add(store)
    assert store.alias("late", "champion", "1") == "1"
    assert store.resolve("late", "champion") == "1"
    store.alias("late", "champion", "latest")
    assert store.load("late", "champion").version == "2"


def test_setting_latest_back_is_a_rollback(store: ModelStore) -> None:
    add(store)
    add(store)
    store.alias("late", "latest", "1")
    assert store.load("late").version == "1"


def test_aliases_and_versions_cannot_be_mistaken_for_each_other(store: ModelStore) -> None:
    add(store, version="spring")
    for alias in ("spring", "12"):
        with pytest.raises(ModelError, match="names a version"):
            store.alias("late", alias, "latest")
    store.alias("late", "champion", "spring")
    for version in ("champion", "latest"):
        with pytest.raises(ModelError, match="is an alias"):
            add(store, version=version)


def test_what_does_not_exist_is_refused_with_what_does(store: ModelStore) -> None:
    with pytest.raises(ModelError, match=r"no model late in .* \(there: none\)"):
        store.load("late")
    add(store)
    with pytest.raises(ModelError, match=r"no model early in .* \(there: late\)"):
        store.load("early")
    with pytest.raises(ModelError, match="no version or alias 3; there are: 1, latest"):
        store.load("late", "3")


def test_a_file_in_the_place_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(ModelError, match=r"models is a file, and models are kept in a folder.*models\.path"):
        ModelStore(tmp_path / "models")


@pytest.mark.parametrize("name", ["", "..", "../late", "a/b", ".hidden", "a" * 65, "naïve"])
def test_a_name_cannot_lead_out_of_the_store(store: ModelStore, name: str) -> None:
    with pytest.raises(ModelError, match="cannot name a model"):
        store.load(name)
    with pytest.raises(ModelError, match="cannot name a model"):
        store.add(name, network().export(store.path.parent / "m.onnx"), inputs=INPUTS, transforms=fitted())
    with pytest.raises(ModelError, match="cannot name a version"):
        add(store, version=name)
    with pytest.raises(ModelError, match="cannot name an alias"):
        store.alias("late", name, "1")


def test_list_names_every_version_oldest_first_with_its_aliases(store: ModelStore, clock: ManualClock) -> None:
    for name in ("b", "a", "a"):
        add(store, name)
        clock.advance(1)
    store.alias("a", "champion", "1")
    listed = [(r.name, r.version, r.aliases) for r in store.list()]
    assert listed == [("a", "1", ("champion",)), ("a", "2", ("latest",)), ("b", "1", ("latest",))]
    assert [r.manifest.created_us for r in store.list() if r.manifest] == [1_001, 1_002, 1_000]


def test_list_shows_a_broken_version_with_its_problem(store: ModelStore) -> None:
    add(store)
    (store.path / "late" / "1" / "manifest.json").write_bytes(b"{}")
    (found,) = store.list()
    assert found.manifest is None
    assert "is not a model manifest" in (found.problem or "")


def test_list_shows_the_versions_of_a_model_whose_aliases_are_broken_and_every_other_model(store: ModelStore) -> None:
    add(store)
    add(store, "other")
    for broken in (b"[]", b'{"a":' * 100_000):
        (store.path / "late" / "aliases.json").write_bytes(broken)
        late, other = store.list()
        assert (late.version, late.aliases, late.manifest) == ("1", (), None)
        assert "aliases.json is not a JSON object" in (late.problem or "")
        assert other.problem is None


@pytest.mark.parametrize(("nodes", "weight", "says"), [
    ([("MatMul", "xw", "y")], math.nan, "has no finite score for any of 10 rows"),
    ([("MatMul", "xw", "y")], math.inf, "has no finite score for any of 10 rows"),
    ([("MatMul", "xw", "a"), ("Dropout", "ahn", "y")], 1.0, "gives other scores each time"),
    ([("MatMul", "xw", "a"), ("CumSum", "az", "y")], 1.0, "scores a row by the other rows of its batch too"),
])
def test_a_model_without_a_score_for_each_row_by_itself_is_refused(
    store: ModelStore, tmp_path: Path, nodes: list[tuple[str, str, str]], weight: float, says: str
) -> None:
    constants = {"w": np.full((WIDTH, 1), weight, np.float32), "h": np.float32(0.5), "n": np.array(True), "z": np.array(0)}
    used = {name for _, names, _ in nodes for name in names}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, list(names), [out]) for op, names, out in nodes], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", WIDTH])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 1])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used],
    )
    path = tmp_path / "m.onnx"
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelError, match=says):
        store.add("late", path, inputs=INPUTS, transforms=fitted())
    assert store.list() == ()


def test_a_version_cannot_take_the_place_of_the_aliases(store: ModelStore) -> None:
    with pytest.raises(ModelError, match="aliases.json"):
        add(store, version="aliases.json")
    assert add(store).version == "1"


@pytest.mark.parametrize("file", ["manifest.json", "fp32.onnx"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(store: ModelStore, file: str) -> None:
    add(store)
    (store.path / "late" / "1" / file).unlink()
    os.mkfifo(store.path / "late" / "1" / file)
    with pytest.raises(ModelError, match="is no plain file"):
        store.load("late")


def test_a_manifest_of_any_size_is_not_read(store: ModelStore) -> None:
    add(store)
    with (store.path / "late" / "1" / "manifest.json").open("ab") as file:
        file.truncate(TEXT_BYTES + 1)
    with pytest.raises(ModelError, match="it may have 16,777,216"):
        store.load("late")


def test_an_empty_store_lists_nothing(store: ModelStore) -> None:
    assert store.list() == ()


def test_an_add_cut_short_leaves_nothing_that_counts_as_a_version(store: ModelStore) -> None:
    add(store)
    (store.path / "late" / ".adding-0123").mkdir()
    (store.path / "late" / ".adding-0123" / "manifest.json").write_bytes(b"{")
    assert [r.version for r in store.list()] == ["1"]
    assert add(store).version == "2"
    assert not list((store.path / "late").glob(".adding-*"))


def test_a_first_add_cut_short_before_its_alias_is_found_all_the_same(store: ModelStore) -> None:
    add(store)
    (store.path / "late" / "aliases.json").unlink()
    assert store.resolve("late") == "1"


def test_a_refused_add_leaves_nothing(store: ModelStore) -> None:
    with pytest.raises(ModelError):
        add(store, transforms=identity(3))
    assert store.list() == ()
    assert not (store.path / "late").exists()


def _add_in_process(path: Path, onnx_path: Path) -> str:
    return ModelStore(path).add("late", onnx_path, inputs=INPUTS, transforms=identity(12)).version


def test_processes_that_add_at_once_get_a_version_each(store: ModelStore, tmp_path: Path) -> None:
    onnx_path = network().export(tmp_path / "m.onnx")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_add_in_process, [(store.path, onnx_path)] * 6)
    assert sorted(found) == ["1", "2", "3", "4", "5", "6"]
    assert store.resolve("late") == "6"
    assert all(store.load("late", version).version == version for version in found)


# -- what must not be served -------------------------------------------------------------------------------------------

def test_inputs_must_be_those_of_the_definition(store: ModelStore) -> None:
    same = [spec.Input(name=i.name, expr=spec.Column(i.name), size=i.size) for i in INPUTS]
    add(store, model=spec.Model(name="late", inputs=tuple(same), deadline_us=1, drift=0.03))
    share = spec.Input(name="share", expr=spec.Column("share"), size=2)
    other = spec.Model(name="late", inputs=(*same[:-1], share), deadline_us=1, drift=0.03)
    with pytest.raises(ModelError, match="late_share is not in the definition; share is not in the model"):
        add(store, model=other)
    with pytest.raises(ModelError, match="share is not in the model"):
        store.load("late", project=spec.Project(models=(other,)))


def test_inputs_of_another_width_than_the_file_are_refused(store: ModelStore) -> None:
    with pytest.raises(ModelError, match="takes 12 columns, and is given 3: a.0., a.1., a.2.. Train it on"):
        add(store, inputs=(ModelInput(name="a", size=3),), transforms=identity(3))


def test_a_file_that_is_not_there_is_named(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx cannot be read: No such file"):
        store.add("late", tmp_path / "absent.onnx", inputs=INPUTS, transforms=identity(12))


def test_weights_in_another_file_are_refused(store: ModelStore, tmp_path: Path) -> None:
    whole = onnx.load(network().export(tmp_path / "m.onnx"))
    onnx.save_model(whole, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(ModelError, match="in another file"):
        store.add("late", tmp_path / "m.onnx", inputs=INPUTS, transforms=identity(12))


def test_calibration_rows_that_stay_undefined_are_refused_by_input(store: ModelStore) -> None:
    steps = fit(with_gaps(), INPUTS, {"hour": Steps(impute=None)})
    with pytest.raises(ModelError, match="got nan for input hour in row"):
        add(store, rows=300, transforms=steps)


def test_one_flipped_bit_anywhere_is_refused(store: ModelStore) -> None:
    add(store, rows=400)
    store.quantize("late", tolerance=TOLERANCE, variants=("int8",))
    found = store.load("late").manifest
    draw = random.Random(0)
    for file, variant in ((found.variants["fp32"].file, "fp32"), (found.variants["int8"].file, "int8"), ("manifest.json", "fp32")):
        path = store.path / "late" / "1" / file
        good = path.read_bytes()
        for _ in range(25):
            bad = bytearray(good)
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
            path.write_bytes(bad)
            if file == "manifest.json" and _means_the_same(bytes(bad), good):
                continue
            with pytest.raises(ModelError):
                ModelStore(store.path).load("late", variant=variant)   # with a pool of its own: what is held ready was read before
        path.write_bytes(good)
        ModelStore(store.path).load("late", variant=variant)


def _means_the_same(a: bytes, b: bytes) -> bool:
    """Of a flip that changes nothing but white space."""
    try:
        return msgspec.json.decode(a) == msgspec.json.decode(b)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def test_a_file_of_another_model_is_refused(store: ModelStore) -> None:
    add(store, seed=0)
    add(store, seed=1)
    one, two = (store.path / "late" / v / "fp32.onnx" for v in "12")
    one.write_bytes(two.read_bytes())
    with pytest.raises(ModelError, match=r"fp32\.onnx is not the file that was added"):
        store.load("late", "1")


def test_a_version_copied_under_another_name_is_refused(store: ModelStore) -> None:
    add(store)
    (store.path / "late" / "1").rename(store.path / "late" / "9")
    with pytest.raises(ModelError, match="is the manifest of late@1"):
        store.load("late", "9")


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300])
def test_a_value_that_does_not_fit_float32_is_refused_by_input(store: ModelStore, value: float) -> None:
    add(store)
    matrix = with_gaps(3)
    matrix[2, 9] = value
    with pytest.raises(ModelError, match="model late@1 .*input hour in row 2"):
        store.load("late").score(matrix)


def test_another_width_is_refused_at_scoring(store: ModelStore) -> None:
    add(store)
    with pytest.raises(ModelError, match=r"the transforms take \(rows, 12\)"):
        store.load("late").score(np.zeros((2, 11)))


# -- quantize ----------------------------------------------------------------------------------------------------------

def test_quantize_keeps_both_variants_with_what_was_measured_and_why_one_answers(store: ModelStore) -> None:
    add(store, rows=1_500)
    report = store.quantize("late", tolerance=TOLERANCE)
    assert [v.variant for v in report.variants] == ["fp32", "fp16", "int8"]
    assert (report.tolerance, report.expected_batch, report.calibration_rows + report.held_out_rows) == (TOLERANCE, 32, 1_500)
    loaded = store.load("late")
    assert loaded.variant == loaded.manifest.choice("cpu").variant
    assert loaded.reason.startswith(f"{loaded.variant}: ")
    assert loaded.manifest.report == report
    assert {v: store.load("late", variant=v).variant for v in ("fp32", "fp16", "int8")} == {v: v for v in ("fp32", "fp16", "int8")}
    matrix = with_gaps(200, seed=11)
    exact = store.load("late", variant="fp32").score(matrix)
    assert np.abs(store.load("late", variant="int8").score(matrix) - exact).max() < 0.15


def test_a_refused_variant_leaves_the_version_as_it_was(store: ModelStore) -> None:
    add(store, rows=600)
    before = {p.name: p.read_bytes() for p in (store.path / "late" / "1").rglob("*") if p.is_file()}
    with pytest.raises(DriftError, match="model late@1 in INT8"):
        store.quantize("late", tolerance=1e-4, variants=("int8",))
    assert {p.name: p.read_bytes() for p in (store.path / "late" / "1").rglob("*") if p.is_file()} == before


def test_quantize_takes_the_rows_that_it_is_given(store: ModelStore) -> None:
    add(store)
    with pytest.raises(ModelError, match="added without calibration rows"):
        store.quantize("late", tolerance=TOLERANCE)
    assert store.quantize("late", tolerance=TOLERANCE, vectors=with_gaps(700)).held_out_rows == 350


def test_labels_kept_with_the_rows_give_the_auc(store: ModelStore) -> None:
    labels = np.random.default_rng(3).random(600) < 0.5
    add(store, rows=600, labels=labels)
    report = store.quantize("late", tolerance=TOLERANCE, variants=("fp16",)).of("fp16")
    assert report is not None
    assert report.drift is not None
    assert report.drift.auc is not None
    with pytest.raises(ModelError, match="5 labels are given for 600 calibration rows"):
        add(store, rows=600, labels=labels[:5])


def test_quantizing_again_replaces_the_variants(store: ModelStore) -> None:
    add(store, rows=600)
    store.quantize("late", tolerance=TOLERANCE)
    first = store.load("late", variant="int8")
    assert store.is_current(first)
    store.quantize("late", tolerance=TOLERANCE, vectors=with_gaps(600, seed=5), variants=("int8",))
    assert not store.is_current(first)
    assert sorted(store.load("late").manifest.variants) == ["fp32", "int8"]
    assert len([f for f in files(store) if f.startswith("int8.")]) == 1
    assert not [f for f in files(store) if f.startswith("fp16.")]
    with pytest.raises(ModelError, match="has no variant fp16, only fp32, int8"):
        store.load("late", variant="fp16")


def test_a_loaded_model_is_no_longer_current_once_its_ref_stands_for_another_version(store: ModelStore) -> None:
    add(store)
    loaded = store.load("late")
    assert store.is_current(loaded)
    add(store)
    assert not store.is_current(loaded)
    assert store.is_current(loaded, "1")


def test_a_version_that_is_quantized_again_while_it_is_loaded_is_loaded_with_its_new_files(store: ModelStore) -> None:
    add(store, rows=300)
    store.quantize("late", tolerance=0.1, variants=("int8",))
    quantized = [store.load("late", variant="int8").stamp]

    class Meanwhile:
        """Definitions that are looked at between the manifest and the files: the moment at which another process may quantize."""

        @property
        def models(self) -> tuple[spec.Model, ...]:
            if len(quantized) < 3:
                store.quantize("late", tolerance=0.1, vectors=with_gaps(300, seed=len(quantized)), variants=("int8",))
                quantized.append(manifests.artifact("", (store.path / "late" / "1" / "manifest.json").read_bytes()).sha256)
            inputs = tuple(spec.Input(name=i.name, expr=spec.Column(i.name), size=i.size) for i in INPUTS)
            return (spec.Model(name="late", inputs=inputs, deadline_us=1, drift=0.03),)

    loaded = ModelStore(store.path).load("late", variant="int8", project=Meanwhile())    # with a pool of its own, so that files are read
    assert len(set(quantized)) == 3
    assert loaded.stamp == quantized[-1]


def test_a_variant_that_answers_otherwise_on_this_machine_gives_way_to_fp32_and_says_so(store: ModelStore) -> None:
    add(store, rows=600)
    store.quantize("late", tolerance=TOLERANCE, variants=("int8",))
    _rewrite(store, shift=0.2, variant="int8", tolerance=0.1, rebuilt=True)
    loaded = store.load("late")
    assert loaded.variant == "fp32"
    assert loaded.reason.startswith("fp32: int8 is refused on this machine: its scores of the probe rows differ from FP32's by 0.")
    with pytest.raises(ModelError, match="in int8 is refused on this machine"):
        store.load("late", variant="int8")


def test_fp32_that_answers_otherwise_on_this_machine_is_refused(store: ModelStore) -> None:
    add(store, rows=600)
    store.quantize("late", tolerance=TOLERANCE, variants=("int8",))
    _rewrite(store, shift=0.2, variant="fp32", tolerance=0.1, rebuilt=False)
    with pytest.raises(ModelError, match="in fp32 is refused on this machine: its scores of the probe rows differ"):
        store.load("late")


def _rewrite(store: ModelStore, *, shift: float, variant: str, tolerance: float, rebuilt: bool) -> None:
    """A machine that computes otherwise cannot be had here; a whole, correctly signed file that answers otherwise can.

    rebuilt: the variant's file becomes another network; else the probe expects other scores.
    """
    folder = store.path / "late" / "1"
    found = store.load("late").manifest
    assert found.probe is not None
    variants, probe = dict(found.variants), found.probe
    if rebuilt:
        content = network(seed=99).export(store.path.parent / "other.onnx").read_bytes()
        (folder / "int8.onnx").write_bytes(content)
        variants["int8"] = manifests.artifact("int8.onnx", content)
    else:
        probe = Probe(rows=probe.rows, scores=tuple(s + shift for s in probe.scores), tolerance=tolerance)
    changed = msgspec.structs.replace(
        found, variants=variants, probe=probe, chosen={"cpu": manifests.Choice(variant=variant, reason=f"{variant}: said")}
    )
    (folder / "manifest.json").write_bytes(manifests.encode(changed))


def test_a_provider_that_does_not_run_here_is_refused_when_insisted_on(store: ModelStore) -> None:
    add(store)
    with pytest.raises(ModelError, match="CUDA was asked for"):
        ModelStore(store.path, provider="cuda").load("late")
    assert ModelStore(store.path, provider="cpu").provider.reason == "cpu: asked for"
