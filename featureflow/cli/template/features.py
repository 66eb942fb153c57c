"""What happened lately to each user, and whether a payment looks like fraud."""

from datetime import datetime

from featureflow import Entity, Event, Field, Model, Request, View, count, key, last_n, max, mean, sum


class User(Entity[str]): ...


class Payment(Event, topic="payments", time="at", disorder="1m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]
    declined: Field[bool]


class UserNow(View, of=User):
    payments = count(Payment, over=("1m", "10m", "1h"))
    declined = count(Payment, where=Payment.declined, over=("1h",))
    spent = sum(Payment.amount, over=("10m", "1h"))
    usual = mean(Payment.amount, over=("1h",))
    largest = max(Payment.amount, over=("1h",))


class UserHistory(View, of=User, ttl="90d"):
    amounts = last_n(Payment.amount, 5)


class Ask(Request):
    amount: Field[float]


class Fraud(Model, deadline="20ms", drift=0.05):
    compared = Ask.amount / UserNow.usual["1h"]
    inputs = (
        Ask.amount,
        compared,
        UserNow.payments["1m"],
        UserNow.payments["10m"],
        UserNow.declined["1h"],
        UserNow.spent["1h"],
        UserNow.largest["1h"],
        UserHistory.amounts,
    )
