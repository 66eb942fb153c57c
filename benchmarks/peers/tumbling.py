"""The engines' first job as definitions: one-minute windows."""

from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key, max, min, sum, tumbling


class User(Entity[str]): ...


class Payment(Event, topic="payments", time="at", disorder="1m", keyed_by="user"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]


class UserNow(View, of=User):
    payments = count(Payment, over=(tumbling("1m"),))
    spent = sum(Payment.amount, over=(tumbling("1m"),))
    least = min(Payment.amount, over=(tumbling("1m"),))
    most = max(Payment.amount, over=(tumbling("1m"),))
