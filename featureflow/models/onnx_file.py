"""What an ONNX file must be to be served: one float32 matrix in, one score per row out, whole, and the same answer each time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from featureflow.errors import ModelError

MODEL_BYTES = 512 * 1024 * 1024
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})         # what ONNX Runtime has kernels for by itself
RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"})


@dataclass(frozen=True)
class Signature:
    """tensor: the input's name, float32 (batch, width); width None where the file leaves it open. output: the scores' name."""

    tensor: str
    width: int | None
    output: str

    @property
    def digest(self) -> str:
        """SHA-256 of what it takes: the name, type and shape."""
        return hashlib.sha256(repr((self.tensor, "float32", (None, self.width))).encode()).hexdigest()


def parse(content: bytes, place: str) -> onnx.ModelProto:
    """The model of a file's bytes.

    Raises ModelError naming ``place`` when it is no ONNX model, is larger than MODEL_BYTES, keeps weights in other files (ONNX Runtime
    does not verify those), or has operators that draw at random or that ONNX Runtime has no kernels for.
    """
    if len(content) > MODEL_BYTES:
        raise ModelError(f"{place} has {len(content):,} bytes; a model may have {MODEL_BYTES:,}")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:             # protobuf's own types, which have no stubs
        raise ModelError(f"{place} is not a valid ONNX model: {error}; export it again") from error
    nodes = [node for graph in (model.graph, *model.functions) for node in _nodes(graph.node)]
    for tensor in _tensors(model.graph, nodes):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError(
                f"{place} keeps {tensor.name or 'a tensor'} in another file, whose content no checksum covers; "
                "save it as one file (onnx.save_model(..., save_as_external_data=False))"
            )
    try:
        onnx.checker.check_model(model)    # after the above: it would open the other files
    except Exception as error:             # ValidationError, ValueError and more
        raise ModelError(f"{place} is not a valid ONNX model: {error}; export it again") from error
    own = {function.domain for function in model.functions}
    for node in nodes:
        if node.domain not in DOMAINS | own:
            raise ModelError(
                f"{place} uses {node.domain}::{node.op_type}, which needs a library of its own; export it with the operators of "
                + ", ".join(sorted(DOMAINS - {""}))
            )
        if node.op_type in RANDOM:
            raise ModelError(f"{place} draws at random ({node.op_type}), so no score could be repeated; export it for inference")
    return model


def signature(model: onnx.ModelProto, place: str, *, output: str | None = None) -> Signature:
    """Where the matrix goes in and the scores come out.

    output: which one holds the scores, needed where there are several.

    Raises ModelError naming ``place`` unless there is one float32 input (batch, width) with an open batch, and the output is float32
    (batch,) or (batch, 1).
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    if len(inputs) != 1:
        raise ModelError(f"{place} has {len(inputs)} inputs ({_names(inputs)}); a scorer gives one matrix: export it with one input")
    matrix = inputs[0].type.tensor_type
    shape = _shape(inputs[0])
    if matrix.elem_type != TensorProto.FLOAT or len(shape) != 2:
        raise ModelError(f"{place} takes {_described(inputs[0])}; export it with a float32 input of shape (batch, width)")
    if shape[0] is not None:
        raise ModelError(f"{place} takes batches of {shape[0]} rows only; export it with an open batch dimension")
    outputs = list(model.graph.output)
    if output is None and len(outputs) != 1:
        raise ModelError(f"{place} has {len(outputs)} outputs ({_names(outputs)}); say which one is the score: output=")
    found = outputs[0] if output is None else next((o for o in outputs if o.name == output), None)
    if found is None:
        raise ModelError(f"{place} has no output {output}; it has {_names(outputs)}")
    result = _shape(found)
    if found.type.tensor_type.elem_type != TensorProto.FLOAT or len(result) not in (1, 2) or (len(result) == 2 and result[1] != 1):
        raise ModelError(f"{place} gives {_described(found)}; a score is one float32 per row: export one output of shape (batch, 1)")
    return Signature(inputs[0].name, shape[1], found.name)


def _nodes(nodes: object) -> Iterator[onnx.NodeProto]:
    for node in nodes:  # type: ignore[attr-defined]  # protobuf's repeated fields have no type of their own
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _tensors(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> Iterator[TensorProto]:
    yield from _initializers(graph)
    for node in nodes:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield sparse.values
                yield sparse.indices
            for inner in (attribute.g, *attribute.graphs):
                yield from _initializers(inner)


def _initializers(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices


def _shape(item: onnx.ValueInfoProto) -> list[int | None]:
    return [d.dim_value if d.HasField("dim_value") else None for d in item.type.tensor_type.shape.dim]


def _described(item: onnx.ValueInfoProto) -> str:
    kind = TensorProto.DataType.Name(item.type.tensor_type.elem_type).lower() if item.type.HasField("tensor_type") else "no tensor"
    return f"{item.name}: {kind} ({', '.join('batch' if d is None else str(d) for d in _shape(item))})"


def _names(items: list[onnx.ValueInfoProto]) -> str:
    return ", ".join(item.name for item in items) or "none"
