"""``approx_quantile`` is within its stated error of the exact quantile, always, on flat and on skewed data."""

from __future__ import annotations

import numpy as np
import pytest
from unit.kernel.worlds import LIFETIME, X, aggregation

import oracle
from featureflow.define.spec import Aggregation
from featureflow.kernel.partial.quantile import LEAST, LogBuckets, bounds, middles
from oracle import Record


def estimated(values: np.ndarray, error: float, q: float) -> float:
    sketch = LogBuckets(X, None, error)
    _, cells, words = sketch.cells(values, np.arange(len(values)))
    order = np.argsort(cells, kind="stable")
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    merged = sketch.reduce(words[order], starts)
    return float(sketch.estimate(np.zeros(len(starts), np.int64), cells[order][starts], merged, 1, asked(error, q))[0, 0])


def asked(error: float, q: float) -> Aggregation:
    declared = aggregation("approx_quantile", [LIFETIME])
    return type(declared)(**{**{f: getattr(declared, f) for f in declared.__struct_fields__}, "error": error, "q": q})


def column(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    match kind:
        case "lognormal":
            return rng.lognormal(2, 3, n)
        case "zipf":
            return np.minimum(rng.zipf(1.3, n), 2.0**52).astype(np.float64)
        case "both signs":
            return rng.standard_cauchy(n)
        case "heavy duplicates":
            return rng.choice([0.0, -5.0, 5.0, 5.000001, 1e15], n, p=[0.5, 0.2, 0.1, 0.1, 0.1])
        case _:
            return rng.uniform(-1, 1, n) * 2.0 ** rng.integers(-25, 62, n)


@pytest.mark.parametrize("kind", ["lognormal", "zipf", "both signs", "heavy duplicates", "all magnitudes"])
@pytest.mark.parametrize("error", [0.25, 0.01, 0.002])
def test_every_quantile_is_within_the_stated_error_of_the_exact_one(kind: str, error: float) -> None:
    for seed in range(30):
        rng = np.random.default_rng([seed, 5])
        values = column(rng, kind, int(rng.integers(1, 3_000)))
        counted = [(Record("click", 0, i, 0, 0, {}), v) for i, v in enumerate(values.tolist())]
        for q in (0.0, 0.01, 0.5, 0.95, 1.0):
            (exact,) = oracle.aggregate(asked(error, q), counted, LIFETIME, 0)
            assert abs(estimated(values, error, q) - exact) <= max(error * abs(exact), LEAST)


def test_a_bucket_holds_its_upper_bound_and_nothing_above_it() -> None:
    table = bounds(0.01)
    sketch = LogBuckets(X, None, 0.01)
    inside, above = (sketch.cells(at, np.zeros(0))[1] for at in (table[5:500], np.nextafter(table[5:500], np.inf)))
    assert (above - inside == 1).all()
    assert table[-1] >= 2.0**63 > table[-2]
    below = sketch.cells(-table[5:500], np.zeros(0))[1]
    assert (inside + below == 2 * len(table)).all()


@pytest.mark.parametrize("error", [0.25, 0.01, 0.001])
def test_the_value_of_a_cell_is_within_the_error_of_both_bounds_of_its_bucket(error: float) -> None:
    table, middle = bounds(error), middles(error)[len(bounds(error)) + 1:-1]
    for bound in (table[:-1], table[1:]):
        assert (np.abs(middle - bound) <= error * bound).all()
    assert LogBuckets(X, None, error).size <= 1 << 18


def test_quantiles_of_several_groups_do_not_mix() -> None:
    sketch = LogBuckets(X, None, 0.01)
    group = np.array([0, 0, 2, 2])
    _, cells, _ = sketch.cells(np.array([1.0, 8.0, -3.0, 100.0]), np.zeros(0))
    found = sketch.estimate(group, cells, np.array([[3], [1], [1], [9]]), 4, asked(0.01, 0.5))
    np.testing.assert_allclose(found[:, 0], [1.0, np.nan, 100.0, np.nan], rtol=0.01)
