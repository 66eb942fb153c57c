from datetime import datetime

from featureflow import Entity, Event, Field, Model, View, key, last_n


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    cancelled: Field[bool]
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier, ttl="30d"):
    last_delays = last_n(Departure.delay_min, 8)


class Late(Model, deadline="20ms", drift=0.03):
    inputs = (CarrierNow.last_delays + 1,)
