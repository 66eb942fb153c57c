from datetime import datetime

from featureflow import Entity, Event, Field, View, key, max


class Airport(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    origin: Field[str] = key(Airport)
    dest: Field[str] = key(Airport)
    delay_min: Field[float]


class AirportNow(View, of=Airport):
    worst = max(Departure.delay_min, over=("3h",))
