"""What a storm folds: every way in which state is kept, of events that are written twice."""

from rides import ENTITIES, TIP, VIEWS

DEFINITIONS = '''"""Rides, of which copies are told, and tips."""

from datetime import datetime

from featureflow import (
    Entity, Event, Field, View, approx_distinct, count, key, last, last_n, max, mean, session, stddev, sum, top_k, tumbling,
)

''' + ENTITIES + '''
class Ride(Event, topic="{topic}-rides", time="at", disorder="1m", keyed_by="rider", dedupe="event_id", within="1m"):
    at: Field[datetime]
    rider: Field[str] = key(Rider)
    zone: Field[int | None] = key(Zone)
    fare: Field[float | None]
    cash: Field[bool]
    event_id: Field[str | None]
    payment: Field[str | None]

''' + TIP + VIEWS + '''
class RiderTaste(View, of=Rider):
    rides = count(Ride, over=("1h",))
    fares = approx_distinct(Ride.fare, error=0.1, over=("10m", "1h"))
    payments = top_k(Ride.payment, 3, width=12, over=("1h",))


class RiderSession(View, of=Rider, ttl="1h"):
    rides = count(Ride, over=("1h",))
    lately = sum(Ride.fare, over=(session(gap="5s", longest="10m"),))
    payments = last_n(Ride.payment, 3, width=12)


class RiderExact(View, of=Rider):
    rides = count(Ride, over=("1h",))
    lately = count(Ride, over=("2m", tumbling("5m")), exact=True)
    spent = sum(Ride.fare, over=(tumbling("5m"), tumbling("1h")))


class RiderPublic(View, of=Rider, publish=True):
    rides = count(Ride, over=("1h",))
    spent = sum(Ride.fare, over=("10m",))
    fare = last(Ride.fare, over=("1h",))
'''
