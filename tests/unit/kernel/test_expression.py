from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow.define.spec import Call, Column, Expr, Literal
from featureflow.kernel.expression import OPERATORS, evaluate
from oracle import evaluate as evaluate_one

A, B, S = Column("a"), Column("b"), Column("s")
NUMBERS = st.none() | st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e308, -1e308, 1e-308]) | st.floats(-1e9, 1e9)
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from(["p", "q", None])), min_size=1, max_size=8)
ARITHMETIC = ("add", "sub", "mul", "div", "minimum", "maximum")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")

numeric: st.SearchStrategy[Expr] = st.recursive(
    st.sampled_from([A, B]) | st.sampled_from([0, 1, -2.5, 3]).map(lambda v: Literal(value=v)),
    lambda inner: st.builds(lambda op, x, y: Call(op, (x, y)), st.sampled_from(ARITHMETIC), inner, inner)
    | st.builds(lambda op, x: Call(op, (x,)), st.sampled_from(["neg", "abs"]), inner),
    max_leaves=6,
)
conditions: st.SearchStrategy[Expr] = st.recursive(
    st.builds(lambda op, x, y: Call(op, (x, y)), st.sampled_from(COMPARISONS), numeric, numeric)
    | st.builds(lambda op, v: Call(op, (S, Literal(value=v))), st.sampled_from(["eq", "ne"]), st.sampled_from(["p", "z"]))
    | st.builds(lambda x: Call("is_null", (x,)), st.sampled_from([A, S])),
    lambda inner: st.builds(lambda op, x, y: Call(op, (x, y)), st.sampled_from(["and", "or"]), inner, inner)
    | st.builds(lambda x: Call("not", (x,)), inner),
    max_leaves=5,
)


def columns(rows: list[tuple[float | None, float | None, str | None]]) -> dict[str, np.ndarray]:
    a, b, s = zip(*rows, strict=True)
    return {
        "a": np.array([math.nan if x is None else x for x in a]), "b": np.array([math.nan if x is None else x for x in b]),
        "s": np.array(s, object),
    }  # fmt: skip


@given(ROWS, numeric)
def test_arithmetic_over_columns_is_arithmetic_row_by_row(rows: list[tuple[float | None, float | None, str | None]], expr: Expr) -> None:
    expected = [evaluate_one(expr, dict(zip("abs", row, strict=True))) for row in rows]
    got = evaluate(expr, columns(rows))
    assert got.dtype == np.float64
    assert [None if math.isnan(x) else x for x in got.tolist()] == expected
    assert not np.signbit(got[got == 0]).any()


@given(ROWS, conditions)
def test_conditions_over_columns_are_conditions_row_by_row(rows: list[tuple[float | None, float | None, str | None]], expr: Expr) -> None:
    got = evaluate(expr, columns(rows))
    assert got.dtype == np.bool_
    assert got.tolist() == [evaluate_one(expr, dict(zip("abs", row, strict=True))) for row in rows]


@given(ROWS, conditions, numeric, numeric)
def test_a_choice_over_columns_is_a_choice_row_by_row(
    rows: list[tuple[float | None, float | None, str | None]], held: Expr, then: Expr, otherwise: Expr
) -> None:
    expr = Call("add", (Call("when", (held, then, otherwise)), Literal(value=1)))
    got = evaluate(expr, columns(rows))
    expected = [evaluate_one(expr, dict(zip("abs", row, strict=True))) for row in rows]
    assert [None if math.isnan(x) else x for x in got.tolist()] == expected


@pytest.mark.parametrize("op", COMPARISONS)
def test_a_comparison_with_null_is_false(op: str) -> None:
    null = {"a": np.array([math.nan]), "b": np.array([1.0]), "s": np.array([None], object)}
    assert not evaluate(Call(op, (A, B)), null)[0]
    if op in ("eq", "ne"):
        assert not evaluate(Call(op, (S, Literal(value="p"))), null)[0]


def test_not_null_is_false_and_null_is_not_true() -> None:
    null = {"a": np.array([math.nan, 0.0, 1.0])}
    assert evaluate(Call("not", (A,)), null).tolist() == [False, True, False]
    assert evaluate(Call("and", (A, A)), null).tolist() == [False, False, True]
    assert evaluate(Call("or", (A, A)), null).tolist() == [False, False, True]


def test_results_that_are_no_finite_numbers_are_null() -> None:
    cells = {"a": np.array([1.0, 0.0, -1.0, 1e308]), "b": np.array([0.0, 0.0, 2.0, 10.0])}
    assert np.isnan(evaluate(Call("div", (A, B)), cells)).tolist() == [True, True, False, False]
    assert np.isnan(evaluate(Call("mul", (A, B)), cells)).tolist() == [False, False, False, True]
    assert np.isnan(evaluate(Call("log1p", (A,)), cells)).tolist() == [False, False, True, False]


def test_log1p_is_the_logarithm_of_one_more() -> None:
    assert evaluate(Call("log1p", (A,)), {"a": np.array([0.0, math.e - 1])}).tolist() == pytest.approx([0.0, 1.0])


def test_a_constant_and_a_matrix_keep_their_shapes() -> None:
    assert evaluate(Literal(value=2), {}, 3).tolist() == [2.0] * 3
    assert evaluate(A, {"a": np.ones((2, 4))}).shape == (2, 4)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="'b'"):
        evaluate(Call("add", (A, B)), {"a": np.ones(1)})


def test_the_table_of_operators_is_the_one_that_definitions_may_use() -> None:
    of_sequences = {op for op in OPERATORS if op.startswith(("each_", "seq_")) or op in ("spread", "diff")}
    assert set(OPERATORS) - of_sequences == {*ARITHMETIC, *COMPARISONS, "neg", "abs", "log1p", "and", "or", "not", "is_null", "when"}
    assert {op.removeprefix("each_") for op in of_sequences if op.startswith("each_")} == {*COMPARISONS, "and", "or", "not", "is_null"}
