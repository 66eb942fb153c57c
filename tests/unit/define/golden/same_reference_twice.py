from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key, max, mean


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    cancelled: Field[bool]
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier):
    flights = count(Departure, over=("1h", "6h"))
    delay = mean(Departure.delay_min, over=("1h", "6h"))


class Carrier_Now(View, of=Carrier):
    worst = max(Departure.delay_min, over=("1h",))
