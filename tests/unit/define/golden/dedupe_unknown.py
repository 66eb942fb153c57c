from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key


class User(Entity[str]): ...


class Visit(Event, topic="visits", time="at", disorder="10m", dedupe="event", within="1h"):
    at: Field[datetime]
    user: Field[str] = key(User)
    event_id: Field[str]


class UserNow(View, of=User):
    visits = count(Visit, over=("1h",))
