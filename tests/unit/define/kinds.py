from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from featureflow import Entity, Event, Field, Request, Vector, View, count, is_null, key, last, max_by, mean


class User(Entity[str]): ...


class Visit(Event, topic="visits", time="at", disorder="10m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    channel: Field[Literal["web", "app"]]
    plan: Field[Literal["free", "pro"] | None]
    taste: Field[Vector[3]]
    mood: Field[Vector[2] | None]


class UserNow(View, of=User):
    visits = count(Visit, where=Visit.channel == "web", over=("1h",))
    taste = last(Visit.taste, over=("1h",))
    mood = max_by(Visit.mood, by=Visit.at, over=("1h",))
    moods = count(Visit, where=~is_null(Visit.mood) & (Visit.plan != "free"), over=("1h",))


class Ask(Request):
    channel: Field[Literal["web", "app"]]


apart = UserNow.taste["1h"] - UserNow.taste["1h"]
average = mean(UserNow.mood["1h"]) + 1
numbers: Sequence[float] = [1.0, 2.0, 3.0]
visit = Visit(at=datetime.now(UTC), user="u", channel="web", plan=None, taste=numbers, mood=(1.0, 2.0))
channel: Literal["web", "app"] = visit.channel
taste: Vector[3] = visit.taste
total: float = sum(visit.taste)
