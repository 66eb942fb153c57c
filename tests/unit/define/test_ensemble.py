"""An ensemble is a model: of members' inputs, and of what its rules read."""

from __future__ import annotations

from datetime import datetime

from featureflow import Ensemble, Entity, Event, Field, Model, Request, View, count, key, last_n, mean, when
from featureflow.define import spec


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    delay: Field[float | None]


class CarrierNow(View, of=Carrier, ttl="30d"):
    flights = count(Departure, over=("1h",))
    delay = mean(Departure.delay, over=("1h",))
    delays = last_n(Departure.delay, 8)


class Ask(Request):
    hour: Field[int]
    airline: Field[str]


class Late(Model, deadline="20ms", drift=0.03):
    inputs = (CarrierNow.delay["1h"], CarrierNow.delays, Ask.hour)
    defaults = {CarrierNow.delay["1h"]: 0.0}  # noqa: RUF012  # a definition, read once


class Other(Model, deadline="20ms", drift=0.03):
    inputs = (CarrierNow.flights["1h"],)


class Combined(Ensemble, deadline="30ms", when_missing="refuse"):
    busy = (CarrierNow.flights["1h"] > 10) & (Ask.airline == "UA")
    blended = Late.score * 0.7 + Other.score * 0.3
    score = when(busy | (Late.score > 0.9), CarrierNow.delay["1h"] / 60, blended)


class Softened(Ensemble, deadline="30ms"):
    score = Combined.score * 0.5


class Ruled(Ensemble, deadline="30ms"):
    score = when(mean(CarrierNow.delays) > 15, 1.0, 0.0)


MADE = Combined._definition


def test_the_members_inputs_come_first_then_what_the_rules_read() -> None:
    assert [(one.name, one.size, one.default) for one in MADE.inputs] == [
        ("late.carrier_now:delay_1h", 1, 0.0),
        ("late.carrier_now:delays", 8, None),
        ("late.hour", 1, None),
        ("other.carrier_now:flights_1h", 1, None),
        ("rule.busy", 1, None),
        ("rule.1", 1, None),
    ]
    assert (MADE.name, MADE.deadline_us, MADE.when_missing) == ("combined", 30_000, "refuse")


def test_what_is_of_features_alone_is_an_input_and_what_is_of_scores_is_calculated_from_them() -> None:
    assert MADE.ensemble is not None
    busy, blended = MADE.ensemble.rules
    assert busy == spec.Rule(name="busy", expr=spec.Column("rule.busy"))
    late, other = spec.Column("late.score"), spec.Column("other.score")
    mixed = spec.Call("add", (spec.Call("mul", (late, spec.Literal(0.7))), spec.Call("mul", (other, spec.Literal(0.3)))))
    assert blended.expr == mixed
    held = spec.Call("or", (spec.Column("rule.busy"), spec.Call("gt", (late, spec.Literal(0.9)))))
    assert MADE.ensemble.score == spec.Call("when", (held, spec.Column("rule.1"), mixed))
    assert MADE.ensemble.members == ("late", "other")


def test_an_ensemble_in_another_stands_for_its_expression() -> None:
    softened = Softened._definition.ensemble
    assert softened is not None
    assert softened.members == ("late", "other")
    assert "busy" not in [rule.name for rule in softened.rules]


def test_rules_need_no_model() -> None:
    ruled = Ruled._definition
    assert ruled.ensemble is not None
    assert ruled.ensemble.members == ()
    assert [one.name for one in ruled.inputs] == ["rule.0"]


def test_the_version_follows_what_is_calculated() -> None:
    assert MADE.ensemble is not None
    again = spec.Ensemble(members=MADE.ensemble.members, rules=MADE.ensemble.rules, score=MADE.ensemble.score)
    other = spec.Ensemble(members=MADE.ensemble.members, rules=MADE.ensemble.rules, score=spec.Column("late.score"))
    assert again.version == MADE.ensemble.version != other.version
