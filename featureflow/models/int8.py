"""FP32 to INT8: static QDQ with weights per channel, activations calibrated by their minimum and maximum.

Entropy and percentile calibration are left out: in ONNX Runtime 1.31 both fail on a last batch of another size, and cutting tails
here cost more drift (0.44 at most, 0.04 with the full range) than the finer steps gained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType

from featureflow.errors import ModelError
from featureflow.models.signature import Signature
from featureflow.models.tensors import Array

LAYERS = ("Gemm", "MatMul", "Conv")
BATCH = 128


@dataclass(frozen=True)
class Scheme:
    """One way to quantize. S8S8 and U8S8 differ in speed by processor; the outer layers are small and carry much of the drift."""

    signed: bool
    keep_first: bool = False
    keep_last: bool = False

    def __str__(self) -> str:
        kept = " and ".join(what for what, is_kept in (("first", self.keep_first), ("last", self.keep_last)) if is_kept)
        text = f"INT8 ({'S8S8' if self.signed else 'U8S8'})"
        return f"{text}, {kept} layer{'s' if self.keep_first and self.keep_last else ''} in FP32" if kept else text


SCHEMES = tuple(
    Scheme(signed, first, last) for first, last in ((False, False), (False, True), (True, False), (True, True)) for signed in (False, True)
)


def schemes(model: onnx.ModelProto) -> tuple[Scheme, ...]:
    """Those that quantize at least one layer of the model."""
    layers = len(_layers(model))
    return tuple(s for s in SCHEMES if layers - s.keep_first - s.keep_last > 0)


def to_int8(model: onnx.ModelProto, signature: Signature, calibration: NDArray[np.float32], scheme: Scheme) -> onnx.ModelProto:
    """A quantized copy.

    signature: how its tensors are cut from rows. calibration: float32 (n, width), the transformed rows whose ranges become the scales.

    Raises ModelError when the model has no layer to quantize or ONNX Runtime's quantizer does not take it.
    """
    layers = _layers(model)
    kept = [layers[0]] * scheme.keep_first + [layers[-1]] * scheme.keep_last if layers else []
    if len(layers) - len(set(kept)) < 1:
        raise ModelError(f"{scheme} leaves no {'/'.join(LAYERS)} layer to quantize; keep FP32")
    try:
        prepared = onnx.shape_inference.infer_shapes(_named(model), strict_mode=True)
        for key in ("onnx.infer", "onnx.quant.pre_process"):   # shapes are inferred: the preparation that these graphs need is done
            mark = prepared.metadata_props.add()
            mark.key, mark.value = key, "onnxruntime.quant"
        with tempfile.TemporaryDirectory(prefix="featureflow-int8-") as folder:
            path = Path(folder) / "int8.onnx"
            quantization.quantize_static(
                prepared, path, _Rows(signature, calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*LAYERS, "Relu"],
                nodes_to_exclude=kept,
                activation_type=QuantType.QInt8 if scheme.signed else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                calibrate_method=CalibrationMethod.MinMax,
            )
            quantized = onnx.load_model(path, load_external_data=False)
    except Exception as error:                 # the quantizer raises ValueError, RuntimeError, AssertionError and ONNX Runtime's own types
        raise ModelError(f"{scheme} cannot be made: {error}; keep FP32") from error
    return quantized


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes all have names: the quantizer tells them apart by these."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = {node.name for node in copy.graph.node}
    for i, node in enumerate(copy.graph.node):
        if not node.name:
            node.name = f"{node.op_type}__{i}"
            while node.name in taken:
                node.name += "_"
            taken.add(node.name)
    return copy


def _layers(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply by constant weights, in the graph's (topological) order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in _named(model).graph.node if node.op_type in LAYERS and node.input[1] in constants]


class _Rows(CalibrationDataReader):        # type: ignore[misc]  # onnxruntime ships no types for its quantization package
    def __init__(self, signature: Signature, rows: NDArray[np.float32]) -> None:
        self._batches: Iterator[dict[str, Array]] = (
            signature.feeds(np.ascontiguousarray(rows[at:at + BATCH])) for at in range(0, len(rows), BATCH)
        )

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)
