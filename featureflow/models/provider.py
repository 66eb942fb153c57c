"""Which ONNX Runtime execution provider answers here: chosen by what the machine has, and said with the reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from featureflow.errors import ModelError
from featureflow.models.manifest import Provider

EXECUTION: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDA_MEMORY_BYTES = 2 * 1024**3            # of one session's arena


@dataclass(frozen=True)
class ProviderChoice:
    """Where models run, and why there, in words."""

    provider: Provider
    reason: str


def choose(wanted: Provider | None = None) -> ProviderChoice:
    """CUDA where a model really runs on it, else the CPU. Loads the CUDA libraries and runs a small model: hundreds of ms on a GPU.

    wanted: insist on one. Raises ModelError when CUDA is insisted on and does not run here.
    """
    if wanted == "cpu":
        return ProviderChoice("cpu", "cpu: asked for")
    problem = cuda_problem()
    if problem is None:
        return ProviderChoice("cuda", "cuda: a model runs on it here")
    if wanted == "cuda":
        raise ModelError(
            f"CUDA was asked for, but {problem}; install featureflow[gpu] in place of [cpu], and a driver for CUDA 13, or ask for cpu"
        )
    return ProviderChoice("cpu", f"cpu: {problem}")


def cuda_problem() -> str | None:
    """Why CUDA does not run a model here; None when it does.

    The provider's name in ``get_available_providers`` says how ONNX Runtime was built, not that libraries, driver and device are
    there, and a session that cannot use CUDA falls back to the CPU with a warning: so a session that may not fall back runs.
    """
    if EXECUTION["cuda"] not in onnxruntime.get_available_providers():
        return "this onnxruntime is built without the CUDA provider"
    try:
        onnxruntime.preload_dlls()         # cudart, cublas, cudnn of the nvidia-* wheels
        found = session(_doubling_model(), "cuda")
        result = np.asarray(found.run(None, {"x": np.ones((2, 4), np.float32)})[0])
    except Exception as error:             # ONNX Runtime raises its own types and RuntimeError; whatever it is, CUDA does not run
        return f"CUDA does not run a model: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
    if not (result == 2).all():
        return "CUDA gave a wrong answer to x + x"
    return None


def session(content: bytes, provider: Provider) -> onnxruntime.InferenceSession:
    """A session of a model's bytes that runs wholly on ``provider``, with one thread and no spinning.

    On CUDA an operator without a CUDA kernel is an error, not a silent copy to the CPU and back.
    Raises whatever ONNX Runtime raises for a model that it cannot run, and ModelError when it chose another provider.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1       # a scorer's parallelism is its processes; a thread hop costs more than a small model
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4         # its errors are raised; printed as well they look like ours
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    providers: list[str | tuple[str, dict[str, str]]] = [EXECUTION["cpu"]]
    if provider == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = [(EXECUTION["cuda"], {"gpu_mem_limit": str(CUDA_MEMORY_BYTES), "arena_extend_strategy": "kSameAsRequested"})]
    made = onnxruntime.InferenceSession(content, options, providers=providers)
    made.disable_fallback()                # or a failing run would be tried again on the CPU, unsaid
    if made.get_providers()[0] != EXECUTION[provider]:
        raise ModelError(f"ONNX Runtime chose {made.get_providers()[0]} where {EXECUTION[provider]} was asked for")
    return made


def _doubling_model() -> bytes:
    matrix = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [matrix[0]], [matrix[1]])
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return content
