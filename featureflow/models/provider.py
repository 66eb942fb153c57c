"""Which ONNX Runtime execution provider answers here: chosen by what the machine has, and said with the reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from featureflow.errors import ModelError
from featureflow.models.engine import EXECUTION, session
from featureflow.models.manifest import Provider


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


def present() -> tuple[Provider, ...]:
    """The providers that really run a model here, the CPU first."""
    others: tuple[Provider, ...] = ("cuda", "tensorrt")
    return ("cpu", *(provider for provider in others if problem(provider) is None))


def cuda_problem() -> str | None:
    """Why CUDA does not run a model here; None when it does."""
    return problem("cuda")


def problem(provider: Provider) -> str | None:
    """Why a provider does not run a model here; None when it does.

    Its name in ``get_available_providers`` says how ONNX Runtime was built, not that libraries, driver and device are
    there, and a session that cannot use CUDA falls back to the CPU with a warning: so a session that may not fall back runs.
    """
    name = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}[provider]
    if EXECUTION[provider] not in onnxruntime.get_available_providers():
        return f"this onnxruntime is built without the {name} provider"
    try:
        if provider != "cpu":
            onnxruntime.preload_dlls()     # cudart, cublas, cudnn of the nvidia-* wheels
        found = session(_doubling_model(), provider)
        result = np.asarray(found.run(None, {"x": np.ones((2, 4), np.float32)})[0])
    except Exception as error:             # ONNX Runtime raises its own types and RuntimeError; whatever it is, it does not run
        return f"{name} does not run a model: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
    if not (result == 2).all():
        return f"{name} gave a wrong answer to x + x"
    return None


def _doubling_model() -> bytes:
    matrix = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [matrix[0]], [matrix[1]])
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return content
