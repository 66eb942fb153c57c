"""What an ONNX file must be to be served: tensors with an open batch in, one score per row out, whole, and the same answer each time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto

from featureflow.errors import ModelError
from featureflow.models.signature import Signature
from featureflow.models.tensors import FLOATS, Kind, ModelTensor, Part

MODEL_BYTES = 512 * 1024 * 1024
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})         # what ONNX Runtime has kernels for by itself
RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"})
KINDS: dict[int, Kind] = {
    TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16", TensorProto.INT64: "int64",
    TensorProto.INT32: "int32", TensorProto.UINT8: "uint8", TensorProto.INT8: "int8", TensorProto.BOOL: "bool",
}


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
    unsaid = [attribute for function in model.functions for attribute in function.attribute_proto]
    nodes = [*(node for graph in (model.graph, *model.functions) for node in _nodes(graph.node)), *_nodes_of(unsaid)]
    for tensor in _tensors(model.graph, [*(attribute for node in nodes for attribute in node.attribute), *unsaid]):
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


def signature(model: onnx.ModelProto, place: str, *, output: str | None = None, column: int | None = None) -> Signature:
    """Where the one matrix goes in and the scores come out.

    output: which one holds the scores, needed where there are several. column: which of its columns, where it has several.

    Raises ModelError naming ``place`` unless there is one float32 input (batch, width) with an open batch, and the output is a float
    (batch,), (batch, 1), or (batch, k) with ``column`` below k.
    """
    inputs = _inputs(model)
    if len(inputs) != 1:
        raise ModelError(
            f"{place} has {len(inputs)} inputs ({_names(inputs)}); a plain tuple of inputs is one matrix. "
            f'Write inputs = {{"{inputs[0].name if inputs else "name"}": (...), ...}} in the definition, or export it with one input'
        )
    takes(model, place)
    shape = _shape(inputs[0])
    if inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT or len(shape) != 2:
        raise ModelError(
            f"{place} takes {_described(inputs[0])}; export it with a float32 input of shape (batch, width), "
            f'or write inputs = {{"{inputs[0].name}": ...}} in the definition'
        )
    return Signature(inputs[0].name, shape[1], _score(model, place, output, column), column=column)


def takes(model: onnx.ModelProto, place: str) -> tuple[ModelTensor, ...]:
    """The tensors that the file takes, of one row each.

    Raises ModelError naming ``place`` and the input for strings, what is no tensor, another type of number, or a fixed batch.
    """
    return tuple(_tensor(item, place, "takes", open_batch=True) for item in _inputs(model))


def gives(model: onnx.ModelProto, place: str) -> tuple[ModelTensor, ...]:
    """Those that it gives, of one row each. Raises as ``takes`` does, but for the batch: an output may leave its shape unsaid."""
    return tuple(_tensor(item, place, "gives", open_batch=False) for item in model.graph.output)


def named(
    model: onnx.ModelProto, place: str, parts: tuple[Part, ...], *, output: str | None = None, column: int | None = None
) -> Signature:
    """The signature of a file whose tensors are made as ``parts`` say. Raises ModelError as ``signature`` does for the output."""
    return Signature("", None, _score(model, place, output, column), parts, column)


def _score(model: onnx.ModelProto, place: str, output: str | None, column: int | None) -> str:
    outputs = list(model.graph.output)
    if output is None and len(outputs) != 1:
        raise ModelError(f"{place} has {len(outputs)} outputs ({_names(outputs)}); say which one is the score: --score NAME")
    found = outputs[0] if output is None else next((o for o in outputs if o.name == output), None)
    if found is None:
        raise ModelError(f"{place} has no output {output}; it has {_names(outputs)}")
    if not found.type.HasField("tensor_type"):
        raise ModelError(
            f"{place} gives {found.name}, which is no tensor: a classifier is to be exported without ZipMap (in skl2onnx "
            "options={'zipmap': False}, elsewhere zipmap=False)"
        )
    result = _shape(found)
    is_float = KINDS.get(found.type.tensor_type.elem_type) in FLOATS
    if column is not None and is_float and len(result) == 2 and 0 <= column < (result[1] or column + 1):
        return str(found.name)
    if column is not None or not is_float or len(result) not in (1, 2) or (len(result) == 2 and result[1] != 1):
        if column is not None and is_float and len(result) == 2:
            raise ModelError(f"{place} gives {_described(found)}, which has no column {column}: they are 0 to {(result[1] or 1) - 1}")
        raise ModelError(
            f"{place} gives {_described(found)}; a score is one float per row: export one output of shape (batch, 1), "
            f"or name the column that it is: --score '{found.name}[1]'"
        )
    return str(found.name)


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in constants]


def _tensor(item: onnx.ValueInfoProto, place: str, verb: str, *, open_batch: bool) -> ModelTensor:
    kind = KINDS.get(item.type.tensor_type.elem_type) if item.type.HasField("tensor_type") else None
    if item.type.tensor_type.elem_type == TensorProto.STRING:
        raise ModelError(
            f"{place} {verb} strings ({item.name}); a scorer gives numbers: encode them in the definition (feature == \"a\") or by one-hot "
            "transforms, and export the model without its encoder"
        )
    if kind is None:
        raise ModelError(f"{place} {verb} {_described(item)}; a scorer's tensors are of {', '.join(KINDS.values())}")
    shape = _shape(item)
    if open_batch and not shape:
        raise ModelError(f"{place} {verb} {_described(item)}, a single value; export it with an open batch dimension")
    if open_batch and shape[0] is not None:
        raise ModelError(f"{place} {verb} batches of {shape[0]} rows only ({item.name}); export it with an open batch dimension")
    return ModelTensor(name=item.name, kind=kind, shape=tuple(shape[1:]))


def _nodes(nodes: object) -> Iterator[onnx.NodeProto]:
    for node in nodes:  # type: ignore[attr-defined]  # protobuf's repeated fields have no type of their own
        yield node
        yield from _nodes_of(node.attribute)


def _nodes_of(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.NodeProto]:
    for attribute in attributes:
        for graph in (attribute.g, *attribute.graphs):
            yield from _nodes(graph.node)


def _tensors(graph: onnx.GraphProto, attributes: list[onnx.AttributeProto]) -> Iterator[TensorProto]:
    yield from _initializers(graph)
    for attribute in attributes:
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
