"""The job of the ingest benchmark: payments of users, three sliding windows, five aggregations of one amount."""

from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key, max, mean, min, sum

OVER = ("10m", "1h", "6h")


class User(Entity[str]): ...


class Payment(Event, topic="payments", time="at", disorder="1m", keyed_by="user"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]


class UserNow(View, of=User):
    payments = count(Payment, over=OVER)
    spent = sum(Payment.amount, over=OVER)
    usual = mean(Payment.amount, over=OVER)
    smallest = min(Payment.amount, over=OVER)
    largest = max(Payment.amount, over=OVER)
