from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from featureflow import Entity, Event, Field, is_null, key, log1p, maximum, minimum
from featureflow import abs as absolute
from featureflow.define.expression import Expr
from featureflow.define.spec import Call, Column, Literal
from featureflow.errors import DefinitionError
from featureflow.kernel.expression import OPERATORS


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    cancelled: Field[bool]
    seats: Field[int]
    delay: Field[float | None]


class Arrival(Event, topic="arrivals", time="landed_at", disorder="10m"):
    landed_at: Field[datetime]
    delay: Field[float]


DELAY, SEATS, CANCELLED = Column("delay"), Column("seats"), Column("cancelled")


@pytest.mark.parametrize(
    ("expr", "node"),
    [
        (Departure.delay + 1, Call("add", (DELAY, Literal(1)))),
        (1 + Departure.delay, Call("add", (Literal(1), DELAY))),
        (Departure.delay - Departure.seats, Call("sub", (DELAY, SEATS))),
        (2.5 - Departure.delay, Call("sub", (Literal(2.5), DELAY))),
        (Departure.delay * 2, Call("mul", (DELAY, Literal(2)))),
        (2 * Departure.delay, Call("mul", (Literal(2), DELAY))),
        (Departure.delay / Departure.seats, Call("div", (DELAY, SEATS))),
        (1 / Departure.delay, Call("div", (Literal(1), DELAY))),
        (-Departure.delay, Call("neg", (DELAY,))),
        (abs(Departure.delay), Call("abs", (DELAY,))),
        (absolute(Departure.delay), Call("abs", (DELAY,))),
        (log1p(Departure.delay), Call("log1p", (DELAY,))),
        (minimum(Departure.delay, 3), Call("minimum", (DELAY, Literal(3)))),
        (maximum(0, Departure.delay), Call("maximum", (Literal(0), DELAY))),
        (Departure.delay == 3, Call("eq", (DELAY, Literal(3)))),
        (Departure.carrier == "UA", Call("eq", (Column("carrier"), Literal("UA")))),
        (Departure.carrier != "UA", Call("ne", (Column("carrier"), Literal("UA")))),
        (Departure.delay < 3, Call("lt", (DELAY, Literal(3)))),
        (Departure.delay <= 3, Call("le", (DELAY, Literal(3)))),
        (Departure.delay > 3, Call("gt", (DELAY, Literal(3)))),
        (Departure.delay >= 3, Call("ge", (DELAY, Literal(3)))),
        (
            Departure.left_at > datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
            Call("gt", (Column("left_at"), Literal(1_000_000))),
        ),
        (Departure.cancelled & (Departure.delay > 3), Call("and", (CANCELLED, Call("gt", (DELAY, Literal(3)))))),
        (Departure.cancelled | (Departure.delay > 3), Call("or", (CANCELLED, Call("gt", (DELAY, Literal(3)))))),
        (~Departure.cancelled, Call("not", (CANCELLED,))),
        (is_null(Departure.delay), Call("is_null", (DELAY,))),
    ],
)
def test_an_operator_becomes_a_call_that_the_kernel_knows(expr: Expr[Any], node: Call) -> None:
    assert expr.node == node
    assert node.op in OPERATORS
    assert len(node.args) == OPERATORS[node.op].arity


@pytest.mark.parametrize(
    "build",
    [
        lambda: Departure.carrier + 1,
        lambda: Departure.left_at - Departure.left_at,
        lambda: Departure.cancelled * 2,
        lambda: Departure.delay + "1",
        lambda: Departure.delay + None,
        lambda: Departure.delay + float("inf"),
        lambda: Departure.delay > float("nan"),
        lambda: Departure.delay > 2**53 + 1,
        lambda: Departure.delay > 10**400,
        lambda: Departure.delay > "15",
        lambda: Departure.carrier > "UA",
        lambda: Departure.cancelled > False,
        lambda: Departure.carrier == 3,
        lambda: Departure.delay == None,  # noqa: E711  # refused, with is_null as the answer
        lambda: Departure.left_at > datetime(2013, 1, 1),
        lambda: Departure.left_at > 3,
        lambda: ~Departure.delay,
        lambda: (Departure.delay > 3) & 1,
        lambda: 15 & Departure.cancelled,
        lambda: 15 | Departure.cancelled,
        lambda: Departure.delay + Arrival.delay,
        lambda: (Departure.delay > 3) & (Arrival.delay > 3),
        lambda: is_null(Departure.delay > 3),
        lambda: log1p(Departure.carrier),
        lambda: minimum(Departure.delay, object()),
    ],
)
def test_what_cannot_be_calculated_is_refused_when_it_is_written(build: Callable[[], object]) -> None:
    with pytest.raises(DefinitionError) as caught:
        build()
    assert caught.value.file == __file__


@pytest.mark.parametrize(
    "build",
    [
        lambda: (Departure.delay > 3) and Departure.cancelled,
        lambda: (Departure.delay > 3) or Departure.cancelled,
        lambda: not Departure.cancelled,
        lambda: 3 < Departure.delay < 5,
        lambda: Departure.carrier in ("UA", "AA"),
        lambda: bool(Departure.delay),
    ],
)
def test_a_column_is_never_true_or_false(build: Callable[[], object]) -> None:
    with pytest.raises(DefinitionError, match="neither true nor false"):
        build()


@pytest.mark.parametrize(
    ("build", "instead"),
    [
        (lambda: (Departure.delay > 3) and not Departure.cancelled, "(Departure.delay > 3) & ~Departure.cancelled"),
        (lambda: 3 < Departure.delay <= 5, "(3 < Departure.delay) & (Departure.delay <= 5)"),
        (lambda: Departure.carrier not in ("UA", "AA"), '~((Departure.carrier == "UA") | (Departure.carrier == "AA"))'),
        (
            lambda: operator.truth(Departure.delay),
            "(a > 1) & (b < 2), (a > 1) | (b < 2), ~(a > 1), with the parentheses",
        ),
    ],
)
def test_the_message_rewrites_the_line_with_operators_for_columns(build: Callable[[], object], instead: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        build()
    assert caught.value.write == instead


def test_an_expression_reads_as_it_was_written() -> None:
    assert repr((Departure.delay - 1) * 2 > -Departure.seats) == "((Departure.delay - 1) * 2) > (-Departure.seats)"
    assert repr(log1p(Departure.delay + 1)) == "log1p(Departure.delay + 1)"


def test_expressions_are_told_apart_by_identity_as_dict_keys() -> None:
    one, other = Departure.delay, Departure.delay
    assert {one: 1, other: 2}[one] == 1
