from datetime import datetime

from featureflow import Entity, Event, Field, Model, View, first, is_null, key, last, last_n, max_by, min_by


class User(Entity[str]): ...

class Payment(Event, topic="payments", time="at", disorder="10m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]
    hour: Field[int | None]
    country: Field[str | None]
    online: Field[bool]

class UserNow(View, of=User, ttl="30d"):
    country = last(Payment.country, width=2, over=("1h", "6h"), default="??")
    began = first(Payment.at, over=("1h",))
    dearest = max_by(Payment.country, by=Payment.amount, over=("6h",))
    cheapest = min_by(Payment.amount * 2, by=Payment.at, over=("6h",))
    history = last_n((Payment.amount, Payment.country, Payment.hour), 3, width=2)
    places = last_n(Payment.country, 3)
    online = last(Payment.online, over=("1h",))

class Fraud(Model, deadline="20ms", drift=0.03):
    abroad = UserNow.country["1h"] != "DE"
    moved = UserNow.country["1h"] != UserNow.dearest["6h"]
    unknown = is_null(UserNow.dearest["6h"])
    inputs = (
        abroad, moved, unknown, UserNow.began["1h"], UserNow.online["1h"],
        UserNow.history[Payment.amount], UserNow.history[Payment.hour],
    )  # fmt: skip
