"""Sequences: what a ``last_n`` gives, and what is calculated from it value by value. Reductions make one feature of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn

from featureflow.define import spec
from featureflow.define.expression import (
    ARITHMETIC,
    COMPARISONS,
    Elementwise,
    Expr,
    Number,
    arithmetic,
    call,
    comparison,
    logic,
    operand,
)
from featureflow.define.name import shown
from featureflow.define.place import Place, here, wrong


class Sequence(Elementwise):
    """``size`` values, newest first, each null where there is none. ``one`` is the expression that all of them are of."""

    __hash__ = object.__hash__

    @property
    @abstractmethod
    def one(self) -> Expr[Any]:
        """The expression that each value is of."""
        ...

    @property
    @abstractmethod
    def length(self) -> int:
        """How many values there are, nulls included."""
        ...

    def each(self, op: str, *values: object) -> Any:
        """The operator applied to each value; a feature that stands beside a sequence is the same for all of them."""
        sizes = {value.length for value in values if isinstance(value, Sequence)}
        args = [value.one if isinstance(value, Sequence) else _spread(operand(value)) for value in values]
        make = arithmetic if op in ARITHMETIC else comparison if op in COMPARISONS else logic
        result = make(op, *args)
        if sizes != {self.length}:
            raise wrong(
                f"{result.text} combines sequences of {' and '.join(map(str, sorted(sizes)))} values", write="sequences of one length"
            )
        if make is not arithmetic:  # of each value that is there: one that is not is neither true nor false
            assert isinstance(result.node, spec.Call)
            result.node = spec.Call(f"each_{op}", result.node.args)
        return derived(result, self.length)

    def nulls(self) -> Truths:
        """Which of the values are null. Unlike a comparison this is known of every position."""
        if isinstance(self, Truths):
            raise wrong(f"is_null({self.one.text}) is of comparisons", write="is_null(sequence), on the sequence itself")
        return CalculatedTruths(call("each_is_null", "bool", self.one), self.length)

    def _numbers(self, op: str, *values: object) -> Numbers:
        each: Numbers = self.each(op, *values)
        return each

    def _truths(self, op: str, *values: object) -> Truths:
        each: Truths = self.each(op, *values)
        return each

    if not TYPE_CHECKING:  # reached by Python's own functions only

        def __len__(self) -> NoReturn:
            raise wrong(f"len({self.one.text}) is Python's own here, not FeatureFlow's", write="from featureflow import len")

        def __iter__(self) -> NoReturn:
            raise wrong(
                f"{self.one.text} is a sequence of features, and Python cannot go through it here",
                write=f"mean({self.one.text}), from featureflow import mean",
            )

        def _operator(self, *_: object) -> NoReturn:
            raise wrong(
                f"{self.one.text} is a sequence, and that operator is not of such a one",
                write="+ - * / and comparisons of numbers, == and != of strings, & | ~ of comparisons; mean max min sum len for one value",
            )

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = (
            __abs__
        ) = _operator
        __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _operator
        __and__ = __rand__ = __or__ = __ror__ = __invert__ = __bool__ = _operator

    def __repr__(self) -> str:
        return self.one.text


class Numbers(Sequence):
    """A sequence of numbers."""

    def __add__(self, other: Numbers | Number | float) -> Numbers:
        return self._numbers("add", self, other)

    def __radd__(self, other: Number | float) -> Numbers:
        return self._numbers("add", other, self)

    def __sub__(self, other: Numbers | Number | float) -> Numbers:
        return self._numbers("sub", self, other)

    def __rsub__(self, other: Number | float) -> Numbers:
        return self._numbers("sub", other, self)

    def __mul__(self, other: Numbers | Number | float) -> Numbers:
        return self._numbers("mul", self, other)

    def __rmul__(self, other: Number | float) -> Numbers:
        return self._numbers("mul", other, self)

    def __truediv__(self, other: Numbers | Number | float) -> Numbers:
        return self._numbers("div", self, other)

    def __rtruediv__(self, other: Number | float) -> Numbers:
        return self._numbers("div", other, self)

    def __neg__(self) -> Numbers:
        return self._numbers("neg", self)

    def __abs__(self) -> Numbers:
        return self._numbers("abs", self)

    def __eq__(self, other: object) -> Truths:  # type: ignore[override]  # as of a column
        return self._truths("eq", self, other)

    def __ne__(self, other: object) -> Truths:  # type: ignore[override]  # as of a column
        return self._truths("ne", self, other)

    def __lt__(self, other: Numbers | Number | float) -> Truths:
        return self._truths("lt", self, other)

    def __le__(self, other: Numbers | Number | float) -> Truths:
        return self._truths("le", self, other)

    def __gt__(self, other: Numbers | Number | float) -> Truths:
        return self._truths("gt", self, other)

    def __ge__(self, other: Numbers | Number | float) -> Truths:
        return self._truths("ge", self, other)

    __hash__ = object.__hash__


class Truths(Sequence):
    """A sequence of true and false, 1 and 0 as numbers; null where the value that was compared is."""

    def __and__(self, other: Truths) -> Truths:
        return self._truths("and", self, other)

    def __or__(self, other: Truths) -> Truths:
        return self._truths("or", self, other)

    def __invert__(self) -> Truths:
        return self._truths("not", self)


class Strings(Sequence):
    """A sequence of strings."""

    def __eq__(self, other: object) -> Truths:  # type: ignore[override]  # as of a column
        return self._truths("eq", self, other)

    def __ne__(self, other: object) -> Truths:  # type: ignore[override]  # as of a column
        return self._truths("ne", self, other)

    __hash__ = object.__hash__


class Calculated:
    """A sequence with its expression and length given."""

    def __init__(self, one: Expr[Any], length: int) -> None:
        self._one, self._length = one, length
        self.place: Place = here()

    @property
    def one(self) -> Expr[Any]:
        return self._one

    @property
    def length(self) -> int:
        return self._length


class CalculatedNumbers(Calculated, Numbers):
    """Numbers that are calculated from those of others, value by value."""


class CalculatedTruths(Calculated, Truths):
    """Answers to a question that is asked of each value."""


class CalculatedStrings(Calculated, Strings):
    """Strings that are chosen value by value."""


def derived(one: Expr[Any], length: int) -> Numbers | Truths:
    """The sequence of that many values of the expression: of answers where it is a condition, else of numbers."""
    return CalculatedTruths(one, length) if one.type == "bool" else CalculatedNumbers(one, length)


def diff(values: Numbers) -> Numbers:
    """Each value less the one before it in time: one value less than there were, null where either is."""
    found: object = values
    if not isinstance(found, Numbers):
        raise wrong(f"diff({_text(found)}) is not of a sequence of numbers", write="diff(UserNow.last_amounts), of a last_n")
    if found.length < 2:
        raise wrong(f"diff({found.one.text}): a sequence of {found.length} has no differences", write="last_n(..., 2) or more")
    return CalculatedNumbers(call("diff", "float", found.one), found.length - 1)


def len(values: Sequence) -> Expr[float]:
    """How many values are there: 0 where none is, never null."""
    found: object = values
    if not isinstance(found, Sequence):
        raise wrong(f"len({_text(found)}) is not of a sequence", write="len(UserNow.last_amounts), of a last_n")
    return _reduced("len", found)


def reduce(op: str, values: Sequence) -> Expr[float]:
    """``mean``, ``sum``, ``min`` or ``max`` of the values that are there; null where none is."""
    if isinstance(values, Strings):
        raise wrong(f"{op}({values.one.text}) calculates with strings", write=f'{op}({values.one.text} == "...")')
    return _reduced(op, values)


def _reduced(op: str, values: Sequence) -> Expr[float]:
    reduced = call(f"seq_{op}", "float", values.one)
    reduced.text = f"{op}({values.one.text})"
    return reduced


def _spread(value: Expr[Any]) -> Expr[Any]:
    """A feature beside a sequence, as its every value; a literal is that as it is."""
    if isinstance(value.node, spec.Literal):
        return value
    wide: Expr[Any] = Expr(spec.Call("spread", (value.node,)), value.type, value.owners, value.text)
    wide.depth, wide.nodes = value.depth + 1, value.nodes + 1
    return wide


def _text(value: object) -> str:
    return value.text if isinstance(value, Expr) else getattr(value, "text", None) or shown(value)
