"""Expressions over an event's fields, or over features and request fields. Written with operators, kept as ``spec.Expr``.

Null follows the kernel: arithmetic with null is null, a comparison with null is false, x / 0 is null.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeAlias, TypeVar, overload

from featureflow import limits
from featureflow.clock import to_us
from featureflow.define import spec
from featureflow.define.name import a, listed, nearest, shown
from featureflow.define.place import Place, here, wrong
from featureflow.define.truth import instead

if TYPE_CHECKING:
    pass

T_co = TypeVar("T_co", covariant=True)

SYMBOLS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "neg": "-",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "&",
    "or": "|",
    "not": "~",
}
_NUMERIC = ("int", "float")
ARITHMETIC = ("add", "sub", "mul", "div", "neg", "abs", "log1p", "minimum", "maximum")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


@dataclass(frozen=True)
class Owner:
    """The class whose columns an expression reads."""

    cls: type
    kind: Literal["event", "feature", "request", "score"]


class Expr(Generic[T_co]):
    """A column, or a calculation on columns, of type ``T_co``."""

    __slots__ = ("categories", "depth", "node", "nodes", "owners", "place", "size", "text", "type")

    def __init__(self, node: spec.Expr, type: spec.FieldType, owners: frozenset[Owner], text: str) -> None:
        self.node = node
        self.type = type
        self.owners = owners
        self.text = text
        self.depth = self.nodes = 1  # of a call: set where it is made
        self.categories: tuple[str, ...] = ()  # of a column that has them: what it may be compared with
        self.size = 1  # numbers of a vector
        self.place: Place = here()

    def __repr__(self) -> str:
        return self.text

    # -- arithmetic

    def __add__(self: Number, other: Number | float) -> Expr[float]:
        return arithmetic("add", self, other)

    def __radd__(self: Number, other: float) -> Expr[float]:
        return arithmetic("add", other, self)

    def __sub__(self: Number, other: Number | float) -> Expr[float]:
        return arithmetic("sub", self, other)

    def __rsub__(self: Number, other: float) -> Expr[float]:
        return arithmetic("sub", other, self)

    def __mul__(self: Number, other: Number | float) -> Expr[float]:
        return arithmetic("mul", self, other)

    def __rmul__(self: Number, other: float) -> Expr[float]:
        return arithmetic("mul", other, self)

    def __truediv__(self: Number, other: Number | float) -> Expr[float]:
        return arithmetic("div", self, other)

    def __rtruediv__(self: Number, other: float) -> Expr[float]:
        return arithmetic("div", other, self)

    def __neg__(self: Number) -> Expr[float]:
        return arithmetic("neg", self)

    def __abs__(self: Number) -> Expr[float]:
        return arithmetic("abs", self)

    # -- comparison

    def __eq__(self, other: object) -> Expr[bool]:  # type: ignore[override]  # a column's == is an expression, not an answer
        return comparison("eq", self, other)

    def __ne__(self, other: object) -> Expr[bool]:  # type: ignore[override]  # as ==
        return comparison("ne", self, other)

    @overload
    def __lt__(self: Number, other: Number | float) -> Expr[bool]: ...
    @overload
    def __lt__(self: Instant, other: Instant | datetime) -> Expr[bool]: ...
    def __lt__(self, other: object) -> Expr[bool]:
        return comparison("lt", self, other)

    @overload
    def __le__(self: Number, other: Number | float) -> Expr[bool]: ...
    @overload
    def __le__(self: Instant, other: Instant | datetime) -> Expr[bool]: ...
    def __le__(self, other: object) -> Expr[bool]:
        return comparison("le", self, other)

    @overload
    def __gt__(self: Number, other: Number | float) -> Expr[bool]: ...
    @overload
    def __gt__(self: Instant, other: Instant | datetime) -> Expr[bool]: ...
    def __gt__(self, other: object) -> Expr[bool]:
        return comparison("gt", self, other)

    @overload
    def __ge__(self: Number, other: Number | float) -> Expr[bool]: ...
    @overload
    def __ge__(self: Instant, other: Instant | datetime) -> Expr[bool]: ...
    def __ge__(self, other: object) -> Expr[bool]:
        return comparison("ge", self, other)

    # -- logic

    def __and__(self: Truth, other: Truth) -> Expr[bool]:
        return logic("and", self, other)

    def __or__(self: Truth, other: Truth) -> Expr[bool]:
        return logic("or", self, other)

    def __invert__(self: Truth) -> Expr[bool]:
        return logic("not", self)

    if not TYPE_CHECKING:  # reached only by `15 & column`: the sign of forgotten parentheses

        def __rand__(self, other: object) -> Expr[bool]:
            return logic("and", other, self)

        def __ror__(self, other: object) -> Expr[bool]:
            return logic("or", other, self)

    def __bool__(self) -> NoReturn:
        raise wrong(
            f"{self.text} is a column, neither true nor false here: and, or, not, in, if and chained comparisons do not work on columns",
            write=instead(here()),
        )

    __hash__ = object.__hash__  # by identity, so that an expression can be a key of a model's defaults


Number: TypeAlias = "Expr[float | None]"
Instant: TypeAlias = "Expr[datetime | None]"
Truth: TypeAlias = "Expr[bool | None]"


# -- checks --------------------------------------------------------------------------------------------------------------


class Elementwise(ABC):
    """A sequence of columns: operators apply to each of them."""

    @abstractmethod
    def each(self, op: str, *values: object) -> Any:
        """The operator applied to each of the values, this sequence among them."""


class Windowless(ABC):
    """Something that stands for several columns and so has no arithmetic: operators on it say what to write instead."""

    __hash__ = object.__hash__

    @abstractmethod
    def refuse(self, at: Place | None = None) -> NoReturn:
        """Raise the DefinitionError that says how to write one column."""

    if not TYPE_CHECKING:  # to a type checker these operators do not exist

        def _operator(self, *_: object) -> NoReturn:
            self.refuse()

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = (
            __abs__
        ) = _operator
        __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _operator
        __and__ = __rand__ = __or__ = __ror__ = __invert__ = __bool__ = _operator


def operand(value: object) -> Expr[Any]:
    """The value as an expression: itself, or a literal. Raises DefinitionError for anything else."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, Windowless):
        value.refuse()
    if isinstance(value, Elementwise):
        raise wrong(f"{value!r} is a sequence, which this is not for", write=f"mean({value!r}), or max, min, sum or len of it")
    if isinstance(value, bool):
        return Expr(spec.Literal(value), "bool", frozenset(), repr(value))
    if isinstance(value, int | float):
        if isinstance(value, int) and not -limits.INTEGER_ABS <= value <= limits.INTEGER_ABS:
            raise wrong(
                "a whole number beyond 2^53 has no exact float64", write=f"{float(limits.INTEGER_ABS)!r} or smaller"
            )
        if not math.isfinite(value):
            raise wrong(
                f"{value} is not a number that can be compared or calculated with",
                write="is_null(column), or a finite number",
            )
        return Expr(spec.Literal(value), "int" if isinstance(value, int) else "float", frozenset(), repr(value))
    if isinstance(value, str):
        size = len(value.encode("utf-8", "surrogatepass"))
        if size > limits.STRING_BYTES or any(0xD800 <= ord(letter) < 0xE000 for letter in value):
            raise wrong(
                f"the string {value[:20]!a}... has {size} bytes"
                if size > limits.STRING_BYTES
                else f"the string {value!a} holds half a surrogate pair",
                write=f"a string that a field can hold: UTF-8, at most {limits.STRING_BYTES} bytes",
            )
        return Expr(spec.Literal(value), "str", frozenset(), repr(value))
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise wrong(f"{value!r} has no time zone, so it names no instant", write="datetime(..., tzinfo=UTC)")
        return Expr(spec.Literal(to_us(value)), "datetime", frozenset(), repr(value))
    if value is None:
        raise wrong("None is not a value to compare or calculate with", write="is_null(column)")
    raise wrong(
        f"{shown(value)} is neither a column nor a plain number, string, bool or datetime",
        write="a field, a feature or a literal",
    )


def _sequence(values: tuple[object, ...]) -> Elementwise | None:
    return next((value for value in values if isinstance(value, Elementwise)), None)


def call(op: str, type: spec.FieldType, *args: Expr[Any]) -> Expr[Any]:
    """The operator applied. Raises DefinitionError where the expression is too large, or of what is not looked at together."""
    depth, nodes = 1 + max(arg.depth for arg in args), 1 + sum(arg.nodes for arg in args)
    if depth > limits.EXPRESSION_DEPTH or nodes > limits.EXPRESSION_NODES:  # before its text: that grows as fast
        raise wrong(
            f"an expression of {nodes} parts, {depth} deep, is too large: at most {limits.EXPRESSION_NODES} parts, "
            f"{limits.EXPRESSION_DEPTH} deep",
            write="the calculation in the producer, as a field of the event",
        )
    owners: frozenset[Owner] = frozenset().union(*(arg.owners for arg in args))
    text = _text(op, args)
    events = [owner.cls.__name__ for owner in owners if owner.kind == "event"]
    if events and len(owners) > 1:
        names = sorted(owner.cls.__name__ for owner in owners)
        if len(events) == len(owners):
            raise wrong(
                f"{text} mixes the fields of {listed(names)}: an event is looked at alone",
                write="fields of one event; combine two sources as features of a View",
            )
        raise wrong(
            f"{text} mixes an event's fields ({listed(sorted(events))}) with features or request fields",
            write='features only: aggregate the field in a View first, then use View.name["1h"]',
        )
    made: Expr[Any] = Expr(spec.Call(op, tuple(arg.node for arg in args)), type, owners, text)
    made.depth, made.nodes = depth, nodes
    return made


def _text(op: str, args: tuple[Expr[Any], ...]) -> str:
    parts = [
        f"({arg.text})" if isinstance(arg.node, spec.Call) and arg.node.op in SYMBOLS else arg.text for arg in args
    ]
    if op not in SYMBOLS:
        return f"{op}({', '.join(arg.text for arg in args)})"
    return f"{SYMBOLS[op]}{parts[0]}" if len(parts) == 1 else f"{parts[0]} {SYMBOLS[op]} {parts[1]}"


def arithmetic(op: str, *values: object) -> Expr[float]:
    """The expression; a sequence where one of the values is one. Raises DefinitionError for what is no number."""
    if (sequence := _sequence(values)) is not None:
        each: Expr[float] = sequence.each(op, *values)
        return each
    args = tuple(operand(value) for value in values)
    for arg in args:
        if arg.type not in _NUMERIC:
            raise wrong(
                f"{_text(op, args)} calculates with {arg.text}, which is {a(arg.type)}, not a number",
                write={
                    "bool": f"count(..., where={arg.text}, over=...) in a View, or the boolean as a model input of its own",
                    "str": f'{arg.text} == "..."; a string can be compared, not calculated with',
                    "datetime": f"{arg.text} < another instant; a datetime can be compared, not calculated with",
                    "vector": "a number of the event, as a field of its own; a vector is aggregated as a whole",
                }[arg.type],
            )
    return call(op, "float", *args)


def comparison(op: str, left: object, right: object) -> Expr[bool]:
    """The expression; a sequence where one of the two is one. Raises DefinitionError for what cannot be compared."""
    if (sequence := _sequence((left, right))) is not None:
        each: Expr[bool] = sequence.each(op, left, right)
        return each
    args = (operand(left), operand(right))
    kinds = {"number" if arg.type in _NUMERIC else arg.type for arg in args}
    if "vector" in kinds:
        raise wrong(
            f"{_text(op, args)} compares vectors, which are aggregated and not compared",
            write="a number of the event, as a field of its own",
        )
    if len(kinds) > 1:
        raise wrong(
            f"{_text(op, args)} compares {a(args[0].type)} with {a(args[1].type)}",
            write=f"{a(args[0].type)} on both sides",
        )
    _check_categories(op, args)
    if op not in ("eq", "ne") and kinds & {"str", "bool"}:
        raise wrong(f"{_text(op, args)}: {a(args[0].type)} has no order here", write="== or !=")
    return call(op, "bool", *args)


def _check_categories(op: str, args: tuple[Expr[Any], ...]) -> None:
    """A categorical column is compared with its own categories: another string would never be equal."""
    for column, other in (args, args[::-1]):
        if not column.categories or not isinstance(other.node, spec.Literal) or other.node.value in column.categories:
            continue
        known = column.categories
        meant = nearest(str(other.node.value), known) or known[0]
        raise wrong(
            f"{_text(op, args)} is never {'true' if op == 'eq' else 'false'}: {column.text} is one of {listed(map(repr, known[:10]))}",
            write=f'{column.text} {SYMBOLS[op]} "{meant}", or {other.text} among the categories of the field',
        )


def logic(op: str, *values: object) -> Expr[bool]:
    """The expression; a sequence where one of the values is one. Raises DefinitionError for what is neither true nor false."""
    if (sequence := _sequence(values)) is not None:
        each: Expr[bool] = sequence.each(op, *values)
        return each
    args = tuple(operand(value) for value in values)
    for arg in args:
        if arg.type != "bool":
            raise wrong(
                f"{_text(op, args)}: {arg.text} is not a boolean ({SYMBOLS[op]} binds tighter than a comparison)",
                write=f"(a > 1) {SYMBOLS[op]} (b < 2), with the parentheses"
                if op != "not"
                else "~(a > 1), with the parentheses",
            )
    return call(op, "bool", *args)
