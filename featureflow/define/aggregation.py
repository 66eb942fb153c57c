"""Aggregations of numbers and of events themselves, as they stand in a View's body."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, overload

import msgspec

from featureflow.define import spec
from featureflow.define.event import Event
from featureflow.define.expression import Expr, Number, Owner, Truth, Windowless
from featureflow.define.name import a, listed, nearest, shown, snake
from featureflow.define.place import Place, here, wrong
from featureflow.define.sequence import CalculatedNumbers, Numbers, Sequence, Truths, reduce
from featureflow.define.window import Window, duration, same_length, windows, written


def reducing(aggregate: Callable[..., Any]) -> Callable[..., Any]:
    """The aggregation's name is that of the reduction of a sequence too: ``mean(UserNow.last_amounts)`` in a Model's body."""

    @wraps(aggregate)
    def apply(*args: Any, **named: Any) -> Any:
        if args and isinstance(args[0], Sequence):
            if args[1:] or named:
                raise wrong(
                    f"{aggregate.__name__}({args[0]!r}, ...) is of a sequence of features, which has no windows and conditions",
                    write=f"{aggregate.__name__}({args[0]!r})",
                )
            return reduce(aggregate.__name__, args[0])
        return aggregate(*args, **named)

    return apply


class Aggregation:
    """One aggregation of one event; its name is the attribute that it is assigned to."""

    def __init__(
        self, op: str, event: type[Event], value: spec.Expr | None, where: spec.Expr | None,
        over: tuple[Window, ...], default: float | str | None, size: int = 1, *, per_us: int = 0, width: int = 0,
        by: spec.Expr | None = None, entry: tuple[spec.Payload, ...] = (), half_life_us: int = 0, error: float = 0.0, q: float = -1.0,
        vector: int = 0,
    ) -> None:  # fmt: skip
        self.op, self.event, self.value, self.where = op, event, value, where
        self.windows, self.default, self.size = over, default, size
        self.per_us, self.half_life_us, self.width, self.by = per_us, half_life_us, width, by
        self.entry, self.error, self.q, self.vector = entry, error, q, vector
        self.name = ""
        self.view: type | None = None
        self.place = here()

    def belong(self, view: type, name: str) -> None:
        """Take the name that the view's body gives it. Raises DefinitionError where it has one already."""
        if self.view is not None:
            raise wrong(
                f"{self.text} is given a second name, {view.__name__}.{name}",
                write=f"{name} = {self.op}(...) once more, in full",
                at=self.place if view is self.view else None,
            )
        self.view, self.name = view, name

    @property
    def text(self) -> str:
        """How it is reached: ``CarrierNow.delay``."""
        return f"{self.view.__name__}.{self.name}" if self.view else f"{self.op}(...)"

    def definition(self) -> spec.Aggregation:
        """What it means, as plain values. The View has named it."""
        return spec.Aggregation(
            name=self.name, op=self.op, source=self.event._definition.name, value=self.value, where=self.where,
            windows=self.windows, bare=not isinstance(self, OfWindows), size=self.size, default=self.default,
            per_us=self.per_us, half_life_us=self.half_life_us, width=self.width, by=self.by, entry=self.entry,
            error=self.error, q=self.q, vector=self.vector,
        )  # fmt: skip

    def definitions(self) -> tuple[spec.Aggregation, ...]:
        """What it means; one that keeps several fields is one for each."""
        return (self.definition(),)

    def column(self, window: Window, text: str) -> Expr[Any]:
        """The feature of that window, as a column."""
        if self.view is None:
            raise wrong(
                f"{text} is used in the body of its own View",
                write=f"a derived feature, in the body of the Model: View.name{f'[{written(window)}]' * isinstance(self, OfWindows)}",
            )
        name = f"{snake(self.view.__name__)}:{self.definition().feature_name(window)}"
        return Expr(spec.Column(name), "str" if self.width else "float", frozenset({Owner(self.view, "feature")}), text)


class OfWindows(Aggregation, Windowless):
    """An aggregation with windows."""

    def _feature(self, window: str | Window) -> Expr[Any]:
        for known in self.windows:
            if window in (known, msgspec.structs.replace(known, exact=False)) or (known.kind == "sliding" and window == known.text):
                return self.column(known, f"{self.text}[{written(known)}]")
        asked = written(window) if isinstance(window, Window) else repr(window).replace("'", '"')
        raise wrong(
            f"{self.text} has no window {asked}; it has {listed(written(known) for known in self.windows)}",
            write=f"{self.text}[{written(self._meant(window))}], or add {asked} to its over=",
        )

    def _meant(self, window: object) -> Window:
        for known in self.windows:
            if isinstance(window, str) and known.kind == "sliding" and same_length(window, known):
                return known
        by_name = {name: known for known in self.windows for name in (written(known), known.text)}
        close = nearest(window, by_name) if isinstance(window, str) else None
        return by_name[close] if close else self.windows[0]

    def refuse(self, at: Place | None = None) -> NoReturn:
        raise wrong(
            f"{self.text} stands for all its windows ({listed(written(known) for known in self.windows)}), not for one feature",
            write=f"{self.text}[{written(self.windows[0])}]",
            at=at,
        )


class Windowed(OfWindows):
    """Numbers: ``CarrierNow.delay["1h"]`` is one feature."""

    def __getitem__(self, window: str | Window) -> Expr[float]:
        """The feature of one of the windows. Raises DefinitionError for a window that ``over=`` does not name."""
        return self._feature(window)


class WindowedText(OfWindows):
    """Strings: ``UserNow.country["1h"]`` is one feature, to compare and not to calculate with."""

    def __getitem__(self, window: str | Window) -> Expr[str]:
        """The feature of one of the windows. Raises DefinitionError for a window that ``over=`` does not name."""
        return self._feature(window)


class WindowedVector(OfWindows):
    """Vectors: ``UserNow.taste["1h"]`` is one feature of as many numbers, a sequence to calculate with."""

    def __getitem__(self, window: str | Window) -> Numbers:
        """The feature of one of the windows. Raises DefinitionError for a window that ``over=`` does not name."""
        return CalculatedNumbers(self._feature(window), self.vector)


def count(
    source: type[Event], *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = 0.0, exact: bool = False
) -> Windowed:
    """How many events."""
    check_countable("count", source)
    return Windowed("count", source, None, where_of("count", source, where), windows(over, "count", exact=exact), default_number(default))


@overload
def sum(value: Numbers | Truths) -> Expr[float]: ...
@overload
def sum(
    value: Number, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = 0.0, exact: bool = False
) -> Windowed: ...
@reducing
def sum(
    value: Any, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = 0.0, exact: bool = False
) -> Any:
    """The sum, exact and rounded once."""
    return _windowed("sum", value, over, where, default, exact)


@overload
def mean(value: Numbers | Truths) -> Expr[float]: ...
@overload
def mean(
    value: Number, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Windowed: ...
@reducing
def mean(
    value: Any, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Any:
    """The arithmetic mean; undefined where no event counts, unless ``default`` says otherwise."""
    return _windowed("mean", value, over, where, default, exact)


@overload
def min(value: Numbers | Truths) -> Expr[float]: ...
@overload
def min(
    value: Number, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Windowed: ...
@reducing
def min(
    value: Any, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Any:
    """The smallest value."""
    return _windowed("min", value, over, where, default, exact)


@overload
def max(value: Numbers | Truths) -> Expr[float]: ...
@overload
def max(
    value: Number, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Windowed: ...
@reducing
def max(
    value: Any, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Any:
    """The largest value."""
    return _windowed("max", value, over, where, default, exact)


def stddev(
    value: Number, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Windowed:
    """The standard deviation of the population (divided by n)."""
    return _windowed("stddev", value, over, where, default, exact)


def variance(
    value: Number, *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Windowed:
    """The variance of the population (divided by n)."""
    return _windowed("variance", value, over, where, default, exact)


def rate(
    source: type[Event], *, over: tuple[str | Window, ...], per: str = "1s", where: Truth | None = None, default: float | None = 0.0,
    exact: bool = False,
) -> Windowed:
    """How many events per unit of time: the count divided by the window's length in units of ``per``."""
    check_countable("rate", source)
    us = duration(per, "per= of rate()", "1s")
    if us == 0:
        raise wrong(f"per={per!r} of rate() is no time at all", write='per="1s"')
    declared = windows(over, "rate", exact=exact)
    for window in declared:
        if window.kind in ("session", "lifetime"):
            raise wrong(
                f"rate() over {written(window)}: such a window has no length to divide by",
                write=f"rate({source.__name__}, over=(\"1h\",)), or count({source.__name__}, over=({written(window)},))",
            )
    return Windowed("rate", source, None, where_of("rate", source, where), declared, default_number(default), per_us=us)


def time_since_last(
    source: type[Event], *, over: tuple[str | Window, ...], where: Truth | None = None, default: float | None = None, exact: bool = False
) -> Windowed:
    """Seconds from the newest event up to the instant asked for; undefined where none is in the window."""
    check_countable("time_since_last", source)
    declared = windows(over, "time_since_last", exact=exact)
    return Windowed("time_since_last", source, None, where_of("time_since_last", source, where), declared, default_number(default))


def check_countable(op: str, source: object) -> None:
    """Raises DefinitionError for anything but an event class."""
    if isinstance(source, type) and issubclass(source, Event) and source is not Event:
        return
    if isinstance(source, Expr) and len(source.owners) == 1:
        (owner,) = source.owners
        raise wrong(
            f"{op}({source.text}) counts a field; events are counted",
            write=f"{op}({owner.cls.__name__}, where=~is_null({source.text}), ...)",
        )
    raise wrong(f"{op}({shown(source)}) names no event class", write=f"{op}(Departure, ...)")


def _windowed(op: str, value: Number, over: object, where: Truth | None, default: float | None, exact: bool) -> Windowed:
    event, node = value_of(op, value)
    return Windowed(op, event, node, where_of(op, event, where), windows(over, op, exact=exact), default_number(default))


def event_of(op: str, value: object) -> type[Event]:
    """The event that is aggregated. Raises DefinitionError for anything but an expression over its fields."""
    if isinstance(value, type) and issubclass(value, Event):
        raise wrong(
            f"{op}({value.__name__}) names an event, not one of its fields",
            write=f"{op}({value.__name__}.{_a_number(value)}, ...)",
        )
    if not isinstance(value, Expr):
        found = value.text if isinstance(value, Aggregation) else shown(value)
        raise wrong(f"{op}({found}) does not aggregate a field of an event", write=f"{op}(Departure.delay_min, ...)")
    return owner_of(value, f"{op}({value.text})")


def value_of(op: str, value: object) -> tuple[type[Event], spec.Expr]:
    """The event that is aggregated, and the number of it. Raises DefinitionError for anything but a number of one event's fields."""
    event = event_of(op, value)
    assert isinstance(value, Expr)
    if value.type == "vector":
        raise wrong(
            f"{op}({value.text}): {value.text} is a vector, and {op} is of numbers",
            write=f'last({value.text}, over=("1h",)), which keeps it whole, or {op} of each number that matters as a field of its own',
        )
    if value.type not in ("int", "float"):
        raise wrong(
            f"{op}({value.text}): {value.text} is {a(value.type)}, and {op} is of numbers",
            write=f"count({event.__name__}, where={value.text}, over=...)"
            if value.type == "bool"
            else f"{op}({event.__name__}.{_a_number(event)}, ...)",
        )
    return event, value.node


def where_of(op: str, event: type[Event], where: object) -> spec.Expr | None:
    """The condition as data; None where there is none. Raises DefinitionError for anything but a condition on the fields of ``event``."""
    if where is None:
        return None
    if not isinstance(where, Expr) or where.type != "bool":
        found = f"{where.text}, {a(where.type)}" if isinstance(where, Expr) else shown(where)
        name = where.text if isinstance(where, Expr) else f"{event.__name__}.{_a_number(event)}"
        raise wrong(
            f"where= of {op}() is {found}, not a condition",
            write=f'where={name} == "..."' if isinstance(where, Expr) and where.type == "str" else f"where={name} > 0",
        )
    if owner_of(where, f"where={where.text}") is not event:
        (owner,) = where.owners
        raise wrong(
            f"{op}() aggregates {event.__name__}, but its where= looks at {owner.cls.__name__}: {where.text}",
            write=f"where= on fields of {event.__name__}",
        )
    return where.node


def owner_of(expr: Expr[Any], text: str) -> type[Event]:
    """The event whose fields an expression reads; ``text``: how the message calls it. Raises DefinitionError where it reads none."""
    if not expr.owners:
        raise wrong(f"{text} reads no field", write="an expression over a field: Departure.delay_min")
    owner = next(iter(expr.owners))
    if owner.kind != "event" or not issubclass(owner.cls, Event):
        kind = "features" if owner.kind == "feature" else "a request's fields"
        raise wrong(
            f"{text} aggregates {kind}; only events are aggregated",
            write="a field of an event; calculate with features in the Model",
        )
    return owner.cls


def _a_number(event: type[Event]) -> str:
    return next((field.name for field in event._definition.fields if field.type in ("int", "float")), "a_number")


def default_number(default: object) -> float | None:
    """Raises DefinitionError for anything but a finite number or None."""
    if default is None:
        return None
    if isinstance(default, bool) or not isinstance(default, int | float) or not math.isfinite(default):
        raise wrong(
            f"default={default!r} is no number",
            write="default=0.0, or no default= for undefined (the model imputes it)",
        )
    return float(default)
