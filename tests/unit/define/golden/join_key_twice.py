from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key


class Airport(Entity[str]): ...


class Origin(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    origin: Field[str] = key(Airport)
    dest: Field[str] = key(Airport)
    region: Field[str] = key(Origin)


class AirportNow(View, of=Airport, role=Departure.origin):
    flights = count(Departure, over=("3h",))


class OriginNow(View, of=Origin):
    flights = count(Departure, over=("3h",))
