"""Sequences against loops over Python numbers, None for null."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow.define.spec import Call, Column, Expr, Input, Literal, Model
from featureflow.kernel.derive import features_to_inputs
from featureflow.kernel.expression import evaluate

SIZE = 4
S, T, X, WORDS = Column("s"), Column("t"), Column("x"), Column("words")
NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1e300, -1e300, 5e-324]) | st.none()


def naive(expr: Expr, row: dict[str, Any]) -> Any:
    """One row: a list for a sequence, a number, a string or None."""
    match expr:
        case Column(name):
            return row[name]
        case Literal(value):
            return value
    assert isinstance(expr, Call)
    args = [naive(arg, row) for arg in expr.args]
    if expr.op == "spread":
        return [args[0]] * SIZE
    if expr.op == "diff":
        return [single("sub", [a, b]) for a, b in zip(args[0][:-1], args[0][1:], strict=True)]
    if expr.op.startswith("seq_"):
        there = [float(value) if not isinstance(value, str) else value for value in args[0] if value is not None]
        return reduced(expr.op[4:], there)
    size = next((len(arg) for arg in args if isinstance(arg, list)), None)
    if size is None:
        return single(expr.op, args)
    each = [arg if isinstance(arg, list) else [arg] * size for arg in args]
    return [single(expr.op.removeprefix("each_"), list(values)) for values in zip(*each, strict=True)]


def reduced(op: str, there: list[Any]) -> float | None:
    if op == "len":
        return float(len(there))
    if not there:
        return None
    total = 0.0
    for value in there:  # newest first
        total += value
    found = {"sum": total, "mean": total / len(there), "min": min(there), "max": max(there)}[op]
    return found if math.isfinite(found) else None


def single(op: str, args: list[Any]) -> float | None:
    if any(arg is None for arg in args):
        return None
    a, *rest = args
    b = rest[0] if rest else 0.0
    match op:
        case "eq" | "ne" | "lt" | "le" | "gt" | "ge":
            if op in ("eq", "ne"):
                return float((a == b) == (op == "eq"))
            return float({"lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[op])
        case "and":
            return float(bool(a) and bool(b))
        case "or":
            return float(bool(a) or bool(b))
        case "not":
            return float(not a)
    try:
        found = {"add": a + b, "sub": a - b, "mul": a * b, "abs": abs(a), "neg": -a}[op] if op != "div" else a / b
    except ZeroDivisionError:
        return None
    return found if math.isfinite(found) else None


PARTS = st.sampled_from([S, T, Call("spread", (X,)), Literal(2.0), Literal(0.0)])
SEQUENCES: st.SearchStrategy[Expr] = st.recursive(
    st.sampled_from([S, T]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["add", "sub", "mul", "div"]), inner, PARTS).map(lambda t: Call(t[0], (t[1], t[2]))),
        st.tuples(st.sampled_from(["add", "sub", "div"]), PARTS, inner).map(lambda t: Call(t[0], (t[1], t[2]))),
        st.tuples(st.sampled_from(["abs", "neg"]), inner).map(lambda t: Call(t[0], (t[1],))),
    ),
    max_leaves=4,
)
COMPARED = st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"])
TRUTHS: st.SearchStrategy[Expr] = st.one_of(
    st.tuples(COMPARED, SEQUENCES, PARTS).map(lambda t: Call(f"each_{t[0]}", (t[1], t[2]))),
    st.sampled_from(["each_eq", "each_ne"]).map(lambda op: Call(op, (WORDS, Literal("a")))),
)
LOGIC = st.one_of(
    TRUTHS,
    st.tuples(st.sampled_from(["each_and", "each_or"]), TRUTHS, TRUTHS).map(lambda t: Call(t[0], (t[1], t[2]))),
    TRUTHS.map(lambda t: Call("each_not", (t,))),
)
STEPS = SEQUENCES.map(lambda s: Call("diff", (s,)))
REDUCED = st.tuples(st.sampled_from(["sum", "mean", "min", "max", "len"]), SEQUENCES | LOGIC | STEPS).map(
    lambda t: Call(f"seq_{t[0]}", (t[1],))
)
ROW = st.fixed_dictionaries({
    "s": st.lists(NUMBERS, min_size=SIZE, max_size=SIZE), "t": st.lists(NUMBERS, min_size=SIZE, max_size=SIZE), "x": NUMBERS,
    "words": st.lists(st.sampled_from(["a", "b", None]), min_size=SIZE, max_size=SIZE),
})  # fmt: skip


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    n = len(rows)
    found: dict[str, np.ndarray[Any, Any]] = {
        name: np.array([row[name] for row in rows], np.float64).reshape((n, SIZE) if name != "x" else (n,)) for name in ("s", "t", "x")
    }
    words = np.empty((n, SIZE), object)
    for i, row in enumerate(rows):
        words[i] = row["words"]
    return {**found, "words": words}


@given(expr=SEQUENCES | LOGIC | REDUCED | STEPS, rows=st.lists(ROW, min_size=1, max_size=5))
def test_every_expression_is_what_a_loop_gives_to_the_bit(expr: Expr, rows: list[dict[str, Any]]) -> None:
    got = evaluate(expr, columns(rows))
    wanted = np.array([naive(expr, row) for row in rows], np.float64) + 0.0
    assert got.shape == wanted.shape
    assert np.array_equal(got, wanted, equal_nan=True)
    assert (np.signbit(got) == np.signbit(wanted))[~np.isnan(wanted)].all()


@pytest.mark.parametrize("op", ["sum", "mean", "min", "max"])
def test_a_reduction_of_nothing_is_null_and_its_length_is_zero(op: str) -> None:
    nothing = {"s": np.full((2, SIZE), np.nan)}
    assert np.isnan(evaluate(Call(f"seq_{op}", (S,)), nothing)).all()
    assert evaluate(Call("seq_len", (S,)), nothing).tolist() == [0.0, 0.0]


def test_a_sum_is_taken_newest_first() -> None:
    """In another order it is another number: the order is part of the definition."""
    values = {"s": np.array([[1e16, 1.0, -1e16, 1.0]])}
    assert evaluate(Call("seq_sum", (S,)), values).tolist() == [((1e16 + 1.0) - 1e16) + 1.0]
    assert evaluate(Call("seq_sum", (S,)), {"s": values["s"][:, ::-1]}).tolist() != evaluate(Call("seq_sum", (S,)), values).tolist()


def test_a_model_takes_them_as_inputs_of_their_length() -> None:
    late = Call("each_gt", (S, Literal(2.0)))
    model = Model(
        name="m", deadline_us=1000, drift=0.03,
        inputs=(
            Input(name="steps", expr=Call("diff", (S,)), size=SIZE - 1),
            Input(name="late", expr=late, size=SIZE, default=0.5),
            Input(name="share", expr=Call("seq_mean", (late,))),
        ),
    )  # fmt: skip
    got = features_to_inputs(model, {"s": np.array([[4.0, 1.0, 3.0, np.nan]])})
    assert np.array_equal(got, [[3.0, -2.0, np.nan, 1.0, 0.0, 1.0, 0.5, 2 / 3]], equal_nan=True)
