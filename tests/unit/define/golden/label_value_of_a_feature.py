from datetime import datetime

from featureflow import Entity, Event, Field, Label, Model, View, count, key


class User(Entity[str]): ...


class Shop(Entity[int]): ...


class Payment(Event, topic="payments", time="at", disorder="1m"):
    at: Field[datetime]
    user: Field[str] = key(User)


class Dispute(Event, topic="disputes", time="at", disorder="1d"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]
    lost: Field[bool | None]


class UserNow(View, of=User):
    payments = count(Payment, over=("1h",))


class Fraud(Model, deadline="20ms", drift=0.03):
    inputs = (UserNow.payments["1h"],)


class Lost(Label, of=Fraud, source=Dispute, entity="user", value=UserNow.payments["1h"] > 3, within="30d"): ...
