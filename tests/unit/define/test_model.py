from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pytest

from featureflow import Entity, Event, Field, Model, Request, Vector, View, count, is_null, key, last_n, mean
from featureflow.define import spec
from featureflow.errors import DefinitionError
from featureflow.kernel.expression import evaluate


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    delay: Field[float | None]


class CarrierNow(View, of=Carrier, ttl="30d"):
    flights = count(Departure, over=("1h",))
    delay = mean(Departure.delay, over=("1h", "6h"))
    delays = last_n(Departure.delay, 8)


class Ask(Request):
    hour: Field[int]
    airline: Field[str]
    wet: Field[bool]


class Late(Model, deadline="20ms", drift=0.03):
    trend = CarrierNow.delay["1h"] - CarrierNow.delay["6h"]
    steep = trend / 60 > 1
    ours = Ask.airline == "UA"
    unknown = is_null(CarrierNow.delay["1h"])
    recent = CarrierNow.delays
    inputs = (trend, steep, ours, unknown, recent, CarrierNow.flights["1h"], Ask.hour, Ask.wet)
    defaults = {trend: 0, CarrierNow.flights["1h"]: 1.0, recent: -1.0}  # noqa: RUF012  # a definition, read once


def test_inputs_are_named_and_ordered_as_written() -> None:
    assert [(one.name, one.size, one.default) for one in Late._definition.inputs] == [
        ("trend", 1, 0.0),
        ("steep", 1, None),
        ("ours", 1, None),
        ("unknown", 1, None),
        ("recent", 8, -1.0),
        ("carrier_now:flights_1h", 1, 1.0),
        ("hour", 1, None),
        ("wet", 1, None),
    ]


def test_inputs_read_features_and_request_fields_by_reference() -> None:
    trend, steep, ours, *_, recent, flights, hour, _ = (one.expr for one in Late._definition.inputs)
    assert trend == spec.Call("sub", (spec.Column("carrier_now:delay_1h"), spec.Column("carrier_now:delay_6h")))
    assert steep == spec.Call("gt", (spec.Call("div", (trend, spec.Literal(60))), spec.Literal(1)))
    assert ours == spec.Call("eq", (spec.Column("ask:airline"), spec.Literal("UA")))
    assert recent == spec.Column("carrier_now:delays")
    assert flights == spec.Column("carrier_now:flights_1h")
    assert hour == spec.Column("ask:hour")


class Seen(Request):
    hour: Field[int]
    image: Field[Vector[12]]


class Clicks(Model, deadline="20ms", drift=0.03):
    lasting = CarrierNow.delays / 60
    there = ~is_null(CarrierNow.delays)
    inputs = {  # noqa: RUF012  # a definition, read once
        "dense": (CarrierNow.flights["1h"], Seen.hour), "history": (CarrierNow.delays, lasting), "mask": there, "image": Seen.image,
    }  # fmt: skip
    defaults = {CarrierNow.delays: 0.0, lasting: 0.0}  # noqa: RUF012  # a definition, read once


def test_inputs_can_be_tensors_by_name() -> None:
    made = Clicks._definition
    assert [(one.name, one.size, one.default) for one in made.inputs] == [
        ("carrier_now:flights_1h", 1, None), ("hour", 1, None), ("carrier_now:delays", 8, 0.0), ("lasting", 8, 0.0), ("there", 8, None),
        ("image", 12, None),
    ]  # fmt: skip
    assert made.tensors == (
        spec.Tensor(name="dense", inputs=("carrier_now:flights_1h", "hour")),
        spec.Tensor(name="history", inputs=("carrier_now:delays", "lasting")), spec.Tensor(name="mask", inputs=("there",)),
        spec.Tensor(name="image", inputs=("image",)),
    )  # fmt: skip
    assert Late._definition.tensors == ()


def test_a_mask_says_which_values_of_a_sequence_are_there() -> None:
    columns = {"carrier_now:delays": np.array([[3.0, np.nan], [np.nan, np.nan]])}
    there = next(one for one in Clicks._definition.inputs if one.name == "there")
    assert evaluate(there.expr, columns).tolist() == [[1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(("inputs", "said"), [
    ({}, r"has inputs = \{\}, not a tuple"), ({"dense": ()}, "has the tensor 'dense' of no inputs"),
    ({3: (Seen.hour,)}, "has the tensor 3;"),
    ({"x": (Seen.hour, CarrierNow.delays)}, "the tensor 'x' of Odd is of inputs of several lengths: hour has 1, carrier_now:delays has 8"),
    ({"a": Seen.hour, "b": Seen.hour}, "two inputs named hour"),
])
def test_tensors_that_cannot_be_made_are_refused(inputs: object, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        type("Odd", (Model,), {"inputs": inputs}, deadline="20ms", drift=0.03)


def test_a_sequence_without_a_name_of_its_own_is_named_by_its_reference() -> None:
    class Bare(Model, deadline="20ms", drift=0, when_missing="refuse"):
        inputs = (CarrierNow.delays,)

    assert Bare._definition == spec.Model(
        name="bare", deadline_us=20_000, drift=0.0, when_missing="refuse",
        inputs=(spec.Input(name="carrier_now:delays", expr=spec.Column("carrier_now:delays"), size=8),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drift": 0.1000001}, "drift=0.1000001"),
        ({"drift": -0.1}, "drift=-0.1"),
        ({"drift": float("nan")}, "drift=nan"),
        ({"drift": True}, "drift=True"),
        ({"deadline": "0ms"}, "between 1ms and 60s"),
        ({"deadline": "61s"}, "between 1ms and 60s"),
        ({"when_missing": "shrug"}, "when_missing='shrug'"),
        ({"max_age": "0s"}, "max_age='0s' of Wrong is not between 1ms and 60m"),
        ({"max_age": "61m"}, "max_age='61m' of Wrong is not between 1ms and 60m"),
        ({"max_age": "soon"}, "max_age= of Wrong is 'soon'"),
        ({"stale_for": "25h"}, "stale_for='25h' of Wrong is not between 1ms and 1440m"),
        ({"max_age": "10s", "stale_for": "5s"}, "stale_for='5s' of Wrong is shorter than max_age='10s'"),
        ({"cache_scores": -1}, "cache_scores=-1"),
        ({"cache_scores": True}, "cache_scores=True"),
        ({"cache_scores": 1_000_001}, "cache_scores=1000001"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):

        class Wrong(Model, **{"deadline": "20ms", "drift": 0.03, **options}):
            inputs = (Ask.hour,)


def test_state_and_scores_of_before_are_taken_where_a_model_says_so() -> None:
    class Kept(Model, deadline="20ms", drift=0, max_age="1s", stale_for="10m", cache_scores=10_000):
        inputs = (Ask.hour,)

    class Fresh(Model, deadline="20ms", drift=0):
        inputs = (Ask.hour,)

    told = Kept._definition, Fresh._definition
    assert [(one.max_age_us, one.stale_for_us, one.cache_scores) for one in told] == [(1_000_000, 600_000_000, 10_000), (0, 0, 0)]


def test_the_largest_drift_is_allowed() -> None:
    class Loose(Model, deadline="60s", drift=0.1):
        inputs = (Ask.hour,)

    assert Loose._definition.drift == 0.1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": ()},
        {"inputs": [Ask.hour]},
        {"inputs": ("hour",)},
        {"inputs": (CarrierNow.delay,)},
        {"inputs": (CarrierNow,)},
        {"inputs": (Ask.airline,)},
        {"inputs": (Ask.hour, Ask.hour)},
        {"inputs": (Ask.hour + 1,)},
        {"inputs": (Departure.delay,)},
        {"inputs": (Ask.hour,), "hour": Ask.hour * 2, "extra": 3},
        {"inputs": (Ask.hour,), "delay": CarrierNow.delay},
        {"inputs": (Ask.hour,), "flights": count(Departure, over=("1h",))},
        {"inputs": (Ask.hour,), "late": Departure.delay > 3},
        {"inputs": (Ask.hour,), "Trend": Ask.hour * 2},
        {"inputs": (Ask.hour,), "defaults": {Ask.wet: 0.0}},
        {"inputs": (Ask.hour,), "defaults": {"hour": 0.0}},
        {"inputs": (Ask.hour,), "defaults": {Ask.hour: None}},
        {"inputs": (Ask.hour,), "defaults": {Ask.hour: float("nan")}},
        {"inputs": (Ask.hour,), "defaults": {Ask.hour: 0.0, Ask.hour: 1.0}},
        {"inputs": (Ask.hour,), "defaults": [0.0]},
    ],
)
def test_a_body_that_does_not_say_what_goes_in_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        type("Wrong", (Model,), body, deadline="20ms", drift=0.03)  # type: ignore[call-overload]  # class keywords
