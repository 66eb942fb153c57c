"""Every kind of window and aggregation, as type checkers must accept them."""

from datetime import datetime

from featureflow import (
    Alert,
    Ensemble,
    Entity,
    Event,
    Field,
    Label,
    Model,
    Request,
    View,
    approx_distinct,
    approx_quantile,
    count,
    decayed_count,
    decayed_mean,
    decayed_sum,
    hopping,
    key,
    len,
    lifetime,
    maximum,
    mean,
    minimum,
    rate,
    session,
    sum,
    time_since_last,
    top_k,
    tumbling,
    variance,
    when,
)


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier, ttl=None):
    flights = count(Departure, over=(hopping("10m", every="1m"), tumbling("1d", offset="6h"), session(gap="30m")))
    recent = mean(Departure.delay_min, over=("10m", hopping("1h", every="10m", offset="5m")), exact=True)
    spread = variance(Departure.delay_min, over=("1h", session("30m", longest="6h")))
    often = rate(Departure, over=("1h",), per="1m", where=Departure.delay_min > 15)
    ago = time_since_last(Departure, over=("6h",), default=21_600.0)
    total = sum(Departure.delay_min, over=("1h",))
    fading = decayed_sum(Departure.delay_min, half_life="1h")
    values = approx_distinct(Departure.carrier, over=("1d",))
    tail = approx_quantile(Departure.delay_min, 0.95, over=("1h", lifetime), error=0.05)
    frequent = top_k(Departure.carrier, 3, width=8, over=("1d",))
    rounded = top_k(Departure.delay_min, 3, over=("1d",), where=Departure.delay_min > 0)
    usual = decayed_mean(Departure.delay_min, half_life="1h", where=Departure.delay_min > 0, default=0.0)
    seen = decayed_count(Departure, half_life="30m")


class Late(Model, deadline="20ms", drift=0.03):
    share = CarrierNow.fading / maximum(CarrierNow.seen, 1.0)
    trend = CarrierNow.recent["10m"] - CarrierNow.recent[hopping("1h", every="10m", offset="5m")]
    late = mean(CarrierNow.rounded["1d"] > 15)
    own = sum(CarrierNow.frequent["1d"] == "UA") + len(CarrierNow.frequent["1d"])
    first_share = CarrierNow.frequent.counts["1d"] / CarrierNow.values["1d"]
    inputs = (
        late, own, first_share, CarrierNow.rounded.counts["1d"], CarrierNow.tail["1h"], share, trend,
        CarrierNow.usual, CarrierNow.flights[session(gap="30m")], CarrierNow.ago["6h"],
    )  # fmt: skip
    defaults = {share: 0.0, CarrierNow.usual: 1.0}  # noqa: RUF012  # a definition, read once


class Usual(Model, deadline="20ms", drift=0.03):
    inputs = (CarrierNow.usual,)


class Combined(Ensemble, deadline="30ms", when_missing="refuse"):
    busy = CarrierNow.flights[tumbling("1d", offset="6h")] > 100
    far = mean(CarrierNow.frequent["1d"] == "UA") > 0.5
    blended = Late.score * 0.7 + Usual.score * 0.3
    score = when(busy & ~far, 1.0, when(Late.score > 0.9, maximum(Late.score, Usual.score), blended))


class Softened(Ensemble, deadline="30ms"):
    score = minimum(Combined.score, 0.5)


class Ask(Request):
    hour: Field[float]
    delay: Field[float]


class Asked(Model, deadline="20ms", drift=0.03):
    inputs = (Ask.hour, Ask.delay, CarrierNow.usual)


class Often(Alert, model=Late, on=Departure, of=Carrier, average=0.3, above=0.87, until=0.8): ...


class Told(Alert, model=Asked, on=Departure, of=Carrier, role=Departure.carrier, above=1):
    context = {Ask.hour: Departure.delay_min, Ask.delay: Departure.delay_min * 2}  # noqa: RUF012  # a definition, read once


class Landed(Event, topic="landed", time="at", disorder="1d"):
    at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    delay_min: Field[float | None]
    diverted: Field[bool | None]


class Delayed(Label, of=Late, source=Landed, entity="carrier", value=Landed.delay_min > 15, within="1d", absent=False, over="30d"): ...


class Diverted(Label, of=Combined, source=Landed, entity="carrier", value=Landed.diverted, within="6h"): ...


class Doubtful(Alert, model=Combined, on=Departure, of=Carrier, above=0.9): ...
