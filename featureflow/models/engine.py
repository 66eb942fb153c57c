"""ONNX Runtime's sessions, one class per way to run: on the CPU as the batch comes, on a GPU from and into buffers that stay.

    CPU     tensors of any batch, straight from numpy
    GPU     one set of device buffers per batch size, bound once; a run copies in, replays the CUDA graph that was captured of that size,
            and copies out. A model that cannot be captured runs with the same buffers and without graphs, and ``captured`` says so.

A session of CUDA or TensorRT has one stream, so it belongs to one thread. An operator that the provider has no kernel for is an error,
never a silent copy to the CPU and back (session.disable_cpu_ep_fallback).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from featureflow.errors import ModelError
from featureflow.models.manifest import Provider
from featureflow.models.tensors import Array

EXECUTION: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
GPU_MEMORY_BYTES = 2 * 1024**3             # of one session's arena
EXHAUSTED = ("out of memory", "failed to allocate memory", "bfc_arena", "smaller than requested bytes", "out_of_memory", "alloc_failed")
NO_GRAPH = "-1"                            # gpu_graph_id of a run that is neither captured nor replayed
KINDS = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(int64)": "int64",
    "tensor(int32)": "int32", "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(bool)": "bool",
}
Takes = dict[str, tuple[str, tuple[int | None, ...]]]      # input -> its type and shape, None where that is open


class Engine(Protocol):
    """Runs one model. ``pads``: only batch sizes that ran before are to be given, others padded up to one."""

    pads: bool
    takes: Takes
    captured: bool                         # whether runs are replays of a CUDA graph

    def run(self, output: str, feeds: Mapping[str, Array]) -> Array:
        """One output of C-contiguous tensors of one batch size. Raises whatever ONNX Runtime raises."""
        ...

    def run_all(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output, by name."""
        ...


def engine(content: bytes | Path, provider: Provider) -> Engine:
    """An engine of a model that runs wholly on ``provider``, with one thread and no spinning.

    content: a file's bytes; or the path of a graph that was optimized for the CPU already (see models.prepare), and stays as it is.
    Raises whatever ONNX Runtime raises for a model that it cannot run, and ModelError when it chose another provider.
    """
    if provider == "cpu":
        return CpuEngine(session(content, provider))
    assert isinstance(content, bytes)      # graphs are prepared for the CPU only
    return GpuEngine(content, provider)


def session(
    content: bytes | Path, provider: Provider, *, graphs: bool = False, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """The session itself. options: more of them, from ``settings``."""
    options = options or settings(provider)
    if isinstance(content, Path):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(content) if isinstance(content, Path) else content
    made = onnxruntime.InferenceSession(source, options, providers=_providers(provider, graphs), enable_fallback=0)
    made.disable_fallback()                # or a failing run would be tried again on the CPU, unsaid
    if made.get_providers()[0] != EXECUTION[provider]:
        raise ModelError(f"ONNX Runtime chose {made.get_providers()[0]} where {EXECUTION[provider]} was asked for")
    return made


def settings(provider: Provider) -> onnxruntime.SessionOptions:
    """What every session is made with."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1       # a scorer's parallelism is its processes; a thread hop costs more than a small model
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4         # its errors are raised; printed as well they look like ours
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def is_exhausted(error: BaseException) -> bool:
    """Whether it says that the GPU's memory, or the session's share of it, is full: ONNX Runtime has no type of its own for that."""
    return any(words in str(error).lower() for words in EXHAUSTED)


def _providers(provider: Provider, graphs: bool) -> list[str | tuple[str, dict[str, str]]]:
    if provider == "cpu":
        return [EXECUTION["cpu"]]
    cuda = (EXECUTION["cuda"], {
        "gpu_mem_limit": str(GPU_MEMORY_BYTES), "arena_extend_strategy": "kSameAsRequested", "enable_cuda_graph": str(int(graphs)),
        "do_copy_in_default_stream": "1",  # one stream: copies and kernels in the order in which they were given
    })
    if provider == "cuda":
        return [cuda]
    return [(EXECUTION["tensorrt"], {
        "trt_max_workspace_size": str(GPU_MEMORY_BYTES), "trt_fp16_enable": "1", "trt_int8_enable": "1",     # as the graph's types say
        "trt_cuda_graph_enable": str(int(graphs)),
    }), cuda]


class CpuEngine:
    """Any batch size, straight from numpy."""

    pads = False
    captured = False

    def __init__(self, made: onnxruntime.InferenceSession) -> None:
        self._session = made
        self.takes = _takes(made)
        self._names = [item.name for item in made.get_outputs()]
        self._wanted: dict[str, list[str]] = {name: [name] for name in self._names}

    def run(self, output: str, feeds: Mapping[str, Array]) -> Array:
        found: Array = self._session.run(self._wanted[output], feeds)[0]
        return found

    def run_all(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))


@dataclass
class _Bound:
    """Device buffers of one batch size and output, and how to run on them."""

    binding: Any
    inputs: dict[str, Any]
    output: Any
    options: Any


class GpuEngine:
    """CUDA or TensorRT, one stream, device buffers that stay.

    A batch size is bound at its first run: warm every one before traffic, the largest first, so that the arena grows once.
    """

    pads = True

    def __init__(self, content: bytes, provider: Provider) -> None:
        self._content, self._provider = content, provider
        self.captured = True
        self._begin()

    def run(self, output: str, feeds: Mapping[str, Array]) -> Array:
        """Steps: 1. copy in  2. replay, or run  3. copy out. Steps 1 and 3 wait for the stream, so nothing is read half written."""
        key = (output, *(value.shape for value in feeds.values()))
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self._bind(output, feeds)
        for name, value in feeds.items():                                  # 1
            bound.inputs[name].update_inplace(value)
        self._session.run_with_iobinding(bound.binding, bound.options)     # 2
        found: Array = bound.output.numpy()                                # 3
        return found

    def run_all(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(self._names, self._session.run(self._names, feeds, self._plain), strict=True))

    def _begin(self) -> None:
        self._session = session(self._content, self._provider, graphs=self.captured)
        self.takes = _takes(self._session)
        self._names = [item.name for item in self._session.get_outputs()]
        self._bound: dict[tuple[object, ...], _Bound] = {}
        self._plain = onnxruntime.RunOptions()
        self._plain.add_run_config_entry("gpu_graph_id", NO_GRAPH)

    def _bind(self, output: str, feeds: Mapping[str, Array]) -> _Bound:
        """Buffers for this batch size. Where no graph can be captured of the model, it is begun anew without, for every size."""
        expected = np.asarray(self._session.run([output], feeds, self._plain)[0])
        if self.captured:
            try:
                bound = self._buffers(output, feeds, expected)
                if self._replays(bound, output, feeds):
                    return bound
            except Exception as error:     # control flow, shapes on the CPU, copies to the host: ONNX Runtime says each in its own way
                if is_exhausted(error):
                    raise
            self.captured = False
            self._begin()
        bound = self._buffers(output, feeds, expected)
        self._session.run_with_iobinding(bound.binding, bound.options)
        return bound

    def _buffers(self, output: str, feeds: Mapping[str, Array], expected: Array) -> _Bound:
        make, binding = onnxruntime.OrtValue.ortvalue_from_shape_and_type, self._session.io_binding()
        inputs = {name: make(value.shape, value.dtype.type, "cuda", 0) for name, value in feeds.items()}
        made = make(expected.shape, expected.dtype.type, "cuda", 0)
        for name, value in feeds.items():
            inputs[name].update_inplace(value)
            binding.bind_ortvalue_input(name, inputs[name])
        binding.bind_ortvalue_output(output, made)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(len(self._bound) + 1) if self.captured else NO_GRAPH)
        return _Bound(binding, inputs, made, options)

    def _replays(self, bound: _Bound, output: str, feeds: Mapping[str, Array]) -> bool:
        """Capture, then see that a replay answers to what is in the buffers now, and not to what was in them at the capture."""
        self._session.run_with_iobinding(bound.binding, bound.options)
        others = {name: np.ones_like(value) for name, value in feeds.items()}
        for name, value in others.items():
            bound.inputs[name].update_inplace(value)
        self._session.run_with_iobinding(bound.binding, bound.options)
        replayed = np.asarray(bound.output.numpy())
        plain = np.asarray(self._session.run([output], others, self._plain)[0])
        return bool(np.allclose(replayed, plain, rtol=1e-2, atol=1e-3, equal_nan=True))


def _takes(made: onnxruntime.InferenceSession) -> Takes:
    return {
        item.name: (KINDS.get(item.type, item.type), tuple(d if isinstance(d, int) else None for d in item.shape))
        for item in made.get_inputs()
    }
