from datetime import datetime
from typing import Literal

from featureflow import Entity, Event, Field, Vector, View, count, key


class User(Entity[str]): ...


class Visit(Event, topic="visits", time="at", disorder="10m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    channel: Field[Literal[1, 2]]
    taste: Field[Vector[3]]


class UserNow(View, of=User):
    visits = count(Visit, where=Visit.channel == "web", over=("1h",))
