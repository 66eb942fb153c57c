"""Vectorised evaluation of expressions over columns.

Numbers (and bool fields) are float64 with NaN for null, strings are object arrays with None for null. Comparisons, ``and``,
``or``, ``not`` and ``is_null`` give bool arrays and never null: a comparison with null is False (``ne`` too), ``not null``
is False, and null is not true in ``and``/``or``. Arithmetic with null is null, and so is a result that is not a finite
number (x / 0, an overflow, log1p of -1 or less).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Call, Column, Expr, Literal
from featureflow.kernel import sequence
from featureflow.kernel.logarithm import log1p

Array = NDArray[Any]


@dataclass(frozen=True)
class Operator:
    """``apply`` takes ``arity`` arrays that broadcast, float64, bool or strings as objects."""

    arity: int
    apply: Callable[..., Array]


def evaluate(expr: Expr, columns: Mapping[str, Array], n: int | None = None) -> Array:
    """The expression over n rows: float64, bool, or (a bare string column) object, of shape (n,), or (n, size) of a sequence.

    Sequences and scalars meet in ``spread`` and the reductions alone. ``n`` is needed only where there are no columns.
    Raises KeyError naming a column that is not there.
    """
    result = _evaluate(expr, columns)
    if result.ndim == 0:
        result = np.broadcast_to(result, (len(next(iter(columns.values()))) if n is None else n,))
    return result + 0.0 if result.dtype == np.float64 else result  # + 0.0 turns -0.0 into 0.0


def _evaluate(expr: Expr, columns: Mapping[str, Array]) -> Array:
    match expr:
        case Column(name):
            column = columns[name]
            return column if column.dtype.kind in "fbO" else column.astype(np.float64)
        case Literal(value):
            return np.array(value, dtype=object) if isinstance(value, str) else np.array(float(value))
        case Call(op, args):
            operator = OPERATORS[op]
            return operator.apply(*(_evaluate(arg, columns) for arg in args))


def is_null(x: Array) -> NDArray[np.bool_]:
    """Where a column is null. A vector (n, size) is null as a whole."""
    if x.ndim == 2:
        x = x[:, 0]
    if x.dtype == object:
        return np.asarray(x == np.array(None), np.bool_)
    return np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, np.bool_)


def is_true(x: Array) -> NDArray[np.bool_]:
    """Where a condition holds: not null, not false, not zero."""
    return x if x.dtype == np.bool_ else (x != 0) & ~is_null(x)


def _number(x: Array) -> NDArray[np.float64]:
    return x.astype(np.float64) if x.dtype == np.bool_ else x


def _arithmetic(function: Callable[..., Array]) -> Callable[..., Array]:
    def apply(*args: Array) -> Array:
        with np.errstate(all="ignore"):
            result = function(*(_number(arg) for arg in args))
            return np.where(np.isfinite(result), result, np.nan)

    return apply


def _comparison(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    def apply(a: Array, b: Array) -> Array:
        if a.dtype != object and b.dtype != object and function is not np.not_equal:
            return function(_number(a), _number(b))
        a, b = np.broadcast_arrays(a, b)
        known = np.asarray(~(is_null(a) | is_null(b)))
        result = np.zeros(a.shape, np.bool_)
        result[known] = function(a[known], b[known]).astype(np.bool_)
        return result

    return apply


def _not(x: Array) -> Array:
    return ~x if x.dtype == np.bool_ else (x == 0)


COMPARISONS: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType({
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
})  # fmt: skip
OPERATORS: Mapping[str, Operator] = MappingProxyType({
    "add": Operator(2, _arithmetic(np.add)),
    "sub": Operator(2, _arithmetic(np.subtract)),
    "mul": Operator(2, _arithmetic(np.multiply)),
    "div": Operator(2, _arithmetic(np.divide)),
    "neg": Operator(1, _arithmetic(np.negative)),
    "abs": Operator(1, _arithmetic(np.abs)),
    "log1p": Operator(1, _arithmetic(log1p)),
    "minimum": Operator(2, _arithmetic(np.minimum)),
    "maximum": Operator(2, _arithmetic(np.maximum)),
    **{op: Operator(2, _comparison(f)) for op, f in COMPARISONS.items()},
    "and": Operator(2, lambda a, b: is_true(a) & is_true(b)),
    "or": Operator(2, lambda a, b: is_true(a) | is_true(b)),
    "not": Operator(1, _not),
    "is_null": Operator(1, is_null),
    "when": Operator(3, lambda held, then, otherwise: np.where(is_true(held), _number(then), _number(otherwise))),
    "spread": Operator(1, sequence.spread),
    "diff": Operator(1, _arithmetic(sequence.diff)),
    "seq_len": Operator(1, sequence.length),
    "seq_sum": Operator(1, _arithmetic(sequence.total)),
    "seq_mean": Operator(1, _arithmetic(sequence.mean)),
    "seq_min": Operator(1, _arithmetic(sequence.smallest)),
    "seq_max": Operator(1, _arithmetic(sequence.largest)),
    **{f"each_{op}": Operator(2, sequence.each(f)) for op, f in COMPARISONS.items()},
    "each_and": Operator(2, sequence.each(lambda a, b: (a != 0) & (b != 0))),
    "each_or": Operator(2, sequence.each(lambda a, b: (a != 0) | (b != 0))),
    "each_not": Operator(1, sequence.each(lambda a: a == 0)),
    "each_is_null": Operator(1, sequence.nulls),
})
