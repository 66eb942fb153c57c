from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from featureflow import Entity, Event, Field, key
from featureflow.clock import to_us
from featureflow.define import spec
from featureflow.errors import DefinitionError
from featureflow.kernel.decode import Decoder


class Carrier(Entity[str]): ...


class Tail(Entity[int]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m", future="1m", keyed_by="carrier"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    tail: Field[int | None] = key(Tail)
    gate: Field[str | None]
    cancelled: Field[bool]
    delay: Field[float | None]


NOW = datetime(2013, 12, 30, 22, 0, 0, 250, tzinfo=UTC)
GOOD: dict[str, Any] = {"left_at": NOW, "carrier": "UA", "tail": None, "gate": "B7", "cancelled": False, "delay": 3}


def test_an_event_class_becomes_a_source() -> None:
    source = Departure._definition
    assert source == spec.Source(
        name="departure", topic="departures", time_field="left_at", disorder_us=600_000_000, future_us=60_000_000, keyed_by="carrier",
        fields=(
            spec.Field(name="left_at", type="datetime"),
            spec.Field(name="carrier", type="str", entity="carrier", max_bytes=256),
            spec.Field(name="tail", type="int", nullable=True, entity="tail", max_bytes=256),
            spec.Field(name="gate", type="str", nullable=True),
            spec.Field(name="cancelled", type="bool"),
            spec.Field(name="delay", type="float", nullable=True),
        ),
    )  # fmt: skip


def test_an_instance_holds_plain_values_of_the_declared_types() -> None:
    event = Departure(**GOOD)
    assert (event.left_at, event.carrier, event.tail, event.cancelled) == (NOW, "UA", None, False)
    assert event.delay == 3.0
    assert isinstance(event.delay, float)
    assert event == Departure(**GOOD)
    assert event != Departure(**{**GOOD, "carrier": "AA"})
    assert repr(event).startswith("Departure(left_at=datetime.datetime(2013, 12, 30, 22, 0")


def test_to_json_is_one_object_with_instants_in_utc() -> None:
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    assert json.loads(Departure(**{**GOOD, "left_at": east}).to_json()) == {
        "left_at": "2013-12-30T22:00:00.000250Z", "carrier": "UA", "tail": None, "gate": "B7", "cancelled": False, "delay": 3.0,
    }  # fmt: skip


def test_what_is_produced_is_what_the_worker_decodes() -> None:
    full = Departure(**{**GOOD, "tail": -(2**53), "gate": 'B"7\n', "delay": math.nextafter(2.0**63, 0)})
    decoded = Decoder(Departure._definition).decode([Departure(**GOOD).to_json(), full.to_json()], [b"UA", b"UA"])
    assert decoded.refused == ()
    assert decoded.events.times_us.tolist() == [to_us(NOW)] * 2
    assert decoded.events.columns["gate"].tolist() == ["B7", 'B"7\n']
    assert decoded.events.columns["delay"].tolist() == [3.0, full.delay]
    assert decoded.events.columns["tail"].tolist()[1] == -(2**53)


def test_minus_zero_is_produced_as_zero() -> None:
    event = Departure(**{**GOOD, "delay": -0.0})
    assert event.delay is not None
    assert math.copysign(1, event.delay) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("left_at", "2013-12-30T22:00:00Z"),
        ("carrier", None),
        ("carrier", 3),
        ("tail", True),
        ("tail", "3"),
        ("tail", 3.0),
        ("cancelled", 1),
        ("delay", "3"),
        ("delay", False),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"^Departure\.{field} is "):
        Departure(**{**GOOD, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("left_at", datetime(2013, 12, 30)),
        ("carrier", ""),
        ("carrier", "é" * 129),
        ("gate", "x" * 1025),
        ("gate", "\ud800"),
        ("tail", 2**53 + 1),
        ("delay", math.nan),
        ("delay", -math.inf),
        ("delay", 2.0**63),
        ("delay", 10**400),
    ],
)
def test_a_value_that_would_be_a_dead_letter_is_refused_when_it_is_produced(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^Departure\.{field}"):
        Departure(**{**GOOD, field: value})


def test_none_is_refused_as_none_where_the_type_does_not_allow_it() -> None:
    with pytest.raises(TypeError, match=r"Departure\.carrier is None; it takes a str, and its type is not '\| None'"):
        Departure(**{**GOOD, "carrier": None})


def test_the_bounds_themselves_are_allowed() -> None:
    Departure(
        **{**GOOD, "carrier": "é" * 128, "gate": "x" * 1024, "tail": -(2**53), "delay": math.nextafter(2.0**63, 0)}
    )


def test_a_field_that_is_set_later_is_checked_too() -> None:
    event = Departure(**GOOD)
    event.delay = 4
    assert event.delay == 4.0
    with pytest.raises(TypeError, match=r"Departure\.delay"):
        event.delay = "late"  # type: ignore[assignment]  # that is the point


def test_missing_and_unknown_fields_are_named() -> None:
    with pytest.raises(TypeError, match="Departure has no field dely and needs delay"):
        Departure(**{**{k: v for k, v in GOOD.items() if k != "delay"}, "dely": 3})


@pytest.mark.parametrize("topic", ["", "a topic", "featureflow.predictions", "..", "t" * 250, 7])
def test_a_topic_is_one_that_kafka_takes_and_that_is_not_ours(topic: Any) -> None:
    with pytest.raises(DefinitionError, match="no topic of yours"):

        class Elsewhere(Event, topic=topic, time="at", disorder="1m"):
            at: Field[datetime]


def test_a_definition_outside_a_definitions_file_names_its_place_too() -> None:
    with pytest.raises(DefinitionError) as caught:

        class Late(Event, topic="late", time="at", disorder="soon"):
            at: Field[datetime]

    assert caught.value.file == __file__
