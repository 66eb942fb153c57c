"""An alert says what is scored, for whom it is averaged, and when somebody is told."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from featureflow import Alert, Ensemble, Entity, Event, Field, Label, Model, Request, View, count, key, last_n, when
from featureflow.define import spec
from featureflow.errors import DefinitionError


class User(Entity[str]): ...


class Shop(Entity[int]): ...


class Transfer(Event, topic="transfers", time="at", disorder="1m"):
    at: Field[datetime]
    sender: Field[str] = key(User)
    taker: Field[str] = key(User)
    shop: Field[int | None] = key(Shop)
    amount: Field[float]
    hour: Field[int]


class SenderNow(View, of=User, role=Transfer.sender, ttl="30d"):
    sent = count(Transfer, over=("1h",))
    amounts = last_n(Transfer.amount, 8)


class ShopNow(View, of=Shop):
    sales = count(Transfer, over=("1h",))


class Ask(Request):
    amount: Field[float]
    hour: Field[float]
    wet: Field[bool]


class Fraud(Model, deadline="20ms", drift=0.03):
    share = Ask.amount / SenderNow.sent["1h"]
    recent = SenderNow.amounts
    inputs = (share, recent, ShopNow.sales["1h"], Ask.hour)


class Rainy(Model, deadline="20ms", drift=0.03):
    inputs = (Ask.wet, Ask.amount)


def test_ids_and_context_are_found_in_the_event() -> None:
    class Suspicious(Alert, model=Fraud, on=Transfer, of=Shop, average=0.3, above=0.87, until=0.8): ...

    assert Suspicious._definition == spec.Alert(
        name="suspicious", model="fraud", source="transfer", entity="shop", field="shop", ids={"sender": "sender", "shop": "shop"},
        context={"ask:amount": spec.Column("amount"), "ask:hour": spec.Column("hour")}, average=0.3, above=0.87, until=0.8,
    )  # fmt: skip


def test_an_ensemble_is_watched_by_what_its_members_and_its_rules_read() -> None:
    class Both(Ensemble, deadline="30ms"):
        often = SenderNow.sent["1h"] > 3
        score = when(often, Fraud.score, Ask.amount / 1000)

    class Doubtful(Alert, model=Both, on=Transfer, of=Shop, above=0.87): ...

    assert Doubtful._definition.model == "both"
    assert Doubtful._definition.ids == {"sender": "sender", "shop": "shop"}
    assert Doubtful._definition.context == {"ask:amount": spec.Column("amount"), "ask:hour": spec.Column("hour")}


class Tensors(Model, deadline="20ms", drift=0.03):
    inputs = {  # noqa: RUF012  # a definition, read once
        "dense": (SenderNow.sent["1h"], Ask.hour), "recent": SenderNow.amounts, "shop": ShopNow.sales["1h"],
    }


def test_a_model_of_named_tensors_is_watched_and_labelled_by_what_they_are_made_of() -> None:
    class Suspicious(Alert, model=Tensors, on=Transfer, of=Shop, above=0.87): ...

    class Fraudulent(Label, of=Tensors, source=Transfer, entity="shop", value=Transfer.amount > 100, within="1d"): ...

    assert Suspicious._definition.ids == {"sender": "sender", "shop": "shop"}
    assert Suspicious._definition.context == {"ask:hour": spec.Column("hour")}
    assert (Fraudulent._definition.entity, Fraudulent._definition.field) == ("shop", "shop")


def test_what_is_left_out_is_the_weight_of_a_third_and_one_threshold() -> None:
    class Plain(Alert, model=Fraud, on=Transfer, of=Shop, above=1): ...

    assert (Plain._definition.average, Plain._definition.above, Plain._definition.until) == (0.3, 1.0, 1.0)


def test_context_may_be_calculated() -> None:
    class Wet(Alert, model=Rainy, on=Transfer, of=User, role=Transfer.taker, above=0.5):
        context = {Ask.wet: Transfer.hour > 12}  # noqa: RUF012  # a definition, read once

    assert Wet._definition.field == "taker"
    assert Wet._definition.context["ask:wet"] == spec.Call("gt", (spec.Column("hour"), spec.Literal(12)))


def test_context_may_name_what_only_versions_of_before_read() -> None:
    class Wet(Alert, model=Fraud, on=Transfer, of=Shop, above=0.5):
        context = {Ask.wet: Transfer.hour > 12}  # noqa: RUF012  # a definition, read once

    assert list(Wet._definition.context) == ["ask:amount", "ask:hour", "ask:wet"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"of": User}, "2 keys of User"),
        ({"role": Transfer.taker}, "is no key of Shop"),
        ({"role": "shop"}, "role='shop'"),
        ({"average": 0}, "average=0"),
        ({"average": 1.5}, "average=1.5"),
        ({"average": True}, "average=True"),
        ({"above": float("nan")}, "above=nan"),
        ({"above": "0.9"}, "above='0.9'"),
        ({"until": 0.9}, "is above above=0.87"),
        ({"model": Ask}, "is no model"),
        ({"on": User}, "is no event"),
        ({"of": Transfer}, "is no entity"),
        ({"model": Model}, "is no model"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):

        class Wrong(Alert, **{"model": Fraud, "on": Transfer, "of": Shop, "above": 0.87, **options}): ...


@pytest.mark.parametrize(
    "context",
    [
        [Ask.amount],
        {"amount": Transfer.amount},
        {Ask.wet: Transfer.amount},
        {Ask.amount: 3.0},
        {Ask.amount: SenderNow.sent["1h"]},
        {Ask.amount: Transfer.at},
    ],
)
def test_context_that_is_not_of_the_event_or_that_nobody_reads_is_refused(context: object) -> None:
    with pytest.raises(DefinitionError):
        type("Wrong", (Alert,), {"context": context}, model=Fraud, on=Transfer, of=Shop, above=0.87)  # type: ignore[call-overload]  # class keywords
