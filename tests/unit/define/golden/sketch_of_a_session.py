from datetime import datetime

from featureflow import Entity, Event, Field, View, approx_distinct, key, session


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    cancelled: Field[bool]
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier):
    often = approx_distinct(Departure.delay_min, over=(session(gap="30m"),))
