"""Aggregations that fade: ``decayed_sum decayed_mean decayed_count``."""

from __future__ import annotations

from typing import NoReturn, cast

from featureflow import limits
from featureflow.define import spec
from featureflow.define.aggregation import Aggregation, check_countable, default_number, value_of, where_of
from featureflow.define.event import Event
from featureflow.define.expression import Expr, Number, Truth, Windowless
from featureflow.define.place import Place, wrong
from featureflow.define.window import SECOND_US, Window, duration


class Decayed(Aggregation, Windowless):
    """An aggregation that looks back as far as its half-life says: one feature, which the finished View has as a column."""

    def feature(self) -> Expr[float]:
        """What the View's attribute becomes."""
        return self.column(self.windows[0], self.text)

    def refuse(self, at: Place | None = None) -> NoReturn:
        raise wrong(
            f"{self.text} is used in the body of its own View",
            write="a derived feature, in the body of the Model: View.name",
            at=at,
        )


def decayed_sum(
    value: Number, *, half_life: str, where: Truth | None = None, default: float | None = 0.0
) -> Expr[float]:
    """The sum in which an event of one ``half_life`` ago weighs half; of the last 40 half-lives."""
    event, node = value_of("decayed_sum", value)
    return _decayed("decayed_sum", event, node, half_life, where, default)


def decayed_mean(
    value: Number, *, half_life: str, where: Truth | None = None, default: float | None = None
) -> Expr[float]:
    """The mean in which an event of one ``half_life`` ago weighs half: the decayed sum divided by the decayed count."""
    event, node = value_of("decayed_mean", value)
    return _decayed("decayed_mean", event, node, half_life, where, default)


def decayed_count(
    source: type[Event], *, half_life: str, where: Truth | None = None, default: float | None = 0.0
) -> Expr[float]:
    """How many events, of which one of one ``half_life`` ago counts half; of the last 40 half-lives."""
    check_countable("decayed_count", source)
    return _decayed("decayed_count", source, None, half_life, where, default)


def _decayed(
    op: str, event: type[Event], node: spec.Expr | None, half_life: str, where: Truth | None, default: float | None
) -> Expr[float]:
    us = duration(half_life, f"half_life= of {op}()", "1h")
    if us < SECOND_US or us % SECOND_US:
        raise wrong(
            f'half_life="{half_life}" of {op}() is not a whole number of seconds',
            write=f'half_life="{us // SECOND_US or 1}s"',
        )
    length_us = limits.HALF_LIVES * us
    if length_us > limits.WINDOW_US:
        raise wrong(
            f"{op}() with a half-life of {half_life} looks {limits.HALF_LIVES} half-lives back, "
            f"{spec.spelled(length_us)}, and a window is at most {spec.spelled(limits.WINDOW_US)}",
            write=f'half_life="{spec.spelled(limits.WINDOW_US // limits.HALF_LIVES)}" or shorter',
        )
    window = Window(kind="sliding", length_us=length_us, text=spec.spelled(length_us))
    found = Decayed(op, event, node, where_of(op, event, where), (window,), default_number(default), half_life_us=us)
    return cast("Expr[float]", found)  # which it is from outside of the View
