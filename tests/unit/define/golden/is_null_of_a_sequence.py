from datetime import datetime

from featureflow import Entity, Event, Field, Model, View, key, is_null, last_n


class User(Entity[str]): ...


class Payment(Event, topic="payments", time="at", disorder="10m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]
    country: Field[str | None]


class UserNow(View, of=User, ttl="30d"):
    amounts = last_n(Payment.amount, 8)


class Fraud(Model, deadline="20ms", drift=0.03):
    unknown = is_null(UserNow.amounts > 1)
    inputs = (unknown,)
