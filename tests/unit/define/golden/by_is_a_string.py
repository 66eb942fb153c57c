from datetime import datetime

from featureflow import Entity, Event, Field, Model, View, key, max_by


class User(Entity[str]): ...


class Payment(Event, topic="payments", time="at", disorder="10m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]
    country: Field[str | None]


class UserNow(View, of=User):
    where_to = max_by(Payment.amount, by=Payment.country, over=("1h",))


class Fraud(Model, deadline="20ms", drift=0.03):
    inputs = (UserNow.where_to["1h"],)
