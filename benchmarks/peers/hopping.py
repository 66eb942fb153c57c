"""The engines' second job as definitions: ten-minute windows that hop by one."""

from datetime import datetime

from featureflow import Entity, Event, Field, View, count, hopping, key, max, min, sum


class User(Entity[str]): ...


class Payment(Event, topic="payments", time="at", disorder="1m", keyed_by="user"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]


class UserNow(View, of=User):
    payments = count(Payment, over=(hopping("10m", every="1m"),))
    spent = sum(Payment.amount, over=(hopping("10m", every="1m"),))
    least = min(Payment.amount, over=(hopping("10m", every="1m"),))
    most = max(Payment.amount, over=(hopping("10m", every="1m"),))
