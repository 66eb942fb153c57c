from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featureflow.errors import ModelError
from featureflow.models.manifest import ModelInput
from featureflow.models.transform import Column, Steps, Transforms, fit, identity

NAN = math.nan
A, B = ModelInput(name="a"), ModelInput(name="b")
ONE = (A,)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, 1)


def test_an_undefined_value_becomes_the_mean_of_the_defined_ones() -> None:
    made = fit(column(1, 2, 6, NAN), ONE, {"a": Steps(impute="mean", scale=False)})
    assert made.apply(column(NAN, 5)).tolist() == [[3], [5]]


def test_an_undefined_value_becomes_the_median_or_a_number_where_that_is_asked_for() -> None:
    assert fit(column(1, 2, 6, NAN), ONE, {"a": Steps(impute="median", scale=False)}).apply(column(NAN)).tolist() == [[2]]
    assert fit(column(1, 2, 6, NAN), ONE, {"a": Steps(impute=-1, scale=False)}).apply(column(NAN)).tolist() == [[-1]]


def test_without_impute_an_undefined_value_stays_undefined() -> None:
    assert np.isnan(fit(column(1, 2), ONE, {"a": Steps(impute=None)}).apply(column(NAN))).all()


def test_scaling_gives_mean_0_and_deviation_1_on_the_training_rows_imputed_ones_included() -> None:
    matrix = column(1, 2, 6, NAN, 11)
    scaled = fit(matrix, ONE).apply(matrix)
    assert scaled.mean() == pytest.approx(0, abs=1e-6)
    assert scaled.std() == pytest.approx(1, abs=1e-6)


def test_a_constant_column_becomes_0_also_where_rounding_makes_it_look_varied() -> None:
    constant = np.full((1_000, 1), 0.1)
    made = fit(constant, ONE)
    assert made.columns[0].deviation == 1
    assert np.abs(made.apply(constant)).max() < 1e-12


def test_clip_bounds_are_quantiles_of_the_training_rows() -> None:
    made = fit(np.arange(101.0).reshape(-1, 1), ONE, {"a": Steps(clip=(0.1, 0.9), scale=False)})
    assert made.apply(column(-1e9, 50, 1e9, math.inf)).tolist() == [[10], [50], [90], [90]]


def test_log1p_is_odd_and_defined_for_negative_values() -> None:
    made = fit(column(-3, 3), ONE, {"a": Steps(log1p=True, scale=False)})
    assert made.apply(column(-3, 0, 3))[:, 0] == pytest.approx([-math.log(4), 0, math.log(4)])


def test_one_hot_has_a_column_for_everything_it_has_not_seen() -> None:
    made = fit(column(3, 1, 1, 2), ONE, {"a": Steps(impute=None, one_hot=True)})
    assert made.apply(column(1, 2, 3, 99, NAN)).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]


def test_one_hot_keeps_the_most_frequent_categories() -> None:
    made = fit(column(5, 5, 5, 7, 7, 9), ONE, {"a": Steps(one_hot=True, categories=2)})
    assert made.columns[0].categories == (5, 7)
    assert made.apply(column(9)).tolist() == [[0, 0, 1]]


def test_an_indicator_says_that_the_value_was_undefined() -> None:
    made = fit(column(1, 3, NAN), ONE, {"a": Steps(indicator=True, scale=False)})
    assert made.apply(column(NAN, 7)).tolist() == [[1, 2], [0, 7]]


def test_columns_keep_their_order_whatever_each_becomes() -> None:
    inputs = (A, ModelInput(name="hour"), ModelInput(name="kind", size=2), B)
    matrix = np.array([[1, 10, 0, 5, 4], [NAN, 11, 1, 6, 8]], np.float64)
    made = fit(matrix, inputs, {
        "hour": Steps(one_hot=True), "kind": Steps(one_hot=True), "a": Steps(indicator=True, scale=False), "b": Steps(scale=False),
    })
    assert made.width_out == 2 + 3 + 3 + 3 + 1
    assert made.apply(matrix).tolist() == [[0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 4], [1, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 8]]
    assert [made.sources[i] for i in (0, 1, 2, 5, 8, 11)] == [0, 0, 1, 2, 3, 4]


def test_an_input_with_several_columns_is_fitted_column_by_column() -> None:
    made = fit(np.array([[1.0, 100.0], [3.0, 300.0]]), (ModelInput(name="last", size=2),))
    assert [c.mean for c in made.columns] == [2, 200]


def test_fit_refuses_what_it_cannot_learn_from_and_names_the_input() -> None:
    with pytest.raises(ModelError, match="input a has no defined value"):
        fit(column(NAN, NAN), ONE)
    with pytest.raises(ModelError, match="input a has no defined value .* categories"):
        fit(column(NAN), ONE, {"a": Steps(impute=None, one_hot=True)})
    with pytest.raises(ModelError, match="input a holds an infinite value"):
        fit(column(1, math.inf), ONE)
    with pytest.raises(ModelError, match=r"shape \(2, 1\); give \(rows, 2\)"):
        fit(column(1, 2), (A, B))
    with pytest.raises(ModelError, match="steps are given for c; the model's inputs are a"):
        fit(column(1, 2), ONE, {"c": Steps()})


def test_a_column_that_is_never_defined_can_be_imputed_by_a_number() -> None:
    assert fit(column(NAN, NAN), ONE, {"a": Steps(impute=0)}).apply(column(NAN)).tolist() == [[0]]


def test_steps_that_contradict_each_other_are_refused() -> None:
    for wrong in ({"one_hot": True, "log1p": True}, {"clip": (0.9, 0.1)}, {"categories": 0}, {"impute": math.inf}):
        with pytest.raises(ModelError):
            Steps(**wrong)


@pytest.mark.parametrize("wrong", [
    {"low": 2.0, "high": 1.0}, {"categories": (1.0, 1.0)}, {"categories": tuple(map(float, range(1_001)))},
])
def test_values_that_no_fit_gives_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        Column(**wrong)


def test_apply_refuses_another_width() -> None:
    with pytest.raises(ModelError, match=r"shape \(1, 2\); the transforms take \(rows, 3\)"):
        identity(3).apply(np.zeros((1, 2)))


def test_a_value_beyond_float32_becomes_infinite_and_does_not_warn() -> None:
    assert np.isinf(identity(1).apply(column(1e300))).all()


FINITE = st.floats(-1e12, 1e12)
COLUMNS = st.builds(
    Column, indicator=st.booleans(), impute=st.none() | FINITE, log1p=st.booleans(),
) | st.builds(
    Column, impute=st.none() | FINITE, low=st.floats(-10, 0), high=st.floats(0, 10), mean=FINITE, deviation=st.floats(1e-6, 1e6),
) | st.builds(
    Column, indicator=st.booleans(), categories=st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=4, unique=True).map(tuple),
)
TRANSFORMS = st.lists(COLUMNS, min_size=1, max_size=5).map(lambda columns: Transforms(tuple(columns)))


@given(TRANSFORMS)
def test_json_gives_the_same_transforms_back_to_the_last_bit(made: Transforms) -> None:
    assert msgspec.json.decode(msgspec.json.encode(made), type=Transforms) == made


@settings(max_examples=60)
@given(TRANSFORMS, st.data())
def test_a_row_becomes_the_same_bytes_alone_and_in_any_batch(made: Transforms, data: st.DataObject) -> None:
    values = st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float) | st.just(NAN)
    matrix = data.draw(arrays(np.float64, (data.draw(st.integers(1, 19)), made.width_in), elements=values))
    whole = made.apply(matrix)
    assert whole.dtype == np.float32
    assert whole.flags.c_contiguous
    assert whole.shape == (len(matrix), made.width_out)
    assert whole.tobytes() == b"".join(made.apply(matrix[i:i + 1]).tobytes() for i in range(len(matrix)))


@given(TRANSFORMS)
def test_apply_leaves_its_argument_alone(made: Transforms) -> None:
    matrix = np.linspace(-5, 5, 3 * made.width_in).reshape(3, -1)
    before = matrix.copy()
    made.apply(matrix)
    assert (matrix == before).all()
