"""The contract of models on this machine's GPU, and a profile of a quantized model on it. Prints one JSON line last.

Where there is no GPU that runs a model it says so, ``"ran": false`` and why, and ends with 0: that is not a success of the check.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from featureflow.models import provider
from featureflow.models.export import export_mlp
from featureflow.models.machine import machine
from featureflow.models.manifest import ModelInput
from featureflow.models.profile import Profile
from featureflow.models.store import ModelStore
from featureflow.models.transform import Steps, fit

TESTS = Path(__file__).parents[1] / "tests" / "unit" / "models" / "test_contract.py"
SIZES = (256, 2048, 1024, 1)
ROWS = 2_000


def profiled(folder: Path) -> Profile:
    """A perceptron of 10 MB, quantized in every way, and what it costs on every provider here."""
    draw = np.random.default_rng(0)
    inputs = tuple(ModelInput(name=f"x{i}") for i in range(SIZES[0]))
    rows = draw.normal(size=(ROWS, SIZES[0]))
    weights = [draw.standard_normal((a, b)) * (2 / a) ** 0.5 for a, b in pairwise(SIZES)]
    export_mlp(weights, [np.zeros(b) for b in SIZES[1:]], folder / "m.onnx")
    store = ModelStore(folder / "models")
    transforms = fit(rows, inputs, otherwise=Steps(clip=(0.001, 0.999)))
    store.add("checked", folder / "m.onnx", inputs=inputs, transforms=transforms, calibration=rows)
    store.quantize("checked", tolerance=0.1)
    return store.profile("checked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="run it all on the CPU: whether the check itself works")
    arguments = parser.parse_args()
    why = provider.problem("cuda")
    if why is not None and not arguments.cpu:
        print(json.dumps({"ran": False, "why": why, "machine": machine()}))
        return
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(TESTS)], capture_output=True, text=True, check=False
    )
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    with tempfile.TemporaryDirectory(prefix="featureflow-gpu-") as folder:
        found = profiled(Path(folder))
    print(json.dumps({
        "ran": True, "machine": machine(), "providers": list(provider.present()), "tensorrt": provider.problem("tensorrt") or "runs",
        "contract": summary, "passed": done.returncode == 0, "chosen": msgspec.to_builtins(found.chosen),
        "us": {f"{v.variant} on {v.provider}": {t.batch: t.median_us for t in v.times} or v.problem for v in found.variants},
        "drift": {f"{v.variant} on {v.provider}": v.drift.max for v in found.variants if v.drift},
    }))  # fmt: skip
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
