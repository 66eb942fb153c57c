from datetime import datetime

from featureflow import Ensemble, Entity, Event, Field, Model, View, count, key, last, last_n


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier, ttl="30d"):
    flights = count(Departure, over=("1h",))
    airline = last(Departure.carrier, width=2, over=("1h",))
    delays = last_n(Departure.delay_min, 8)


class Late(Model, deadline="20ms", drift=0.03):
    inputs = (CarrierNow.flights["1h"],)


class Both(Ensemble, deadline="20ms", stale_for="5m"):
    score = Late.score
