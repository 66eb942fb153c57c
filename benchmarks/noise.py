"""How noisy the machine is just now: the same piece of arithmetic, several times."""

from __future__ import annotations

import time

import numpy as np


def noise() -> dict[str, float]:
    """Slowest over fastest of ten equal pieces of work, and their median in ms."""
    table = np.random.default_rng(0).random(200_000)
    taken = []
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(10):
            np.sort(table)
        taken.append((time.perf_counter() - began) * 1000)
    return {"slowest_over_fastest": round(max(taken) / min(taken), 3), "median_ms": round(sorted(taken)[5], 2)}
