"""What every provider that runs models here must keep; ``make gpu-check`` runs this file on a machine with a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from unit.models.networks import COLUMNS, INPUTS, SIGNATURE, WIDTH, fitted, network, rows, with_gaps

from featureflow.clock import ManualClock
from featureflow.errors import ModelError
from featureflow.models import engine as engines
from featureflow.models import provider as providers
from featureflow.models.manifest import Provider
from featureflow.models.session import BUCKETS, Session
from featureflow.models.signature import Signature
from featureflow.models.store import ModelStore

HERE = providers.present()
FLOAT_NOISE = 2e-3                         # TF32 products of a GPU have 10 bits


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return network().export(tmp_path / "m.onnx").read_bytes()


@pytest.fixture(params=HERE)
def where(request: pytest.FixtureRequest) -> Provider:
    return request.param


def test_it_scores_as_the_cpu_does_at_every_batch_size_in_any_order(content: bytes, where: Provider) -> None:
    session, reference = (Session(content, SIGNATURE, COLUMNS, one, "m") for one in (where, "cpu"))
    sizes = [*BUCKETS, *(b + 1 for b in BUCKETS[1:]), 2 * BUCKETS[-1] + 7]
    for count in [*sizes, *reversed(sizes)]:
        matrix = rows(count, seed=count).astype(np.float32)
        assert session.run(matrix) == pytest.approx(reference.run(matrix), abs=FLOAT_NOISE)
    assert session.provider == where
    assert session.degraded is None


def test_a_run_answers_to_its_own_rows_and_not_to_those_of_the_run_before(content: bytes, where: Provider) -> None:
    session = Session(content, SIGNATURE, COLUMNS, where, "m")
    first, second = (rows(8, seed=seed).astype(np.float32) for seed in (1, 2))
    alone = session.run(first)
    assert session.run(second) != pytest.approx(alone, abs=FLOAT_NOISE)
    assert session.run(first).tolist() == alone.tolist()


def test_named_tensors_give_what_the_matrix_gives(content: bytes, where: Provider) -> None:
    session = Session(content, SIGNATURE, COLUMNS, where, "m")
    for count in (1, 5, BUCKETS[-1] + 3):
        matrix = rows(count).astype(np.float32)
        found = session.infer({"inputs": matrix})
        assert found["score"].reshape(-1) == pytest.approx(session.run(matrix), abs=FLOAT_NOISE)


def test_quantized_variants_are_placed_by_what_was_measured_and_answer_from_there(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", ManualClock(1_000))
    store.path.mkdir()
    path = network().export(tmp_path / "m.onnx")
    store.add("late", path, inputs=INPUTS, transforms=fitted(), calibration=with_gaps(600))
    store.quantize("late", tolerance=0.09)
    before = store.load("late")
    found = store.profile("late", expected_batch=8, batches=(1, 8))
    assert {(v.variant, v.provider) for v in found.variants} == {(v, p) for v in before.manifest.variants for p in HERE}
    assert all([t.batch for t in v.times] == [1, 8] for v in found.variants if v.problem is None)
    assert not store.is_current(before)
    loaded = store.load("late")
    assert (loaded.variant, loaded.provider, loaded.reason) == (found.chosen.variant, found.chosen.provider, found.chosen.reason)
    assert store.profiled("late") == found
    assert loaded.score(with_gaps(5)) == pytest.approx(before.score(with_gaps(5)), abs=0.2)


def test_a_model_that_cannot_be_captured_as_a_graph_runs_all_the_same(where: Provider) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1]) for n in "xy")
    branches = [
        helper.make_graph([helper.make_node(op, ["x"], [f"{op}y"])], op, [], [helper.make_tensor_value_info(f"{op}y", 1, ["n", 1])])
        for op in ("Relu", "Neg")
    ]
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), helper.make_node("Greater", ["m", "zero"], ["big"]),
        helper.make_node("If", ["big"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    graph = helper.make_graph(nodes, "g", [x], [y], [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    try:
        session = Session(model, Signature("x", 1, "y"), ("a",), where, "m", buckets=(1, 2))
    except ModelError:                     # a branch that is decided on the CPU is no silent copy: it is refused
        assert where != "cpu"
        return
    assert session.run(np.array([[2.0]], np.float32)).tolist() == [2.0]
    assert session.run(np.array([[-2.0]], np.float32)).tolist() == [2.0]


def test_where_a_gpus_memory_is_full_the_cpu_answers_and_says_so(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU its engine is one that fails as ONNX Runtime does; on one with a GPU it has no memory."""
    if "cuda" in HERE:
        monkeypatch.setattr(engines, "GPU_MEMORY_BYTES", 1)
    else:
        def full(content: bytes, provider: Provider) -> None:
            raise RuntimeError(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 AllocateRawInternal Available memory of 0 is smaller than "
                "requested bytes of 4096"
            )

        monkeypatch.setattr(engines, "GpuEngine", full)
    session = Session(content, SIGNATURE, COLUMNS, "cuda", "model late@1")
    assert session.provider == "cpu"
    assert session.degraded is not None
    assert session.degraded.startswith("cpu: cuda has no memory left for it (")
    matrix = rows(5).astype(np.float32)
    assert session.run(matrix).tolist() == Session(content, SIGNATURE, COLUMNS, "cpu", "m").run(matrix).tolist()


def test_another_failure_of_a_gpu_is_an_error_and_never_a_silent_move(content: bytes) -> None:
    if "cuda" in HERE:
        assert Session(content, SIGNATURE, COLUMNS, "cuda", "m").provider == "cuda"
        return
    with pytest.raises(ModelError, match="m does not run on cuda"):
        Session(content, SIGNATURE, COLUMNS, "cuda", "m")


def test_the_providers_here_are_those_that_onnx_runtime_was_built_with_or_fewer() -> None:
    built = onnxruntime.get_available_providers()
    assert HERE[0] == "cpu"
    assert all(engines.EXECUTION[one] in built for one in HERE)
    assert len(COLUMNS) == WIDTH
