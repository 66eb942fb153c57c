"""``approx_distinct`` is within its stated error of the exact number, on flat and on skewed data."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from replay import recompute
from unit.kernel.worlds import LIFETIME, NOON, X, aggregation, source, view

import oracle
from featureflow.define.spec import Column, Expr, Field
from featureflow.kernel.events import Events
from featureflow.kernel.finalize import ViewKernel
from featureflow.kernel.partial.distinct import HyperLogLog, estimate, hashed, precision_for

SEEDS = 200
HASHED_NUMBERS = [12035550249420947055, 10196009653435912478, 15855754340083433948]
HASHED_STRINGS = [13020603013274838756, 3405396810240292928, 7189489353843046405]


def column(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    """Other numbers for each seed, so that errors are independent; however skewed they are, only the different ones matter."""
    if kind == "flat":
        return rng.integers(0, 2**50, n).astype(np.float64)
    if kind == "zipf":
        return np.minimum(rng.zipf(1.2, n), 2**50).astype(np.float64) + rng.integers(0, 2**40)
    return np.round(rng.lognormal(4, 2, n) * 100) + rng.integers(0, 2**40)


def estimated(values: np.ndarray, precision: int) -> float:
    sketch = HyperLogLog(X, None, precision)
    _, cells, words = sketch.cells(values, np.arange(len(values)))
    order = np.argsort(cells, kind="stable")
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    merged = sketch.reduce(words[order], starts)
    return float(sketch.estimate(np.zeros(len(starts), np.int64), cells[order][starts], merged, 1, None)[0, 0])


@pytest.mark.parametrize("n", [100, 2_000, 8_000, 30_000])
@pytest.mark.parametrize("kind", ["flat", "zipf", "lognormal"])
def test_the_root_mean_square_error_is_the_stated_standard_error(kind: str, n: int) -> None:
    precision = 10
    off = []
    for seed in range(SEEDS):
        values = column(np.random.default_rng([seed, n]), kind, n)
        off.append(estimated(values, precision) / len(np.unique(values)) - 1)
    # Of 200 independent errors the root mean square is within 1.2 of its expectation, but once in some 10,000 times.
    assert math.sqrt(np.mean(np.square(off))) <= 1.2 * 1.04 / 2 ** (precision / 2)
    assert abs(np.mean(off)) <= 4 * 1.04 / 2 ** (precision / 2) / math.sqrt(SEEDS)


def test_large_numbers_are_estimated_as_well_as_small_ones() -> None:
    off = [estimated(np.random.default_rng([seed, 9]).random(1_000_000), 8) / 1_000_000 - 1 for seed in range(20)]
    assert math.sqrt(np.mean(np.square(off))) <= 1.5 * 1.04 / 16


def test_the_least_precision_that_keeps_the_error_is_taken() -> None:
    assert [precision_for(error) for error in (0.25, 0.02, 0.01, 0.005)] == [5, 12, 14, 16]
    for error in (0.25, 0.1, 0.02, 0.005):
        p = precision_for(error)
        assert 1.04 / 2 ** (p / 2) <= error < 1.04 / 2 ** ((p - 1) / 2)


def test_few_values_are_counted_nearly_exactly() -> None:
    for n in range(1, 60):
        assert abs(estimated(np.arange(n) * 1.5, 12) - n) <= 1


def test_estimates_of_one_entity_do_not_depend_on_the_others_of_the_batch() -> None:
    rng = np.random.default_rng(3)
    counts = np.array([np.bincount(np.minimum(rng.geometric(0.5, 4096), 53) * (rng.random(4096) < share), minlength=54) for share in
                       (0.0, 0.001, 0.3, 1.0)])  # fmt: skip
    with np.errstate(divide="ignore"):
        together = estimate(counts)
        alone = np.concatenate([estimate(one[np.newaxis]) for one in counts])
    assert together.tobytes() == alone.tobytes()
    assert together[0] == 0


def test_hashes_are_the_same_in_every_process() -> None:
    assert hashed(np.array([0.0, 1.0, -2.5])).tolist() == HASHED_NUMBERS
    strings = np.empty(3, object)
    strings[:] = ["", "a", "\N{SNOWMAN}"]
    assert hashed(strings).tolist() == HASHED_STRINGS


@pytest.mark.parametrize(("value", "exact"), [(X, 7.0), (Column("kind"), 3.0), (Column("at"), 11.0), (Column("flag"), 2.0)])
def test_it_counts_values_of_every_type(value: Expr, exact: float) -> None:
    clicks = source()
    clicks = msgspec.structs.replace(clicks, fields=(*clicks.fields, Field(name="flag", type="bool")))
    declared = view([aggregation("approx_distinct", [LIFETIME], value=value)], [clicks])
    n = 200
    kinds = np.empty(n, object)
    kinds[:] = [("a", "b", "\N{SNOWMAN}", None)[i % 4] for i in range(n)]
    batch = Events(
        0, np.arange(n), np.full(n, NOON), np.full(n, NOON),
        {
            "user": np.full(n, "u1", object), "x": (np.arange(n) % 7) / 3, "kind": kinds,
            "at": NOON + (np.arange(n) % 11).astype(float), "flag": (np.arange(n) % 2).astype(float),
        },
    )  # fmt: skip
    sources = {"click": clicks}
    got = recompute(ViewKernel(declared, sources), sources, {"click": [batch]}, ["u1"], np.array([NOON]), {"click": {0: n}})
    assert got.values.tolist() == [[exact]]
    seen = [oracle.Record("click", 0, i, NOON, NOON, {"v": batch.columns[value.name][i]}) for i in range(n)]
    counted = [(record, record.fields["v"]) for record in seen if record.fields["v"] is not None]
    assert oracle.aggregate(declared.aggregations[0], counted, LIFETIME, NOON) == [exact]
