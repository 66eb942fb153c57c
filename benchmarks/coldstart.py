"""How long the first answer of a large model takes: as a plain ONNX file, from the graph that was optimized when it was added, and held
ready; and for how long an event loop of the same process stands still meanwhile.

Each load is in a process of its own, after the imports, the file in the system's cache. A loop turns every millisecond while the model
is loaded in a thread; its longest turn is the stall. Prints one JSON line last.

    cold_ms       from a file: checked, parsed, optimized, warmed on every batch size, one answer
    prepared_ms   the same from the optimized graph that stands beside it
    preheated_ms  one answer of a model that is held ready
    ratio         cold_ms / preheated_ms         prepared_ratio   cold_ms / prepared_ms, both without the warming
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from noise import noise

from featureflow.models.engine import engine
from featureflow.models.export import export_mlp
from featureflow.models.manifest import ModelInput
from featureflow.models.prepare import FOLDER
from featureflow.models.provider import choose
from featureflow.models.store import ModelStore
from featureflow.models.transform import identity

INPUTS, HIDDEN = 512, 4096
TURN_S = 0.001


def build(folder: Path, megabytes: int) -> None:
    """A perceptron of about so many megabytes, with drawn weights: 4096 x 4096 is 67 of them."""
    draw, sizes = np.random.default_rng(0), [INPUTS, HIDDEN]
    while 4e-6 * sum(a * b for a, b in pairwise(sizes)) < megabytes:
        left = int((megabytes * 1e6 / 4 - sum(a * b for a, b in pairwise(sizes))) / sizes[-1]) + 1
        sizes.append(min(HIDDEN, left))
    sizes.append(1)
    weights = [(draw.standard_normal((a, b)) * (2 / a) ** 0.5).astype(np.float32) for a, b in pairwise(sizes)]
    export_mlp(weights, [np.zeros(b) for b in sizes[1:]], folder / "big.onnx")
    inputs = tuple(ModelInput(name=f"x{i}") for i in range(INPUTS))
    store = ModelStore(folder / "models", provider="cpu")
    store.add("big", folder / "big.onnx", inputs=inputs, transforms=identity(INPUTS))


async def load(folder: Path) -> dict[str, float]:
    """Load the model in a thread while the loop turns; milliseconds."""
    choose("cpu")
    store, loop = ModelStore(folder / "models", provider="cpu"), asyncio.get_running_loop()
    turns: list[float] = []

    async def turn() -> None:
        at = time.perf_counter()
        while True:
            await asyncio.sleep(TURN_S)
            now = time.perf_counter()
            turns.append(now - at)
            at = now

    turning = asyncio.create_task(turn())
    await asyncio.sleep(0.2)
    quiet = max(turns)
    turns.clear()
    row = np.linspace(-1, 1, INPUTS)[np.newaxis]
    began = time.perf_counter()
    loaded = await loop.run_in_executor(None, store.load, "big")
    first = loaded.score(row)
    cold = time.perf_counter() - began
    stall = max(turns)
    turning.cancel()
    again = []
    for _ in range(20):
        began = time.perf_counter()
        loaded.score(row)
        again.append(time.perf_counter() - began)
    content = store._content(store.path / "big" / "1", loaded.manifest.variants["fp32"], "cpu", "big")  # as the load found it
    began = time.perf_counter()
    file: Any = getattr(content, "path", content)
    made = engine(file, "cpu")
    made.run("score", {"inputs": row.astype(np.float32)})
    return {
        "load_ms": cold * 1e3, "stall_ms": max(stall - TURN_S, 0) * 1e3, "quiet_ms": max(quiet - TURN_S, 0) * 1e3,
        "run_ms": float(np.median(again)) * 1e3, "session_ms": (time.perf_counter() - began) * 1e3, "score": float(first[0]),
    }  # fmt: skip


def child(folder: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--load", str(folder)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(asyncio.run(load(arguments.load))))
        return
    folder = Path(tempfile.mkdtemp(prefix="featureflow-bench-"))
    try:
        before = noise()
        build(folder, arguments.megabytes)
        version = folder / "models" / "big" / "1"
        found: dict[str, list[dict[str, float]]] = {"plain": [], "prepared": []}
        for _ in range(arguments.rounds):
            for name in found:
                hidden = folder / "hidden"
                if name == "plain":        # a file in the folder's place: nothing can be prepared, so the ONNX file itself is loaded
                    (version / FOLDER).rename(hidden)
                    (version / FOLDER).write_text("")
                found[name].append(child(folder))
                if name == "plain":
                    (version / FOLDER).unlink()
                    hidden.rename(version / FOLDER)
                print(name, {key: round(value, 2) for key, value in found[name][-1].items()}, file=sys.stderr)
        size = (version / "fp32.onnx").stat().st_size
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if len({run["score"] for several in found.values() for run in several}) != 1:
        raise SystemExit(f"the two did not give one score: {found}")

    def middle(name: str, key: str) -> float:
        return float(np.median([run[key] for run in found[name]]))

    def worst(name: str, key: str) -> float:
        return max(run[key] for run in found[name])

    preheated = middle("prepared", "run_ms")
    print(json.dumps({
        "model_mb": round(size / 1e6, 1), "runtime": onnxruntime.__version__, "rounds": arguments.rounds,
        "cold_ms": round(middle("plain", "load_ms"), 1), "prepared_ms": round(middle("prepared", "load_ms"), 1),
        "preheated_ms": round(preheated, 2), "ratio": round(middle("plain", "load_ms") / preheated, 1),
        "session_ms": round(middle("plain", "session_ms"), 1), "prepared_session_ms": round(middle("prepared", "session_ms"), 1),
        "prepared_ratio": round(middle("plain", "session_ms") / middle("prepared", "session_ms"), 1),
        "cold_stall_ms": round(middle("plain", "stall_ms"), 1), "prepared_stall_ms": round(middle("prepared", "stall_ms"), 1),
        "prepared_stall_worst_ms": round(worst("prepared", "stall_ms"), 1), "quiet_stall_ms": round(worst("prepared", "quiet_ms"), 1),
        "noise_before": before, "noise_after": noise(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
