from datetime import datetime

from featureflow import Entity, Event, Field, View, key, top_k


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    cancelled: Field[bool]
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier):
    often = top_k(Departure.left_at, 3, over=("1h",))
