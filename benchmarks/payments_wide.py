"""The wide job of the ingest benchmark: thirty aggregations of one amount, over six windows each."""

from datetime import datetime

from featureflow import Entity, Event, Field, View, count, key, max, mean, min, sum

OVER = ("1m", "10m", "1h", "2h", "6h", "12h")


class User(Entity[str]): ...


class Payment(Event, topic="payments", time="at", disorder="1m", keyed_by="user"):
    at: Field[datetime]
    user: Field[str] = key(User)
    amount: Field[float]


class UserNow(View, of=User):
    payments_0 = count(Payment, over=OVER)
    spent_0 = sum(Payment.amount, over=OVER)
    usual_0 = mean(Payment.amount, over=OVER)
    smallest_0 = min(Payment.amount, over=OVER)
    largest_0 = max(Payment.amount, over=OVER)
    payments_100 = count(Payment, over=OVER, where=Payment.amount > 100)
    spent_100 = sum(Payment.amount, over=OVER, where=Payment.amount > 100)
    usual_100 = mean(Payment.amount, over=OVER, where=Payment.amount > 100)
    smallest_100 = min(Payment.amount, over=OVER, where=Payment.amount > 100)
    largest_100 = max(Payment.amount, over=OVER, where=Payment.amount > 100)
    payments_250 = count(Payment, over=OVER, where=Payment.amount > 250)
    spent_250 = sum(Payment.amount, over=OVER, where=Payment.amount > 250)
    usual_250 = mean(Payment.amount, over=OVER, where=Payment.amount > 250)
    smallest_250 = min(Payment.amount, over=OVER, where=Payment.amount > 250)
    largest_250 = max(Payment.amount, over=OVER, where=Payment.amount > 250)
    payments_500 = count(Payment, over=OVER, where=Payment.amount > 500)
    spent_500 = sum(Payment.amount, over=OVER, where=Payment.amount > 500)
    usual_500 = mean(Payment.amount, over=OVER, where=Payment.amount > 500)
    smallest_500 = min(Payment.amount, over=OVER, where=Payment.amount > 500)
    largest_500 = max(Payment.amount, over=OVER, where=Payment.amount > 500)
    payments_750 = count(Payment, over=OVER, where=Payment.amount > 750)
    spent_750 = sum(Payment.amount, over=OVER, where=Payment.amount > 750)
    usual_750 = mean(Payment.amount, over=OVER, where=Payment.amount > 750)
    smallest_750 = min(Payment.amount, over=OVER, where=Payment.amount > 750)
    largest_750 = max(Payment.amount, over=OVER, where=Payment.amount > 750)
    payments_900 = count(Payment, over=OVER, where=Payment.amount > 900)
    spent_900 = sum(Payment.amount, over=OVER, where=Payment.amount > 900)
    usual_900 = mean(Payment.amount, over=OVER, where=Payment.amount > 900)
    smallest_900 = min(Payment.amount, over=OVER, where=Payment.amount > 900)
    largest_900 = max(Payment.amount, over=OVER, where=Payment.amount > 900)
