"""What a time was measured on, and a graph optimized for."""

from __future__ import annotations

import platform
from pathlib import Path

import onnxruntime

GPUS = Path("/proc/driver/nvidia/gpus")


def machine() -> str:
    """This machine, as profiles and prepared graphs name it: its ONNX Runtime, processor and GPUs."""
    gpus = sorted(
        line.partition(":")[2].strip() for file in GPUS.glob("*/information") for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("Model")
    )
    return ", ".join([f"onnxruntime {onnxruntime.__version__}", processor(), *gpus])


def processor() -> str:
    """The processor's name."""
    try:
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in listed.splitlines() if line.startswith("model name")), platform.machine())
