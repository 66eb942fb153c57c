"""FP32 to weights of 8 or 4 bits, arithmetic in floats: MatMulNBits, block by block with a scale each, nothing calibrated.

For providers without INT8 products of their own, CUDA among them: what is read of memory shrinks, what is computed does not.
ONNX Runtime's own quantizer for it sets up the process's logging when imported and needs a package that its wheel does not ask for; the
operator's format is documented (com.microsoft.MatMulNBits), and the tests run it.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from featureflow.errors import ModelError

BLOCK = 32                                 # numbers of one output that share a scale; finer ones drift less and cost more
DOMAIN = "com.microsoft"


def to_weights(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """A copy whose constant matrices have ``bits`` (8 or 4) a number: each MatMul, and each plain Gemm as a product and a sum.

    Raises ModelError when it has no MatMul or Gemm of constant weights.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    made = 0
    for i, node in enumerate(graph.node):
        weights = _weights(node, constants)
        if weights is None:
            nodes.append(node)
            continue
        made += 1
        blobs, scales = packed(weights, bits)
        names = [f"{node.input[1]}__{i}_{what}" for what in ("packed", "scales")]
        graph.initializer.extend([numpy_helper.from_array(blobs, names[0]), numpy_helper.from_array(scales, names[1])])
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        product = f"{node.output[0]}__product" if bias else node.output[0]
        nodes.append(helper.make_node(
            "MatMulNBits", [node.input[0], *names], [product], name=f"{node.name or node.op_type}__{i}_product", domain=DOMAIN,
            K=weights.shape[0], N=weights.shape[1], bits=bits, block_size=BLOCK,
        ))
        if bias:
            nodes.append(helper.make_node("Add", [product, bias], [node.output[0]], name=f"{node.name or 'Gemm'}__{i}_sum"))
    if not made:
        raise ModelError(f"it has no MatMul or Gemm of constant weights to keep in {bits} bits; keep FP32")
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    if all(opset.domain != DOMAIN for opset in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return copy


def packed(weights: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """float32 (k, n) -> uint8 (n, blocks, BLOCK * bits / 8) and a scale per block float32 (n * blocks).

    A number is (q - 2^(bits - 1)) * scale, q rounded to the nearest; of four bits the earlier one is the lower half of a byte.
    """
    k, n = weights.shape
    blocks = -(-k // BLOCK)
    padded = np.zeros((n, blocks * BLOCK), np.float32)
    padded[:, :k] = weights.T
    padded = padded.reshape(n, blocks, BLOCK)
    middle = 2 ** (bits - 1)
    scales = np.abs(padded).max(axis=2) / (middle - 1)
    scales[scales == 0] = 1.0
    q = (np.rint(padded / scales[:, :, np.newaxis]) + middle).clip(0, 2 * middle - 1).astype(np.uint8)
    if bits == 4:
        q = q[:, :, ::2] | (q[:, :, 1::2] << 4)
    return q, scales.astype(np.float32).reshape(-1)


def _weights(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> NDArray[np.float32] | None:
    """float32 (k, n) of a product with constant weights, or None where it is none."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx") or node.input[1] not in constants:
        return None
    said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if said.get("alpha", 1.0) != 1.0 or said.get("beta", 1.0) != 1.0 or said.get("transA", 0):
        return None
    values = numpy_helper.to_array(constants[node.input[1]])
    if values.ndim != 2 or values.dtype != np.float32:
        return None
    return np.ascontiguousarray(values.T) if said.get("transB", 0) else values
