from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key


class User(Entity[str]): ...


class Click(Event, topic="clicks", time="at", disorder="10m"):
    at: Field[datetime]
    user: Field[str] = key(User)


class UserNow(View, of=User, publish=True):
    clicks = count(Click, over=("1h",))
