from datetime import datetime

from featureflow import Entity, Event, Field, Model, View, count, key, mean


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    cancelled: Field[bool]
    delay_min: Field[float | None]


class Late(Model, deadline="20ms", drift=0.03):
    inputs = (CarrierNow.delay["1h"],)


class CarrierNow(View, of=Carrier):
    flights = count(Departure, over=("1h", "6h"))
    delay = mean(Departure.delay_min, over=("1h", "6h"))
