"""Small networks and rows for the tests of models. Weights are drawn, not trained: the gates do not care what a score means."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featureflow.models.export import export_mlp
from featureflow.models.manifest import ModelInput
from featureflow.models.signature import Signature
from featureflow.models.transform import Transforms, fit

WIDTH = 12
INPUTS = (ModelInput(name="trend"), ModelInput(name="last_delays", size=8), ModelInput(name="hour"), ModelInput(name="late_share", size=2))
COLUMNS = tuple(f"x{i}" for i in range(WIDTH))
SIGNATURE = Signature("inputs", WIDTH, "score")


@dataclass(frozen=True)
class Network:
    weights: list[NDArray[np.float64]]
    biases: list[NDArray[np.float64]]

    def export(self, path: Path) -> Path:
        export_mlp(self.weights, self.biases, path)
        return path

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the network says, in float64 and written apart from ONNX."""
        x = rows.astype(np.float64)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias
            x = np.maximum(x, 0) if i < len(self.weights) - 1 else 1 / (1 + np.exp(-x))
        return x[:, 0]


def network(hidden: tuple[int, ...] = (32, 16), width: int = WIDTH, seed: int = 0) -> Network:
    draw = np.random.default_rng(seed)
    sizes = (width, *hidden, 1)
    weights = [draw.standard_normal((a, b)) * np.sqrt(2 / a) for a, b in pairwise(sizes)]
    return Network(weights, [draw.standard_normal(b) * 0.1 for b in sizes[1:]])


def rows(count: int = 1_000, width: int = WIDTH, seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((count, width))


def with_gaps(count: int = 1_000, seed: int = 2) -> NDArray[np.float64]:
    matrix = rows(count, seed=seed) * 20 + 3
    matrix[np.random.default_rng(seed).random(matrix.shape) < 0.1] = np.nan
    return matrix


def fitted() -> Transforms:
    return fit(with_gaps(), INPUTS)
