from datetime import datetime

from featureflow import (
    Entity,
    Event,
    Field,
    Model,
    View,
    abs,
    approx_distinct,
    approx_quantile,
    diff,
    first,
    is_null,
    key,
    last,
    last_n,
    len,
    log1p,
    max,
    max_by,
    mean,
    min,
    min_by,
    minimum,
    sum,
    top_k,
)


class User(Entity[str]): ...

class Payment(Event, topic="payments", time="at", disorder="10m", keyed_by="user"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]
    hour: Field[int | None]
    country: Field[str | None]
    online: Field[bool]

class UserNow(View, of=User, ttl="30d", publish=True):
    country = last(Payment.country, width=2, over=("1h", "6h"), default="??")
    began = first(Payment.at, over=("1h",))
    dearest = max_by(Payment.country, by=Payment.amount, over=("6h",))
    cheapest = min_by(Payment.amount * 2, by=Payment.at, over=("6h",))
    history = last_n((Payment.amount, Payment.country, Payment.hour), 3, width=2)
    places = last_n(Payment.country, 3)
    online = last(Payment.online, over=("1h",))
    countries = approx_distinct(Payment.country, over=("1d",), error=0.05)
    usual = approx_quantile(Payment.amount, 0.5, over=("1d",), default=0.0)
    often = top_k(Payment.country, 3, width=2, over=("1d",))
    sums = top_k(Payment.amount * 2, 2, over=("1d", "6h"), error=0.1, where=Payment.online)

class Fraud(Model, deadline="20ms", drift=0.03):
    abroad = UserNow.country["1h"] != "DE"
    moved = UserNow.country["1h"] != UserNow.dearest["6h"]
    unknown = is_null(UserNow.dearest["6h"])
    amounts = log1p(UserNow.history[Payment.amount])
    steps = abs(diff(amounts))
    z = (UserNow.history[Payment.amount] - mean(UserNow.history[Payment.amount])) / 10
    large = (UserNow.history[Payment.amount] > 100) & (UserNow.history[Payment.country] != "DE")
    share = mean(large)
    how_many = len(UserNow.places) - sum(UserNow.places == "DE")
    spread = max(minimum(amounts, 8.0)) - min(amounts)
    at_home = UserNow.often["1d"] == "DE"
    usually = UserNow.often.counts["1d"] / UserNow.countries["1d"]
    inputs = (
        at_home, usually, UserNow.sums["6h"], UserNow.sums.counts["1d"], UserNow.usual["1d"],
        steps, z, large, share, how_many, spread,
        abroad, moved, unknown, UserNow.began["1h"], UserNow.online["1h"],
        UserNow.history[Payment.amount], UserNow.history[Payment.hour],
    )  # fmt: skip
    defaults = {steps: 0.0, UserNow.history[Payment.hour]: -1.0}  # noqa: RUF012  # a definition, read once
