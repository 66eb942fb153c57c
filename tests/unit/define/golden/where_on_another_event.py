from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    cancelled: Field[bool]
    delay_min: Field[float | None]


class Arrival(Event, topic="arrivals", time="landed_at", disorder="10m"):
    landed_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    delay_min: Field[float]


class CarrierNow(View, of=Carrier):
    late = count(Departure, where=Arrival.delay_min > 15, over=("6h",))
