from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from unit.models.networks import COLUMNS, SIGNATURE, WIDTH, Network, network, rows

from featureflow.errors import DriftError, ModelError
from featureflow.models.drift import compare, gate
from featureflow.models.half import to_half
from featureflow.models.int8 import Scheme, schemes, to_int8
from featureflow.models.manifest import BatchTime, Drift, VariantReport
from featureflow.models.onnx_file import parse
from featureflow.models.quantize import Quantized, Rows, choose, quantize, split
from featureflow.models.session import Session
from featureflow.models.timing import measure

TOLERANCE = 0.08


@pytest.fixture
def net() -> Network:
    return network()


@pytest.fixture
def fp32(net: Network, tmp_path: Path) -> bytes:
    return net.export(tmp_path / "m.onnx").read_bytes()


def sample(count: int = 2_400) -> np.ndarray:
    return rows(count).astype(np.float32)


def session(content: bytes) -> Session:
    return Session(content, SIGNATURE, COLUMNS, "cpu", "m")


def quantized(content: bytes, given: Rows, tolerance: float = TOLERANCE, **more: object) -> Quantized:
    return quantize(content, SIGNATURE, COLUMNS, given, tolerance=tolerance, **more)


def test_both_variants_are_made_and_stay_near_the_network_on_rows_they_were_not_calibrated_on(fp32: bytes, net: Network) -> None:
    made = quantized(fp32, split(sample()))
    fresh = rows(500, seed=9).astype(np.float32)
    expected = net.score(fresh)
    for variant, allowed in (("fp16", 0.005), ("int8", 0.1)):
        differs = np.abs(session(made.files[variant]).run(fresh) - expected)
        assert differs.max() < allowed
        report = made.report.of(variant)
        assert report is not None
        assert report.drift is not None
        assert 0 < report.drift.mean <= report.drift.max <= TOLERANCE
        assert {t.batch for t in report.times} == {1, 8, 32, 128}
        assert report.bytes == len(made.files[variant])


def test_int8_multiplies_integers_with_one_scale_per_channel(fp32: bytes) -> None:
    model = to_int8(parse(fp32, "m"), SIGNATURE, sample(), Scheme(signed=False))
    held = {t.name: t for t in model.graph.initializer}
    weights = [t for t in held.values() if t.data_type == TensorProto.INT8 and len(t.dims) == 2]
    assert len(weights) == 3
    scales = [held[n.input[1]] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in {w.name for w in weights}]
    assert sorted(tuple(s.dims) for s in scales) == [(1,), (16,), (32,)]


def test_calibration_and_held_out_rows_are_different_rows_and_labels_follow_theirs() -> None:
    matrix = np.arange(2_000 * 2, dtype=np.float32).reshape(2_000, 2)
    labels = matrix[:, 0] % 3 == 0
    found = split(matrix, labels)
    assert not set(found.calibration[:, 0].tolist()) & set(found.held_out[:, 0].tolist())
    assert found.labels is not None
    assert (found.labels == (found.held_out[:, 0] % 3 == 0)).all()


def test_a_large_set_is_thinned_evenly() -> None:
    found = split(np.arange(100_000, dtype=np.float32).reshape(-1, 1))
    assert (len(found.calibration), len(found.held_out)) == (1_024, 16_384)
    assert found.calibration[-1, 0] > 99_000
    assert found.held_out[-1, 0] > 99_000


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ModelError, match="100 rows are too few"):
        split(np.zeros((100, 2), np.float32))


def test_a_ragged_last_batch_of_calibration_rows_is_taken(fp32: bytes) -> None:
    to_int8(parse(fp32, "m"), SIGNATURE, sample(128 + 37), Scheme(signed=False))


def test_a_model_calibrated_on_zeros_is_refused(fp32: bytes) -> None:
    given = sample()
    with pytest.raises(DriftError, match="differs from FP32 by up to"):
        quantized(fp32, Rows(np.zeros((200, WIDTH), np.float32), given), tolerance=0.1)


@pytest.mark.parametrize("what", ["weights", "activations"])
def test_a_model_with_one_scale_four_times_too_large_is_refused(fp32: bytes, what: str) -> None:
    given = split(sample())
    good = to_int8(parse(fp32, "m"), SIGNATURE, given.calibration, Scheme(signed=True))
    reference = session(fp32).run(given.held_out)
    gate("m", compare(reference, session(good.SerializeToString()).run(given.held_out)), TOLERANCE)
    held = {t.name: t for t in good.graph.initializer}
    layer = [n for n in good.graph.node if n.op_type == "Gemm"][1]
    made_by = {output: n for n in good.graph.node for output in n.output}
    scale = held[made_by[layer.input[1 if what == "weights" else 0]].input[1]]
    scale.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(scale) * 4).astype(np.float32), scale.name))
    with pytest.raises(DriftError, match="differs from FP32 by up to"):
        gate("m", compare(reference, session(good.SerializeToString()).run(given.held_out)), 0.1)


def test_a_drift_outside_the_declared_tolerance_is_refused_and_its_numbers_are_said(fp32: bytes) -> None:
    with pytest.raises(DriftError, match=r"m in INT8 \(U8S8\) differs from FP32 by up to 0\.\d+ \(mean 0\.\d+\); 0.0001 is allowed"):
        quantized(fp32, split(sample()), tolerance=0.0001, place="m", variants=("int8",))


def test_no_tolerance_beyond_the_ceiling_is_taken(fp32: bytes) -> None:
    with pytest.raises(ModelError, match="at most 0.1"):
        quantized(fp32, split(sample()), tolerance=0.2)


def test_a_scheme_that_drifts_too_far_gives_way_to_one_that_keeps_outer_layers(fp32: bytes) -> None:
    given = split(sample())
    exact = session(fp32)

    def drift_of(scheme: Scheme) -> float:
        made = to_int8(parse(fp32, "m"), SIGNATURE, given.calibration, scheme).SerializeToString()
        return float(np.abs(session(made).run(given.held_out) - exact.run(given.held_out)).max())

    every = {str(s): drift_of(s) for s in schemes(parse(fp32, "m"))}
    between = (min(every.values()) + max(every.values())) / 2
    made = quantized(fp32, given, tolerance=between, variants=("int8",))
    found = made.report.of("int8")
    assert found is not None
    assert every[found.scheme] <= between
    refused = [name for name, drift in every.items() if drift > between]
    assert refused
    assert all(any(f"{name} differs from FP32" in text for text in made.report.tried) for name in refused)


def test_labels_add_the_auc_and_what_is_lost_of_it(fp32: bytes, net: Network) -> None:
    matrix = sample()
    labels = np.random.default_rng(5).random(len(matrix)) < net.score(matrix)
    report = quantized(fp32, split(matrix, labels)).report
    exact, int8 = report.of("fp32"), report.of("int8")
    assert exact is not None
    assert int8 is not None
    assert exact.drift is not None
    assert int8.drift is not None
    assert exact.drift.auc is not None
    assert int8.drift.auc is not None
    assert exact.drift.auc > 0.6
    assert int8.drift.auc_loss == pytest.approx(exact.drift.auc - int8.drift.auc)
    assert abs(exact.drift.auc - int8.drift.auc) < 0.02


def test_a_variant_that_cannot_be_made_is_said_and_the_others_are_used(tmp_path: Path, fp32: bytes) -> None:
    model = parse(fp32, "m")
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Softsign"      # an operator that the FP16 conversion does not know
    report = quantized(model.SerializeToString(), split(sample())).report
    half = report.of("fp16")
    assert half is not None
    assert half.problem is not None
    assert "Softsign has no known FP16 form" in half.problem
    assert half.times == ()
    assert [v.variant for v in report.variants] == ["fp32", "int8", "fp16"]


def test_a_model_without_layers_stays_in_fp32() -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 1]) for n in ("inputs", "score"))
    graph = helper.make_graph([helper.make_node("Sigmoid", ["inputs"], ["score"])], "g", [x], [y])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    made = quantize(content, SIGNATURE.__class__("inputs", 1, "score"), ("a",), split(rows(400, 1).astype(np.float32)), tolerance=0.05)
    assert "int8" not in made.files
    assert "no layer to quantize" in made.chosen["cpu"].reason
    with pytest.raises(ModelError, match="no Gemm/MatMul/Conv layer"):
        to_int8(parse(content, "m"), SIGNATURE, sample(), Scheme(signed=True))


def test_fp16_keeps_float32_at_its_ends(fp32: bytes) -> None:
    half = to_half(parse(fp32, "m"))
    onnx.checker.check_model(half, full_check=True)
    assert [i.type.tensor_type.elem_type for i in (*half.graph.input, *half.graph.output)] == [TensorProto.FLOAT] * 2
    assert {t.data_type for t in half.graph.initializer} == {TensorProto.FLOAT16}


def test_a_weight_beyond_half_precision_is_refused(tmp_path: Path) -> None:
    net = network()
    net.weights[0][0, 0] = 1e6
    with pytest.raises(ModelError, match="weight_0 holds a value beyond 65504"):
        to_half(onnx.load(net.export(tmp_path / "m.onnx")))


def test_probe_rows_are_held_out_rows_with_fp32s_scores(fp32: bytes) -> None:
    given = split(sample())
    probe = quantized(fp32, given).probe
    assert len(probe.rows) == 8
    assert all((given.held_out == np.array(row, np.float32)).all(axis=1).any() for row in probe.rows)
    assert session(fp32).run(np.array(probe.rows, np.float32)) == pytest.approx(probe.scores, abs=1e-6)


def test_every_session_is_timed_at_every_batch(fp32: bytes) -> None:
    times = measure({"a": session(fp32), "b": session(fp32)}, sample(3), batches=(1, 5), rounds=2)
    assert {name: [t.batch for t in found] for name, found in times.items()} == {"a": [1, 5], "b": [1, 5]}
    assert all(0 < t.median_us <= t.p99_us for found in times.values() for t in found)


# -- the choice --------------------------------------------------------------------------------------------------------

def reported(variant: str, *us: float, problem: str | None = None) -> VariantReport:
    times = tuple(BatchTime(batch=b, median_us=t, p99_us=t) for b, t in zip((1, 8, 32, 128), us, strict=False))
    return VariantReport(
        variant=variant, provider="cpu", scheme=variant.upper(), bytes=1, drift=Drift(max=0.021, mean=0.003, agreement=1.0),
        times=times, problem=problem,
    )


def test_the_fastest_at_the_expected_batch_is_chosen_with_its_numbers() -> None:
    found = choose([reported("fp32", 9, 14, 36, 84), reported("int8", 8, 10, 20, 50)], 32)
    assert found.variant == "int8"
    assert found.reason == "int8: 1.8x faster at batch 32 (20 us, fp32 36), drift at most 0.0210, mean 0.0030"


def test_where_another_batch_would_choose_otherwise_the_reason_says_so() -> None:
    reports = [reported("fp32", 9, 14, 36, 84), reported("int8", 11, 13, 20, 50)]
    found = choose(reports, 32)
    assert found.variant == "int8"
    assert "; fp32 at batch 1 (9 us, int8 11); " in found.reason
    assert found.reason.endswith("chosen for the expected batch of 32")
    assert choose(reports, 1).variant == "fp32"
    assert "int8 1.8x faster at batch 32 (20 us, fp32 36)" in choose(reports, 1).reason


def test_fp32_stays_where_the_gain_is_noise() -> None:
    found = choose([reported("fp32", 9, 14, 28, 84), reported("int8", 9, 14, 27, 84)], 32)
    assert found.variant == "fp32"
    assert found.reason.startswith("fp32: exact, and no other is faster at batch 32 (28 us; int8 27)")


def test_a_variant_with_a_problem_is_no_choice_and_the_problem_is_said() -> None:
    found = choose([reported("fp32", 9, 14, 28, 84), reported("int8", problem="it has no layer to quantize")], 32)
    assert found.variant == "fp32"
    assert found.reason.endswith("int8: it has no layer to quantize")
