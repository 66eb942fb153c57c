"""Aggregations that are approximate, with a stated error, since the exact value would take room for every event."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from featureflow.define import spec
from featureflow.define.aggregation import Windowed, default_number, event_of, where_of
from featureflow.define.event import Event
from featureflow.define.expression import Expr, Number, Truth
from featureflow.define.name import a, listed
from featureflow.define.place import wrong
from featureflow.define.window import Window, windows, written

Comparable: TypeAlias = "Expr[str | float | bool | datetime | None]"


def approx_distinct(
    value: Comparable, *, over: tuple[str | Window, ...], error: float = 0.02, where: Truth | None = None,
    default: float | None = 0.0,
) -> Windowed:  # fmt: skip
    """How many different values; ``error`` is the standard error, relative to the true number, at most."""
    return _sketched("approx_distinct", value, ("str", "int", "float", "bool", "datetime"), over, where, default, error, (0.005, 0.25))


def approx_quantile(
    value: Number, q: float, *, over: tuple[str | Window, ...], error: float = 0.01, where: Truth | None = None,
    default: float | None = None,
) -> Windowed:  # fmt: skip
    """The quantile ``q``, from 0 (the smallest) to 1 (the largest): ``error`` is how far it may be off, relative to the exact value."""
    if not _is_share(q, 0, 1):
        raise wrong(f"q={q!r} of approx_quantile() is no share from 0 to 1", write="approx_quantile(x, 0.95, ...)")
    return _sketched("approx_quantile", value, ("int", "float"), over, where, default, error, (0.001, 0.25), float(q))


def _sketched(
    op: str, value: object, types: tuple[spec.FieldType, ...], over: object, where: Truth | None, default: float | None,
    error: float, between: tuple[float, float], q: float = -1.0,
) -> Windowed:  # fmt: skip
    event, declared = asked(op, value, types, over, error, between)
    assert isinstance(value, Expr)
    return Windowed(op, event, value.node, where_of(op, event, where), declared, default_number(default), error=float(error), q=q)


def asked(
    op: str, value: object, types: tuple[spec.FieldType, ...], over: object, error: float, between: tuple[float, float]
) -> tuple[type[Event], tuple[Window, ...]]:
    """The event and the windows of an approximate aggregation. Raises DefinitionError for what it cannot be of."""
    event = event_of(op, value)
    assert isinstance(value, Expr)
    if value.type not in types:
        raise wrong(f"{op}({value.text}): {value.text} is {a(value.type)}, and {op} is of {listed(types)}", write=f"{op}(x, ...)")
    least, most = between
    if not _is_share(error, least, most):
        raise wrong(f"error={error!r} of {op}() is no share from {least:g} to {most:g}", write=f"error={4 * least:g}")
    declared = windows(over, op)
    for window in declared:
        if window.kind == "session" or window.exact:
            raise wrong(
                f"{op}() over {written(window)}: a sketch is kept in tiles of whole seconds, not session by session or event by event",
                write=f'{op}({value.text}, over=("1h",))',
            )
    return event, declared


def _is_share(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
