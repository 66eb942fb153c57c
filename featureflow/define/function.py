"""Functions of columns, as they are called in a definitions file: ``abs log1p minimum maximum is_null when``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from featureflow.define import spec
from featureflow.define.expression import Expr, Number, Truth, arithmetic, call, operand
from featureflow.define.name import a as article
from featureflow.define.place import wrong

if TYPE_CHECKING:
    from featureflow.define.sequence import Numbers, Strings, Truths


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


@overload
def is_null(x: Expr[Any]) -> Expr[bool]: ...
@overload
def is_null(x: Numbers | Strings) -> Truths: ...
def is_null(x: Any) -> Any:
    """Whether x is null or undefined; of a sequence, which of its values are: ``~is_null(UserNow.last_amounts)`` is its mask."""
    if hasattr(x, "each"):
        return x.nulls()
    column = operand(x)
    if column.type == "bool" and isinstance(column.node, spec.Call):
        raise wrong(
            f"{column.text} is never null: a comparison with null is false",
            write="is_null(column), on the column itself",
        )
    return call("is_null", "bool", column)


def when(condition: Truth, then: Number | float, otherwise: Number | float) -> Expr[float]:
    """``then`` where the condition holds, else ``otherwise``; a condition on what is undefined does not hold."""
    held, *chosen = operand(condition), operand(then), operand(otherwise)
    if held.type != "bool":
        raise wrong(
            f"when({held.text}, ...) is decided by {article(held.type)}, which is neither true nor false",
            write=f"when({held.text} > 0, ..., ...)" if held.type in ("int", "float") else f'when({held.text} == "...", ..., ...)',
        )
    for one in chosen:
        if one.type not in ("int", "float"):
            raise wrong(f"when(...) gives {one.text}, which is {article(one.type)}, not a number", write="when(condition, 1.0, 0.0)")
    return call("when", "float", held, *chosen)
