"""Each line that ends in the word wrong and a reason must be refused by mypy; no other line may be."""

from datetime import UTC, datetime
from typing import Literal

from featureflow import (
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
    decayed_sum,
    hopping,
    is_null,
    key,
    last,
    last_n,
    lifetime,
    log1p,
    max,
    max_by,
    mean,
    minimum,
    rate,
    session,
    time_since_last,
    top_k,
    tumbling,
    when,
)
from featureflow.define.expression import Expr


class Carrier(Entity[str]): ...


class Tail(Entity[int]): ...


class Weight(Entity[float]): ...  # wrong: an id is a str or an int


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    tail: Field[int | None] = key(Tail)
    pilot: Field[float] = key(Carrier)  # wrong: the id is a str
    cancelled: Field[bool]
    delay_min: Field[float | None]


class Gate(Event, topic="gates", time="at", disorder="10m"):
    at: Field[datetime]
    kind: Field[Literal["open", "shut"]]


Gate(at=datetime.now(UTC), kind="ajar")  # wrong: neither of the two


class Timeless(Event, topic="departures", disorder="10m"):  # wrong: no time=
    left_at: Field[datetime]


class CarrierNow(View, of=Carrier, ttl="30d"):
    flights = count(Departure, over=("1h", tumbling("1d"), lifetime))
    misspelt = mean(Departure.delai_min, over=("1h",))  # wrong: no such field
    of_a_string = mean(Departure.carrier, over=("1h",))  # wrong: a string
    no_window = mean(Departure.delay_min)  # wrong: over= is missing
    a_string_of_windows = mean(Departure.delay_min, over="1h")  # wrong: not a tuple
    no_condition = count(Departure, where=Departure.delay_min, over=("1h",))  # wrong: a number
    parentheses = count(Departure, where=Departure.delay_min > 15 & Departure.cancelled, over=("1h",))  # wrong: 15 & column
    a_field = count(Departure.delay_min, over=("1h",))  # wrong: events are counted
    since = count(Departure, where=Departure.left_at >= datetime(2013, 1, 1, tzinfo=UTC), over=("1h",))
    united = count(Departure, where=(Departure.carrier == "UA") & ~Departure.cancelled, over=("1h",))
    last_delays = last_n(Departure.delay_min, 8)
    airline = last(Departure.carrier, width=2, over=("1h",))
    slowest = max_by(Departure.carrier, by=Departure.delay_min, over=("1h",), default=0.0)  # wrong: a string's default is a string
    by_a_string = max_by(Departure.delay_min, by=Departure.carrier, over=("1h",))  # wrong: strings have no order here
    wide = last(Departure.delay_min, width=2, over=("1h",))  # wrong: a number has no width
    history = last_n((Departure.delay_min, Departure.carrier), 8)
    no_hop = count(Departure, over=(hopping("10m"),))  # wrong: every= is missing
    no_gap = count(Departure, over=(session(),))  # wrong: how long a pause ends it?
    rate_of_a_field = rate(Departure.delay_min, over=("1h",))  # wrong: events are counted
    since_a_field = time_since_last(Departure.delay_min, over=("1h",))  # wrong: of events
    decayed_over = decayed_sum(Departure.delay_min, over=("1h",))  # wrong: it has a half-life, no windows
    fading = decayed_sum(Departure.delay_min, half_life="1h")
    distinct_of_an_event = approx_distinct(Departure, over=("1h",))  # wrong: of values
    quantile_of_a_string = approx_quantile(Departure.carrier, 0.5, over=("1h",))  # wrong: of numbers
    exact_sketch = approx_distinct(Departure.carrier, over=("1h",), exact=True)  # wrong: event by event it is not kept
    often = top_k(Departure.carrier, 3, over=("1h",))
    without_k = top_k(Departure.carrier, over=("1h",))  # wrong: how many?
    width_of_a_number = top_k(Departure.delay_min, 3, over=("1h",), width=8)  # wrong: for strings
    windowed_last = last_n(Departure.delay_min, 8, over=("1h",))  # wrong: it has no windows


class Shouted(View, of=Carrier, publish="loudly"):  # wrong: true or false
    flights = count(Departure, over=("1h",))


class Unowned(View):  # wrong: no of=
    flights = count(Departure, over=("1h",))


class Ask(Request):
    hour: Field[int]
    airline: Field[str]


class Late(Model, deadline="20ms", drift=0.03, when_missing="refuse"):
    fine = log1p(CarrierNow.flights["1h"]) / minimum(CarrierNow.flights[lifetime], 3)
    whole = CarrierNow.flights - 1  # wrong: which window?
    sequence = CarrierNow.last_delays["1h"]  # wrong: it has no windows
    smaller = minimum(1.0, CarrierNow.last_delays > 3)  # wrong: true and false, not numbers
    scalar: Expr[float] = CarrierNow.last_delays + 1  # wrong: still a sequence
    known: Expr[bool] = is_null(CarrierNow.last_delays)  # wrong: still a sequence
    texts = max(CarrierNow.history[Departure.carrier])  # wrong: strings
    texts_and_one = CarrierNow.history[Departure.carrier] + 1  # wrong: strings
    conditions = CarrierNow.last_delays & (CarrierNow.last_delays > 3)  # wrong: numbers
    windowed = mean(CarrierNow.last_delays, over=("1h",))  # wrong: it has no windows
    typical = mean(CarrierNow.last_delays) > CarrierNow.flights["1h"]
    spelled = Ask.airline + 1  # wrong: a string
    united = CarrierNow.airline["1h"] == "UA"
    counted = CarrierNow.airline["1h"] + 1  # wrong: a string
    ordered = CarrierNow.airline["1h"] > "UA"  # wrong: strings have no order here
    is_often = CarrierNow.often["1h"] == "UA"
    text_and_one = CarrierNow.often["1h"] + 1  # wrong: strings
    text_share = CarrierNow.often.counts["1h"] / 2
    no_window = CarrierNow.often + 1  # wrong: which window?
    faded = CarrierNow.fading / 2
    bracketed = CarrierNow.fading["1h"]  # wrong: one feature, no windows
    inputs = (fine, united, typical, CarrierNow.history[Departure.delay_min], CarrierNow.last_delays, Ask.hour)
    defaults = {fine: 0.0, CarrierNow.last_delays: 0.0}  # noqa: RUF012  # a definition, read once


class Unsure(Model, deadline="20ms", drift=0.03, when_missing="shrug"):  # wrong: default or refuse
    inputs = (Ask.airline, CarrierNow.airline["1h"])  # wrong: strings


class Combined(Ensemble, deadline="20ms"):
    busy = CarrierNow.flights["1h"] > 10
    score = when(busy & (Late.score > 0.9), 1.0, Late.score * 0.7 + 0.1)


class Doubtful(Ensemble, deadline="20ms"):
    counted = when(CarrierNow.flights["1h"], 1.0, Late.score)  # wrong: a number is no condition
    texts = when(Late.score > 0.5, "late", 0.0)  # wrong: a string is no number
    whole = Late * 0.7  # wrong: the class, not its score
    score = Late  # wrong: the class, not its score


class Unhurried(Ensemble):  # wrong: no deadline=
    score = Combined.score


class Cancelled(Label, of=Combined, source=Departure, entity="carrier", value=Departure.cancelled, within="1d"): ...


class Numbered(Label, of=Late, source=Departure, entity="carrier", value=Departure.delay_min, within="1d"): ...  # wrong: a number
class Unlimited(Label, of=Late, source=Departure, entity="carrier", value=Departure.cancelled): ...  # wrong: no within=
class OfAView(Label, of=CarrierNow, source=Departure, entity="carrier", value=Departure.cancelled, within="1d"): ...  # wrong: no model


now = datetime.now(UTC)
good = Departure(left_at=now, carrier="UA", tail=None, pilot=1.0, cancelled=False, delay_min=3.5)
minutes: float | None = good.delay_min
record: bytes = good.to_json()
Departure(left_at=now, tail=None, pilot=1.0, cancelled=False, delay_min=3.5)  # wrong: no carrier
Departure(left_at="now", carrier="UA", tail=None, pilot=1.0, cancelled=False, delay_min=3.5)  # wrong: a string
