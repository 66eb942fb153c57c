"""Functions of columns, as they are called in a definitions file: ``abs log1p minimum maximum is_null``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from featureflow.define import spec
from featureflow.define.expression import Expr, Number, arithmetic, call, operand
from featureflow.define.place import wrong

if TYPE_CHECKING:
    from featureflow.define.sequence import Numbers


@overload
def abs(x: Number) -> Expr[float]: ...
@overload
def abs(x: Numbers) -> Numbers: ...
def abs(x: Any) -> Any:
    """|x|."""
    return arithmetic("abs", x)


@overload
def log1p(x: Number) -> Expr[float]: ...
@overload
def log1p(x: Numbers) -> Numbers: ...
def log1p(x: Any) -> Any:
    """The natural logarithm of 1 + x; undefined for x <= -1."""
    return arithmetic("log1p", x)


@overload
def minimum(a: Number, b: Number | float) -> Expr[float]: ...
@overload
def minimum(a: float, b: Number) -> Expr[float]: ...
@overload
def minimum(a: Numbers, b: Numbers | Number | float) -> Numbers: ...
def minimum(a: Any, b: Any) -> Any:
    """The smaller of the two; undefined where either is."""
    return arithmetic("minimum", a, b)


@overload
def maximum(a: Number, b: Number | float) -> Expr[float]: ...
@overload
def maximum(a: float, b: Number) -> Expr[float]: ...
@overload
def maximum(a: Numbers, b: Numbers | Number | float) -> Numbers: ...
def maximum(a: Any, b: Any) -> Any:
    """The larger of the two; undefined where either is."""
    return arithmetic("maximum", a, b)


def is_null(x: Expr[Any]) -> Expr[bool]:
    """Whether x is null or undefined."""
    column = operand(x)
    if column.type == "bool" and isinstance(column.node, spec.Call):
        raise wrong(
            f"{column.text} is never null: a comparison with null is false",
            write="is_null(column), on the column itself",
        )
    return call("is_null", "bool", column)
