"""Aggregations that keep values of events: ``first last last_n max_by min_by``, as they stand in a View's body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, overload

from featureflow import limits
from featureflow.define import spec
from featureflow.define.aggregation import (
    Aggregation,
    Windowed,
    WindowedText,
    WindowedVector,
    default_number,
    event_of,
    where_of,
)
from featureflow.define.event import Event
from featureflow.define.expression import Expr, Instant, Number, Truth, Windowless
from featureflow.define.name import a, listed, shown
from featureflow.define.place import Place, wrong
from featureflow.define.sequence import Numbers, Strings
from featureflow.define.vector import Vector
from featureflow.define.window import Window, lifetime, windows

Text: TypeAlias = "Expr[str | None]"
Scalar: TypeAlias = "Number | Truth | Instant"
Vectors: TypeAlias = "Expr[Vector | None]"


class LastOf(Aggregation):
    """A sequence of the newest n values, newest first."""

    @property
    def one(self) -> Expr[Any]:
        return self.column(lifetime, self.text)

    @property
    def length(self) -> int:
        return self.size

    def refuse(self, at: Place | None = None) -> NoReturn:
        raise wrong(
            f"{self.text} is a sequence of {self.size} values, not one",
            write=f"mean({self.text}), or max, min, sum or len of it, or {self.text} by itself in inputs",
            at=at,
        )

    if not TYPE_CHECKING:  # as the operators: to a type checker there is none

        def __getitem__(self, _: object) -> NoReturn:
            self.refuse()


class LastN(LastOf, Numbers):
    """Numbers: one model input of n columns."""


class LastTexts(LastOf, Strings):
    """Strings, to compare and to count."""


class LastEntries(Aggregation, Windowless):
    """Several fields of the newest n events: ``UserNow.history[Payment.amount]`` is a sequence, a feature of its own."""

    def __init__(self, event: type[Event], fields: tuple[Expr[Any], ...], width: int, where: spec.Expr | None, n: int) -> None:
        super().__init__("last_n", event, None, where, (lifetime,), None, n)
        self.fields = fields
        payload = tuple(spec.Payload(field.node, width if field.type == "str" else 0) for field in fields)
        self.parts: dict[str, LastN | LastTexts] = {}
        for field, kept in zip(fields, payload, strict=True):
            kind = LastTexts if kept.width else LastN
            part = kind("last_n", event, field.node, where, (lifetime,), None, n, width=kept.width, entry=payload)
            self.parts[_name(field)] = part

    def belong(self, view: type, name: str) -> None:
        super().belong(view, name)
        for field, part in self.parts.items():
            part.belong(view, f"{name}_{field}")

    def definitions(self) -> tuple[spec.Aggregation, ...]:
        return tuple(part.definition() for part in self.parts.values())

    @overload
    def __getitem__(self, field: Text) -> LastTexts: ...  # type: ignore[overload-overlap]  # only of an Expr[None]: there is none
    @overload
    def __getitem__(self, field: Scalar) -> LastN: ...
    def __getitem__(self, field: object) -> LastN | LastTexts:
        """The sequence of one of the fields. Raises DefinitionError for another."""
        for kept, part in zip(self.fields, self.parts.values(), strict=True):
            if isinstance(field, Expr) and (field.node, field.owners) == (kept.node, kept.owners):
                return part
        raise wrong(
            f"{self.text} keeps {listed(kept.text for kept in self.fields)}, not {field if isinstance(field, Expr) else shown(field)}",
            write=f"{self.text}[{self.fields[0].text}]",
        )

    def refuse(self, at: Place | None = None) -> NoReturn:
        raise wrong(
            f"{self.text} stands for all its fields ({listed(field.text for field in self.fields)}), not for one feature",
            write=f"{self.text}[{self.fields[0].text}]",
            at=at,
        )


@overload
def first(  # type: ignore[overload-overlap]  # as above
    value: Text, *, over: tuple[str | Window, ...], where: Truth | None = None, default: str | None = None, width: int = ...,
    exact: bool = False,
) -> WindowedText: ...
@overload
def first(
    value: Scalar, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Windowed: ...
@overload
def first(
    value: Vectors, *, over: tuple[str | Window, ...], where: Truth | None = None, exact: bool = False,
) -> WindowedVector: ...
def first(
    value: Expr[Any], *, over: tuple[str | Window, ...], where: Truth | None = None, default: Any = None, width: int | None = None,
    exact: bool = False,
) -> Windowed | WindowedText | WindowedVector:
    """The value of the oldest event by event time."""
    return _windowed("first", value, over, where, default, width, exact)


@overload
def last(  # type: ignore[overload-overlap]  # as above
    value: Text, *, over: tuple[str | Window, ...], where: Truth | None = None, default: str | None = None, width: int = ...,
    exact: bool = False,
) -> WindowedText: ...
@overload
def last(
    value: Scalar, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Windowed: ...
@overload
def last(
    value: Vectors, *, over: tuple[str | Window, ...], where: Truth | None = None, exact: bool = False,
) -> WindowedVector: ...
def last(
    value: Expr[Any], *, over: tuple[str | Window, ...], where: Truth | None = None, default: Any = None, width: int | None = None,
    exact: bool = False,
) -> Windowed | WindowedText | WindowedVector:
    """The value of the newest event by event time. A string is kept up to ``width`` bytes; an event with a longer one is refused."""
    return _windowed("last", value, over, where, default, width, exact)


@overload
def max_by(  # type: ignore[overload-overlap]  # as above
    value: Text, *, by: Number | Instant, over: tuple[str | Window, ...], where: Truth | None = None, default: str | None = None,
    width: int = ..., exact: bool = False,
) -> WindowedText: ...
@overload
def max_by(
    value: Scalar, *, by: Number | Instant, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None,
    exact: bool = False,
) -> Windowed: ...
@overload
def max_by(
    value: Vectors, *, by: Number | Instant, over: tuple[str | Window, ...], where: Truth | None = None,
    exact: bool = False,
) -> WindowedVector: ...
def max_by(
    value: Expr[Any], *, by: Number | Instant, over: tuple[str | Window, ...], where: Truth | None = None, default: Any = None,
    width: int | None = None, exact: bool = False,
) -> Windowed | WindowedText | WindowedVector:
    """The value of the event with the largest ``by``; of several such the newest."""
    return _windowed("max_by", value, over, where, default, width, exact, by)


@overload
def min_by(  # type: ignore[overload-overlap]  # as above
    value: Text, *, by: Number | Instant, over: tuple[str | Window, ...], where: Truth | None = None, default: str | None = None,
    width: int = ..., exact: bool = False,
) -> WindowedText: ...
@overload
def min_by(
    value: Scalar, *, by: Number | Instant, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None,
    exact: bool = False,
) -> Windowed: ...
@overload
def min_by(
    value: Vectors, *, by: Number | Instant, over: tuple[str | Window, ...], where: Truth | None = None,
    exact: bool = False,
) -> WindowedVector: ...
def min_by(
    value: Expr[Any], *, by: Number | Instant, over: tuple[str | Window, ...], where: Truth | None = None, default: Any = None,
    width: int | None = None, exact: bool = False,
) -> Windowed | WindowedText | WindowedVector:
    """The value of the event with the smallest ``by``; of several such the newest."""
    return _windowed("min_by", value, over, where, default, width, exact, by)


@overload
def last_n(
    value: tuple[Expr[Any], Expr[Any], *tuple[Expr[Any], ...]], n: int, *, where: Truth | None = None, width: int = ...
) -> LastEntries: ...
@overload
def last_n(  # type: ignore[overload-overlap]  # as above
    value: Text, n: int, *, where: Truth | None = None, default: str | None = None, width: int = ...
) -> LastTexts: ...
@overload
def last_n(value: Scalar, n: int, *, where: Truth | None = None, default: float | None = None) -> LastN: ...
def last_n(
    value: object, n: int, *, where: Truth | None = None, default: Any = None, width: int | None = None
) -> LastN | LastTexts | LastEntries:
    """The values of the n newest events by event time, newest first. The View says with ``ttl=`` how long they count.

    A tuple of fields keeps several of each event, aligned: ``View.name[Event.field]`` is the sequence of one of them.
    """
    if isinstance(value, tuple):
        return _last_entries(value, n, where, default, width)
    event, kept = _kept("last_n", value)
    _check_size(n, kept.text)
    condition = where_of("last_n", event, where)
    wide = _width("last_n", (kept,), width)
    kind = LastTexts if wide else LastN
    return kind("last_n", event, kept.node, condition, (lifetime,), _default(default, wide), n, width=wide)


def _last_entries(values: tuple[Any, ...], n: int, where: Truth | None, default: object, width: object) -> LastEntries:
    text = f"({', '.join(value.text if isinstance(value, Expr) else shown(value) for value in values)})"
    if len(values) < 2:
        raise wrong(f"last_n({text}, ...) names {len(values)} fields in a tuple", write="last_n(Payment.amount, 8), or two fields or more")
    kept = [_kept("last_n", value) for value in values]
    for value in values:
        if not isinstance(value.node, spec.Column):
            raise wrong(f"last_n({text}, ...) keeps {value.text}, which has no name", write="fields of the event, by themselves")
    events = {event for event, _ in kept}
    if len(events) > 1:
        raise wrong(
            f"last_n({text}, ...) keeps fields of {listed(sorted(event.__name__ for event in events))}: an entry is of one event",
            write="one last_n(...) for each event",
        )
    if len({_name(value) for value in values}) < len(values):
        raise wrong(f"last_n({text}, ...) names a field twice", write="it once")
    if default is not None:
        raise wrong(f"last_n({text}, ...) has a default=, and no type for it", write="no default=, and the model's defaults")
    _check_size(n, text)
    event = events.pop()
    return LastEntries(event, values, _width("last_n", values, width), where_of("last_n", event, where), n)


def _windowed(
    op: str, value: Expr[Any], over: object, where: Truth | None, default: object, width: int | None, exact: bool,
    by: Expr[Any] | None = None,
) -> Windowed | WindowedText | WindowedVector:  # fmt: skip
    event, kept = _kept(op, value)
    compared = None if by is None else _compared(op, event, by)
    wide = _width(op, (value,), width)
    vector = value.size if value.type == "vector" else 0
    if vector and default is not None:  # to mypy a vector is of any type, so that one for each number would let a string's pass
        raise wrong(f"{op}({value.text}) has a default=, which a vector has not", write="no default=, and the model's defaults")
    kind = WindowedText if wide else WindowedVector if vector else Windowed
    return kind(
        op, event, kept.node, where_of(op, event, where), windows(over, op, exact=exact), _default(default, wide), width=wide,
        by=compared, vector=vector,
    )  # fmt: skip


def _kept(op: str, value: object) -> tuple[type[Event], Expr[Any]]:
    event = event_of(op, value)
    assert isinstance(value, Expr)
    if value.type == "vector" and op == "last_n":
        raise wrong(
            f"last_n({value.text}): {value.text} is a vector, and last_n keeps numbers and strings",
            write=f'last({value.text}, over=("1h",)), or last_n of a number as a field of its own',
        )
    return event, value


def _compared(op: str, event: type[Event], by: object) -> spec.Expr:
    if not isinstance(by, Expr) or by.type not in ("int", "float", "datetime"):
        found = f"{by.text}, {a(by.type)}" if isinstance(by, Expr) else shown(by)
        raise wrong(f"by= of {op}() is {found}, not a number or an instant", write="by=Payment.amount")
    if event_of(op, by) is not event:
        raise wrong(
            f"{op}() keeps a value of {event.__name__}, but its by= is another event's: {by.text}",
            write=f"a field of {event.__name__}",
        )
    return by.node


def _width(op: str, values: tuple[Expr[Any], ...], width: object) -> int:
    """Bytes that are kept of each string; 0 where none of the values is one."""
    text = ", ".join(value.text for value in values)
    if all(value.type != "str" for value in values):
        if width is not None:
            raise wrong(f"{op}({text}) has a width=, which is for strings", write=f"{op}({text}, ...) without it")
        return 0
    if width is None:
        return limits.TEXT_BYTES_UNSAID
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= limits.TEXT_BYTES:
        raise wrong(
            f"width={width!r} of {op}({text}): it is a whole number of bytes from 1 to {limits.TEXT_BYTES}",
            write=f"width={limits.TEXT_BYTES_UNSAID}; a longer string does not belong in a feature: send a code for it",
        )
    return width


def _default(default: object, width: int) -> float | str | None:
    if not width or default is None:
        return default_number(default)
    if not isinstance(default, str) or len(default.encode("utf-8", "surrogatepass")) > width:
        raise wrong(f"default={default!r} is no string of at most {width} bytes", write='default="", or no default= for undefined')
    return default


def _check_size(n: object, text: str) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= limits.LAST_N:
        raise wrong(f"last_n({text}, {n!r}): n is a whole number from 1 to {limits.LAST_N}", write=f"last_n({text}, 8)")


def _name(field: Expr[Any]) -> str:
    assert isinstance(field.node, spec.Column)
    return field.node.name
