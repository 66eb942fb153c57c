from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow.errors import DriftError, ModelError
from featureflow.models.drift import CEILING, auc, compare, gate, rank_correlation
from featureflow.models.manifest import Drift


def test_drift_is_the_largest_and_the_mean_difference() -> None:
    found = compare(np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.4, 0.92]))
    assert found.max == pytest.approx(0.1)
    assert found.mean == pytest.approx(0.04)
    assert found.auc is None


def test_auc_loss_is_what_the_variant_ranks_worse() -> None:
    labels = np.array([False, False, True, True])
    found = compare(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.35, 0.3, 0.4]), labels)
    assert (found.auc, found.auc_loss) == (0.75, 0.25)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[bool, int]]) -> None:
    positives = [s for label, s in pairs if label]
    negatives = [s for label, s in pairs if not label]
    found = auc(np.array([label for label, _ in pairs]), np.array([float(s) for _, s in pairs]))
    if not positives or not negatives:
        assert found is None
    else:
        won = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
        assert found == pytest.approx(won / len(positives) / len(negatives))


def test_the_gate_lets_a_drift_at_the_tolerance_through_and_none_beyond_it() -> None:
    gate("int8", Drift(max=0.03, mean=0.001, agreement=0.99), 0.03)
    with pytest.raises(DriftError, match=r"int8 differs from FP32 by up to 0.0301 \(mean 0.0010\); 0.03 is allowed"):
        gate("int8", Drift(max=0.0301, mean=0.001, agreement=0.99), 0.03)


def test_the_gate_refuses_a_drift_that_is_not_a_number() -> None:
    with pytest.raises(DriftError):
        gate("int8", Drift(max=math.nan, mean=math.nan, agreement=1.0), 0.03)
    with pytest.raises(DriftError):
        gate("int8", Drift(max=0.0, mean=0.0, agreement=math.nan), 0.03)


def test_a_constant_does_not_pass_for_a_model_whose_scores_are_all_small() -> None:
    scores = np.random.default_rng(0).random(500) * 0.01
    constant = compare(scores, np.full(500, scores.mean()))
    assert constant.max < 0.03
    with pytest.raises(DriftError, match="reproduces 0% of the variation"):
        gate("int8", constant, 0.03)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_the_rank_correlation_is_that_of_the_places_in_both_orders(pairs: list[tuple[int, int]]) -> None:
    def places(values: list[int]) -> list[float]:
        return [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]

    first, second = ([float(v) for v in side] for side in zip(*pairs, strict=True))
    found = rank_correlation(np.array(first), np.array(second), 1.0)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(np.corrcoef(places([a for a, _ in pairs]), places([b for _, b in pairs]))[0, 1])


def test_scores_that_fp32_hardly_tells_apart_do_not_decide_the_order() -> None:
    chance = np.random.default_rng(0)
    reference = np.concatenate([np.full(900, 0.2), chance.random(100)])
    noisy = reference + chance.normal(0, 1e-7, 1_000)
    assert compare(reference, noisy).rank == pytest.approx(1.0, abs=1e-3)
    assert rank_correlation(reference, noisy, 1e-12) < 0.9


def test_a_variant_that_puts_rows_in_another_order_is_refused_though_its_drift_is_small() -> None:
    gate("int8", Drift(max=0.01, mean=0.001, agreement=0.99, rank=0.9), 0.03)
    with pytest.raises(DriftError, match=r"another order than FP32: the rank correlation is 0.899, 0.9 is the least"):
        gate("int8", Drift(max=0.01, mean=0.001, agreement=0.99, rank=0.899), 0.03)


def test_a_loss_of_auc_beyond_the_tolerance_is_refused_and_a_gain_is_none() -> None:
    gate("int8", Drift(max=0.01, mean=0.001, agreement=0.99, auc=0.87, auc_loss=0.03), 0.03)
    gate("int8", Drift(max=0.01, mean=0.001, agreement=0.99, auc=0.97, auc_loss=-0.07), 0.03)
    with pytest.raises(DriftError, match=r"an AUC of 0.8600, 0.0400 below FP32's; 0.03 is allowed"):
        gate("int8", Drift(max=0.01, mean=0.001, agreement=0.99, auc=0.86, auc_loss=0.04), 0.03)


@pytest.mark.parametrize("tolerance", [0, -1, CEILING + 1e-9, math.nan])
def test_no_tolerance_beyond_the_ceiling_is_taken(tolerance: float) -> None:
    with pytest.raises(ModelError, match="declare a drift above 0 and at most 0.1"):
        gate("int8", Drift(max=0.0, mean=0.0, agreement=1.0), tolerance)
