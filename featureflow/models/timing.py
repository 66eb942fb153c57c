"""What a model's runs cost here, per batch size: measured, because a rule of thumb is wrong on one of any two machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from featureflow.models.manifest import BatchTime, VariantReport
from featureflow.models.session import Session

BATCHES = (1, 8, 32, 128)
ROUNDS = 40
LEAST = 2                                  # turns
GAIN = 1.05                                # below it the difference is noise, and FP32 is exact
CALLS = 5                                  # of one session in a row, so that its weights are in the cache as under load


def measure(
    sessions: Mapping[str, Session], rows: NDArray[np.float32], *, batches: Sequence[int] = BATCHES, rounds: int = ROUNDS,
    budget_s: float | None = None,
) -> dict[str, tuple[BatchTime, ...]]:
    """Durations of ``Session.run`` for each session and batch, in microseconds.

    rows: float32 (n, width), the inputs to run on, repeated as needed. The sessions take turns, forwards then backwards, so that a
    slow moment of the machine falls on all of them. budget_s: no further turn of a batch size once it took so long, of LEAST at least.
    """
    order = list(sessions)
    found: dict[str, list[BatchTime]] = {name: [] for name in order}
    for batch in batches:
        matrix = np.ascontiguousarray(np.resize(rows, (batch, rows.shape[1])))
        taken: dict[str, list[int]] = {name: [] for name in order}
        until = None if budget_s is None else perf_counter_ns() + int(budget_s * 1e9)
        for turn in range(rounds):
            if until is not None and turn >= LEAST and perf_counter_ns() > until:
                break
            for name in order if turn % 2 == 0 else reversed(order):
                run = sessions[name].run
                run(matrix)
                for _ in range(CALLS):
                    began = perf_counter_ns()
                    run(matrix)
                    taken[name].append(perf_counter_ns() - began)
        for name in order:
            median, p99 = np.percentile(taken[name], (50, 99)) / 1_000
            found[name].append(BatchTime(batch=batch, median_us=round(float(median), 1), p99_us=round(float(p99), 1)))
    return {name: tuple(times) for name, times in found.items()}


def fastest(usable: Sequence[VariantReport], exact: VariantReport, batch: int) -> VariantReport:
    """The quickest at a batch size, or ``exact`` (FP32) where it is not GAIN times as fast as that."""
    quickest = min(usable, key=lambda r: r.at(batch).median_us)
    return quickest if quickest.at(batch).median_us * GAIN < exact.at(batch).median_us else exact
