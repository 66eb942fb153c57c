from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from featureflow import (
    Entity,
    Event,
    Field,
    View,
    count,
    key,
    last,
    last_n,
    lifetime,
    max,
    mean,
    min,
    stddev,
    sum,
    tumbling,
)
from featureflow.define import spec
from featureflow.errors import DefinitionError


class Airport(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    origin: Field[str] = key(Airport)
    dest: Field[str] = key(Airport)
    delay: Field[float | None]


class Arrival(Event, topic="arrivals", time="landed_at", disorder="10m"):
    landed_at: Field[datetime]
    dest: Field[str] = key(Airport)
    delay: Field[float | None]


class OriginNow(View, of=Airport, role=Departure.origin, ttl="30d"):
    flights = count(Departure, over=("1h", tumbling("1d"), lifetime))
    total = sum(Departure.delay, over=("1h",), default=None)
    typical = mean(Departure.delay, over=("1h",), where=Departure.delay > 0)
    best = min(Departure.delay, over=("1h",), default=0)
    worst = max(Departure.delay / 60, over=("1h",))
    spread = stddev(Departure.delay, over=("1h",))
    newest = last(Departure.delay, over=("1h",))
    newest_8 = last_n(Departure.delay, 8)


def test_features_are_named_by_aggregation_and_window() -> None:
    assert [(feature.reference, feature.size) for feature in OriginNow._definition.features] == [
        ("origin_now:flights_1h", 1),
        ("origin_now:flights_tumbling_1d", 1),
        ("origin_now:flights_lifetime", 1),
        ("origin_now:total_1h", 1),
        ("origin_now:typical_1h", 1),
        ("origin_now:best_1h", 1),
        ("origin_now:worst_1h", 1),
        ("origin_now:spread_1h", 1),
        ("origin_now:newest_1h", 1),
        ("origin_now:newest_8", 8),
    ]


def test_a_view_says_its_key_its_ttl_and_what_it_aggregates() -> None:
    view = OriginNow._definition
    assert (view.name, view.entity, view.join_key, view.keys) == (
        "origin_now",
        "airport",
        "origin",
        {"departure": "origin"},
    )
    assert view.ttl_us == 30 * 86_400_000_000
    by_name = {aggregation.name: aggregation for aggregation in view.aggregations}
    assert by_name["flights"].value is None
    assert by_name["typical"].where == spec.Call("gt", (spec.Column("delay"), spec.Literal(0)))
    assert by_name["worst"].value == spec.Call("div", (spec.Column("delay"), spec.Literal(60)))
    assert (by_name["newest_8"].bare, by_name["newest_8"].windows) == (True, (lifetime,))


def test_count_and_sum_are_zero_where_nothing_happened_and_others_are_undefined() -> None:
    defaults = {aggregation.name: aggregation.default for aggregation in OriginNow._definition.aggregations}
    assert defaults == {
        "flights": 0.0, "total": None, "typical": None, "best": 0.0, "worst": None, "spread": None, "newest": None, "newest_8": None,
    }  # fmt: skip

    class Plain(View, of=Airport, role=Departure.dest):
        total = sum(Departure.delay, over=("1h",))

    assert Plain._definition.aggregations[0].default == 0.0


def test_one_view_may_aggregate_several_sources_each_by_its_own_key() -> None:
    class Traffic(View, of=Airport, role=(Departure.origin, Arrival.dest)):
        out = count(Departure, over=("1h",))
        into = count(Arrival, over=("1h",))

    assert Traffic._definition.keys == {"departure": "origin", "arrival": "dest"}
    assert Traffic._definition.sources == ("departure", "arrival")


def test_without_a_role_a_request_names_the_entity() -> None:
    class DestNow(View, of=Airport):
        into = count(Arrival, over=("1h",))

    assert DestNow._definition.join_key == "airport"
    assert DestNow._definition.keys == {"arrival": "dest"}


def test_ttl_none_is_a_choice_and_no_ttl_is_not() -> None:
    class Kept(View, of=Airport, ttl=None):
        into = count(Arrival, over=(lifetime,))

    assert Kept._definition.ttl_us is None
    with pytest.raises(DefinitionError, match="must say how long"):

        class Forgotten(View, of=Airport):
            into = count(Arrival, over=(lifetime,))

    with pytest.raises(DefinitionError, match="has no effect"):

        class Idle(View, of=Airport, ttl="1d"):
            into = count(Arrival, over=("1h",))


def test_an_aggregation_belongs_to_one_name_of_one_view() -> None:
    shared = count(Arrival, over=("1h",))

    class One(View, of=Airport):
        into = shared

    with pytest.raises(DefinitionError, match=r"One\.into is given a second name"):

        class Other(View, of=Airport):
            into = shared


@pytest.mark.parametrize(
    "role",
    ["origin", Departure.delay, Departure.delay + 1, (Departure.origin, Departure.dest), (Arrival.dest,), Departure],
)
def test_a_role_is_one_key_field_of_each_event_that_is_aggregated(role: Any) -> None:
    with pytest.raises(DefinitionError, match="role="):

        class Wrong(View, of=Airport, role=role):
            out = count(Departure, over=("1h",))


@pytest.mark.parametrize("n", [0, 65, -1, 2.0, True, "8"])
def test_last_n_is_bounded(n: Any) -> None:
    with pytest.raises(DefinitionError, match="whole number from 1 to 64"):
        last_n(Arrival.delay, n)


def test_the_number_of_features_is_bounded() -> None:
    body = {f"n{i}": count(Arrival, over=("1h", "2h", "3h")) for i in range(171)}
    with pytest.raises(DefinitionError, match="513 features; the limit is 512"):
        type("Wide", (View,), body, of=Airport)  # type: ignore[call-overload]  # class keywords, as the class statement passes them


def test_a_feature_is_a_column_named_by_its_reference() -> None:
    assert OriginNow.flights["1h"].node == spec.Column("origin_now:flights_1h")
    assert OriginNow.flights[lifetime].node == spec.Column("origin_now:flights_lifetime")
    assert OriginNow.flights[tumbling("1d")].node == spec.Column("origin_now:flights_tumbling_1d")
    assert repr(OriginNow.flights["1h"]) == 'OriginNow.flights["1h"]'


@pytest.mark.parametrize(
    ("window", "meant"),
    [("60m", '"1h"'), ("1d", 'tumbling("1d")'), ("lifetime", "lifetime"), (tumbling("2d"), '"1h"'), (0, '"1h"')],
)
def test_an_unknown_window_is_answered_with_the_nearest(window: Any, meant: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        OriginNow.flights[window]
    assert caught.value.write.startswith(f"OriginNow.flights[{meant}]")
