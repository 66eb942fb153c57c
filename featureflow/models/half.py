"""FP32 to FP16: weights and arithmetic in half precision, the model's own input and output stay float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from featureflow.errors import ModelError

# Operators that compute in the type of their inputs and hold no float32 of their own beside constants.
GENERIC = frozenset({
    "Gemm", "MatMul", "Conv", "Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sqrt", "Exp", "Log", "Pow", "Min", "Max", "Clip",
    "Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Softmax", "LogSoftmax", "Erf", "Gelu", "HardSigmoid",
    "BatchNormalization", "LayerNormalization", "ReduceMean", "ReduceSum", "ReduceMax", "Identity", "Concat", "Reshape", "Flatten",
    "Squeeze", "Unsqueeze", "Transpose", "Gather", "Slice", "Split", "Constant",
})
HALF_MAX = float(np.finfo(np.float16).max)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in FP16 with a Cast behind each float32 input and before each float32 output.

    Raises ModelError for an operator outside GENERIC, a graph within a graph, or a weight beyond 65504.
    """
    for node in model.graph.node:
        if node.op_type not in GENERIC or node.domain not in ("", "ai.onnx") or any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ModelError(f"{node.op_type} has no known FP16 form here; keep FP32, or INT8")
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    constants = {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        _convert(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("value", "sparse_value") and attribute.t.data_type == TensorProto.FLOAT:
                _convert(attribute.t)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                raise ModelError("a Constant is written as a plain number, which has no FP16 form; export it as a tensor")
            elif node.op_type == "LayerNormalization" and attribute.name == "stash_type":
                raise ModelError("LayerNormalization names the type that it computes in, which has no FP16 form here; keep FP32")
    del graph.value_info[:]

    def is_float(item: onnx.ValueInfoProto) -> bool:
        return item.type.tensor_type.elem_type == TensorProto.FLOAT

    inside = {item.name: f"{item.name}__half" for item in (*graph.input, *graph.output) if is_float(item) and item.name not in constants}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    before = [
        helper.make_node("Cast", [i.name], [inside[i.name]], name=f"{i.name}__to_half", to=TensorProto.FLOAT16)
        for i in graph.input if i.name in inside
    ]
    after = [
        helper.make_node("Cast", [inside[o.name]], [o.name], name=f"{o.name}__to_float", to=TensorProto.FLOAT)
        for o in graph.output if o.name in inside
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    return half


def _convert(tensor: onnx.TensorProto) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    if values.size and float(np.abs(values).max()) > HALF_MAX:
        raise ModelError(f"{tensor.name} holds a value beyond {HALF_MAX:.0f}, FP16's largest; keep FP32, or scale the inputs")
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
