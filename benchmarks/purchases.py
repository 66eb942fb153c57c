"""The job of the scoring benchmark: three views of three entities, and a model over them."""

from datetime import datetime

from featureflow import Entity, Event, Field, Model, Request, View, count, key, max, mean, sum


class User(Entity[str]): ...


class Merchant(Entity[str]): ...


class Device(Entity[str]): ...


class Purchase(Event, topic="purchases", time="at", disorder="1m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    merchant: Field[str] = key(Merchant)
    device: Field[str] = key(Device)
    amount: Field[float]


class UserNow(View, of=User):
    purchases = count(Purchase, over=("10m", "1h"))
    spent = sum(Purchase.amount, over=("10m", "1h"))
    usual = mean(Purchase.amount, over=("1h",))


class MerchantNow(View, of=Merchant):
    purchases = count(Purchase, over=("10m", "1h"))
    usual = mean(Purchase.amount, over=("10m", "1h"))
    largest = max(Purchase.amount, over=("1h",))


class DeviceNow(View, of=Device):
    purchases = count(Purchase, over=("10m", "1h"))
    spent = sum(Purchase.amount, over=("1h",))


class Ask(Request):
    amount: Field[float]


class Odd(Model, deadline="1s", drift=0.1):
    compared = Ask.amount / UserNow.usual["1h"]
    inputs = (
        Ask.amount,
        compared,
        UserNow.purchases["10m"],
        UserNow.purchases["1h"],
        UserNow.spent["10m"],
        UserNow.spent["1h"],
        MerchantNow.purchases["10m"],
        MerchantNow.purchases["1h"],
        MerchantNow.usual["10m"],
        MerchantNow.usual["1h"],
        MerchantNow.largest["1h"],
        DeviceNow.purchases["10m"],
        DeviceNow.purchases["1h"],
        DeviceNow.spent["1h"],
    )
    defaults = {compared: 1.0}  # noqa: RUF012  # a definition, read once
