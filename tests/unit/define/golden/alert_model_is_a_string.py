from datetime import datetime

from featureflow import Alert, Entity, Event, Field, Model, Request, View, count, key


class User(Entity[str]): ...


class Shop(Entity[int]): ...


class Payment(Event, topic="payments", time="at", disorder="1m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]
    note: Field[str]


class Visit(Event, topic="visits", time="at", disorder="1m"):
    at: Field[datetime]
    shop: Field[int] = key(Shop)


class UserNow(View, of=User):
    payments = count(Payment, over=("1h",))


class Ask(Request):
    amount: Field[float]
    hour: Field[int]


class Fraud(Model, deadline="20ms", drift=0.05):
    inputs = (Ask.amount, UserNow.payments["1h"])


class Hourly(Model, deadline="20ms", drift=0.05):
    inputs = (Ask.amount, Ask.hour)


class Suspicious(Alert, model="fraud", on=Payment, of=User, above=0.87): ...
