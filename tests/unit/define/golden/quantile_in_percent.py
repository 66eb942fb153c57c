from datetime import datetime

from featureflow import Entity, Event, Field, View, approx_quantile, key


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    cancelled: Field[bool]
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier):
    delay = approx_quantile(Departure.delay_min, 95, over=("1h",))
