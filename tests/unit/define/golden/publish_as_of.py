from datetime import datetime

from featureflow import Entity, Event, Field, View, key, last_n


class User(Entity[str]): ...


class Click(Event, topic="clicks", time="at", disorder="10m", keyed_by="user"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]


class UserNow(View, of=User, ttl="1d", publish=True):
    as_of = last_n(Click.amount, 1)
