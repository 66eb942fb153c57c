"""From the weights of a multilayer perceptron to a plain ONNX file: optional Sub and Div, then Gemm and an activation per layer.

Takes arrays, so that any library's network can be exported: scikit-learn's ``coefs_`` and ``intercepts_`` as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from featureflow.errors import ModelError

OPSET = 17                                 # every ONNX Runtime since 1.12 runs it
IR_VERSION = 8                             # what belongs to that opset
INPUT, OUTPUT = "inputs", "score"

Activation = Literal["relu", "tanh", "logistic", "identity"]
_OPS: dict[Activation, str | None] = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": None}


def export_mlp(
    weights: Sequence[ArrayLike],
    biases: Sequence[ArrayLike],
    path: Path,
    *,
    activation: Activation = "relu",
    output: Activation = "logistic",
    mean: ArrayLike | None = None,
    deviation: ArrayLike | None = None,
) -> None:
    """Write the network to ``path``: float32 input ``inputs`` (batch, width), float32 output ``score`` (batch, 1), batch of any size.

    weights: one matrix (inputs, outputs) per layer, the last with one output; biases: one vector (outputs,) per layer.
    activation: after every layer but the last; output: after the last.
    mean, deviation: (width,); when given, (x - mean) / deviation is the first thing the model does. Leave them out where the
    model's transforms scale already.

    Raises ModelError when the shapes do not fit together or a value is not finite in float32.
    """
    layers = [
        (_array(weight, f"weights of layer {i}", 2), _array(bias, f"biases of layer {i}", 1))
        for i, (weight, bias) in enumerate(_pairs(weights, biases))
    ]
    width = layers[0][0].shape[0]
    expected = width
    for i, (weight, bias) in enumerate(layers):
        if weight.shape[0] != expected or bias.shape != (weight.shape[1],):
            raise ModelError(
                f"layer {i} has weights {weight.shape} and biases {bias.shape} but takes {expected} inputs; "
                "give weights (inputs, outputs) and biases (outputs,), each layer taking what the one before gives"
            )
        expected = weight.shape[1]
    if expected != 1:
        raise ModelError(f"the last layer gives {expected} values; a scorer's model gives one: export a network with a single output")

    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    at = INPUT

    def add(op: str, *values: tuple[str, NDArray[np.float32]], name: str) -> None:
        nonlocal at
        constants.extend(numpy_helper.from_array(value, stem) for stem, value in values)
        nodes.append(helper.make_node(op, [at, *(stem for stem, _ in values)], [name], name=name))
        at = name

    for op, name, given in (("Sub", "mean", mean), ("Div", "deviation", deviation)):
        if given is not None:
            value = _array(given, name, 1)
            if value.shape != (width,) or (op == "Div" and not value.all()):
                raise ModelError(f"{name} has shape {value.shape}; give {width} values, one per input, and no deviation of 0")
            add(op, (name, value), name=op.lower())
    for i, (weight, bias) in enumerate(layers):
        add("Gemm", (f"weight_{i}", weight), (f"bias_{i}", bias), name=f"gemm_{i}")
        act = _OPS[output if i == len(layers) - 1 else activation]
        if act is not None:
            add(act, name=f"{act.lower()}_{i}")
    nodes[-1].output[0] = OUTPUT

    graph = helper.make_graph(
        nodes, "mlp",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="featureflow"
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _pairs(weights: Sequence[ArrayLike], biases: Sequence[ArrayLike]) -> list[tuple[ArrayLike, ArrayLike]]:
    if not len(weights) or len(weights) != len(biases):
        raise ModelError(f"{len(weights)} weight matrices and {len(biases)} bias vectors; give one of each per layer, at least one layer")
    return list(zip(weights, biases, strict=True))


def _array(given: ArrayLike, what: str, dimensions: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        value = np.ascontiguousarray(given, np.float32)
    if value.ndim != dimensions or not value.size:
        raise ModelError(f"{what} have shape {value.shape}; {dimensions} non-empty dimensions are needed")
    if not np.isfinite(value).all():
        raise ModelError(f"{what} hold a value that is not finite in float32; the network did not train: lower its learning rate")
    return value
