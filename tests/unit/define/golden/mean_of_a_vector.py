from datetime import datetime

from featureflow import Entity, Event, Field, Vector, View, key, mean


class Carrier(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    profile: Field[Vector[3]]
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier):
    profile = mean(Departure.profile, over=("1h",))
