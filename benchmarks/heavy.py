"""A model that costs a given time a row, and as much in a batch as alone: 64 x 64 matrices multiplied again and again."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from featureflow.models.session import Session
from featureflow.models.signature import Signature

SIDE = 64
TRIED_LAYERS, TRIED_ROWS = 24, 8


def write(width: int, layers: int, path: Path) -> None:
    """float32 ``inputs`` (batch, width) -> ``score`` (batch, 1), each row by itself."""
    chance = np.random.default_rng(11)
    constants = [
        numpy_helper.from_array(chance.normal(0, width**-0.5, (width, SIDE * SIDE)).astype(np.float32), "spread"),
        numpy_helper.from_array(np.array([-1, SIDE, SIDE], np.int64), "square"),
        numpy_helper.from_array(np.array([-1, 1], np.int64), "column"),
    ]
    nodes = [
        helper.make_node("Tanh", ["inputs"], ["bounded"]),
        helper.make_node("MatMul", ["bounded", "spread"], ["flat"]),
        helper.make_node("Reshape", ["flat", "square"], ["at_0"]),
    ]
    for i in range(layers):
        weight = chance.normal(0, SIDE**-0.5, (SIDE, SIDE)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"weight_{i}"))
        nodes.append(helper.make_node("MatMul", [f"at_{i}", f"weight_{i}"], [f"product_{i}"]))
        nodes.append(helper.make_node("Tanh", [f"product_{i}"], [f"at_{i + 1}"]))
    nodes += [
        helper.make_node("ReduceMean", [f"at_{layers}"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["standing"]),
        helper.make_node("Sigmoid", ["standing"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes, "heavy",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def row_ms(width: int, path: Path) -> float:
    """What a row takes in a batch of eight, the fastest of several."""
    session = Session(
        path.read_bytes(), Signature("inputs", width, "score"), [str(i) for i in range(width)], "cpu", "heavy", buckets=(1, TRIED_ROWS)
    )
    rows = np.ones((TRIED_ROWS, width), np.float32)
    taken = []
    for _ in range(10):
        began = time.perf_counter()
        session.run(rows)
        taken.append(time.perf_counter() - began)
    return min(taken) * 1e3 / TRIED_ROWS


def make(width: int, path: Path, *, ms: float) -> float:
    """Write one that takes at least ``ms`` a row on this machine now; what it takes."""
    layers = TRIED_LAYERS
    while True:
        write(width, layers, path)
        took = row_ms(width, path)
        if took >= ms:
            return round(took, 3)
        layers = int(layers * max(1.1, 1.05 * ms / took)) + 1
