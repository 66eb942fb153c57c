"""The wide job of the ingest benchmark: thirty aggregations of one amount, over six windows each."""

from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key, max, mean, min, sum

OVER = ("1m", "10m", "1h", "2h", "6h", "12h")


class User(Entity[str]): ...


class Payment(Event, topic="payments", time="at", disorder="1m", keyed_by="user"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]


def above(least: int) -> dict[str, object]:
    """Five aggregations of the payments above so much, by name; of all where it is 0."""
    where = Payment.amount > least if least else None
    return {
        f"payments_{least}": count(Payment, over=OVER, where=where),
        f"spent_{least}": sum(Payment.amount, over=OVER, where=where),
        f"usual_{least}": mean(Payment.amount, over=OVER, where=where),
        f"smallest_{least}": min(Payment.amount, over=OVER, where=where),
        f"largest_{least}": max(Payment.amount, over=OVER, where=where),
    }


aggregations = {name: one for least in (0, 100, 250, 500, 750, 900) for name, one in above(least).items()}
UserNow = type(View)("UserNow", (View,), aggregations, of=User)  # type: ignore[misc]  # a class statement has no loop
