from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from unit.models.networks import COLUMNS, INPUTS, SIGNATURE, fitted, network, rows, with_gaps

from featureflow.clock import ManualClock
from featureflow.errors import ModelError
from featureflow.models.onnx_file import parse
from featureflow.models.session import Session
from featureflow.models.signature import Signature
from featureflow.models.store import ModelStore
from featureflow.models.weight_only import BLOCK, packed, to_weights


def unpacked(blobs: np.ndarray, scales: np.ndarray, bits: int, k: int) -> np.ndarray:
    """(k, n), number by number as the operator's text has it."""
    n, blocks = blobs.shape[:2]
    out = np.zeros((n, blocks * BLOCK))
    for row in range(n):
        for at in range(blocks * BLOCK):
            block, inside = divmod(at, BLOCK)
            q = int(blobs[row, block, inside]) if bits == 8 else int(blobs[row, block, inside // 2]) >> 4 * (inside % 2) & 15
            out[row, at] = (q - 2 ** (bits - 1)) * scales[row * blocks + block]
    return out.T[:k]


def product(weights: np.ndarray, op: str = "MatMul", **attributes: object) -> bytes:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", d]) for n, d in (("x", None), ("y", None)))
    bias = [numpy_helper.from_array(np.full(1, 0.5, np.float32), "b")] if op == "Gemm" else []
    constants = [numpy_helper.from_array(weights, "w"), *bias]
    graph = helper.make_graph([helper.make_node(op, ["x", *(c.name for c in constants)], ["y"], **attributes)], "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("k", [BLOCK, 3 * BLOCK, BLOCK + 5, 7])
def test_onnx_runtime_multiplies_by_the_numbers_that_were_packed(bits: int, k: int) -> None:
    weights = np.random.default_rng(k).standard_normal((k, 1)).astype(np.float32)
    content = to_weights(parse(product(weights), "m"), bits).SerializeToString()
    session = Session(content, Signature("x", k, "y"), tuple(f"c{i}" for i in range(k)), "cpu", "m", buckets=(1, 32))
    matrix = np.random.default_rng(1).standard_normal((32, k)).astype(np.float32)
    kept = unpacked(*packed(weights, bits), bits, k)
    assert session.run(matrix) == pytest.approx((matrix @ kept)[:, 0], rel=1e-3, abs=1e-3)
    assert np.abs(kept - weights).max() <= np.abs(weights).max() / (2 ** (bits - 1) - 1) / 2 + 1e-6


@pytest.mark.parametrize("turned", [0, 1])
def test_a_plain_gemm_is_a_product_and_a_sum(turned: int) -> None:
    weights = np.random.default_rng(0).standard_normal((BLOCK, 1)).astype(np.float32)
    content = to_weights(parse(product(weights.T.copy() if turned else weights, "Gemm", transB=turned), "m"), 8).SerializeToString()
    session = Session(content, Signature("x", BLOCK, "y"), tuple(f"c{i}" for i in range(BLOCK)), "cpu", "m", buckets=(4,))
    matrix = np.random.default_rng(1).standard_normal((4, BLOCK)).astype(np.float32)
    assert session.run(matrix) == pytest.approx((matrix @ weights)[:, 0] + 0.5, abs=0.1)


@pytest.mark.parametrize("content", [product(np.ones((8, 1), np.float32), "Gemm", alpha=2.0), product(np.ones((2, 8, 1), np.float32))])
def test_a_model_without_such_a_product_is_left_alone(content: bytes) -> None:
    with pytest.raises(ModelError, match="no MatMul or Gemm of constant weights to keep in 4 bits"):
        to_weights(parse(content, "m"), 4)


def test_a_whole_network_passes_the_gate_in_8_bits_and_says_what_became_of_4(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", ManualClock(1_000))
    store.path.mkdir()
    store.add("late", network().export(tmp_path / "m.onnx"), inputs=INPUTS, transforms=fitted(), calibration=with_gaps(600))
    report = store.quantize("late", tolerance=0.02, variants=("w8", "w4"))
    eight, four = report.of("w8"), report.of("w4")
    assert eight is not None
    assert eight.problem is None
    assert eight.scheme == "weights of 8 bits"
    assert eight.drift is not None
    assert eight.drift.max < 0.02
    assert four is not None
    assert "weights of 4 bits differs from FP32 by up to" in (four.problem or "")       # no error: it was tried, not asked for
    matrix = fitted().apply(rows(5))
    exact = Session((tmp_path / "m.onnx").read_bytes(), SIGNATURE, COLUMNS, "cpu", "m").run(matrix)
    assert store.load("late", variant="w8").session.run(matrix) == pytest.approx(exact, abs=0.02)
