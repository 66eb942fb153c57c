"""Every kind of window and aggregation, as type checkers must accept them."""

from datetime import datetime

from featureflow import (
    Entity,
    Event,
    Field,
    Model,
    View,
    count,
    decayed_count,
    decayed_mean,
    decayed_sum,
    hopping,
    key,
    maximum,
    mean,
    rate,
    session,
    sum,
    time_since_last,
    tumbling,
    variance,
)


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier):
    flights = count(Departure, over=(hopping("10m", every="1m"), tumbling("1d", offset="6h"), session(gap="30m")))
    recent = mean(Departure.delay_min, over=("10m", hopping("1h", every="10m", offset="5m")), exact=True)
    spread = variance(Departure.delay_min, over=("1h", session("30m", longest="6h")))
    often = rate(Departure, over=("1h",), per="1m", where=Departure.delay_min > 15)
    ago = time_since_last(Departure, over=("6h",), default=21_600.0)
    total = sum(Departure.delay_min, over=("1h",))
    fading = decayed_sum(Departure.delay_min, half_life="1h")
    usual = decayed_mean(Departure.delay_min, half_life="1h", where=Departure.delay_min > 0, default=0.0)
    seen = decayed_count(Departure, half_life="30m")


class Late(Model, deadline="20ms", drift=0.03):
    share = CarrierNow.fading / maximum(CarrierNow.seen, 1.0)
    trend = CarrierNow.recent["10m"] - CarrierNow.recent[hopping("1h", every="10m", offset="5m")]
    inputs = (share, trend, CarrierNow.usual, CarrierNow.flights[session(gap="30m")], CarrierNow.ago["6h"])
    defaults = {share: 0.0, CarrierNow.usual: 1.0}  # noqa: RUF012  # a definition, read once
