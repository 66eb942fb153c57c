from datetime import datetime

from featureflow import Entity, Event, Field, Model, View, key, last


class User(Entity[str]): ...


class Payment(Event, topic="payments", time="at", disorder="10m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]
    country: Field[str | None]


class UserNow(View, of=User):
    country = last(Payment.country, width=500, over=("1h",))


class Fraud(Model, deadline="20ms", drift=0.03):
    inputs = (UserNow.country["1h"] == "DE",)
