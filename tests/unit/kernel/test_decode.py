from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow import limits
from featureflow.clock import to_us
from featureflow.define.spec import Field, Source
from featureflow.kernel import decode
from featureflow.kernel.decode import Decoder, Encoder, encode, key_of

PURCHASE = Source(
    name="purchase", topic="purchases", time_field="at", disorder_us=0, future_us=0, keyed_by="user",
    fields=(
        Field(name="user", type="str", entity="user"),
        Field(name="at", type="datetime"),
        Field(name="amount", type="float"),
        Field(name="shop", type="int", entity="shop", nullable=True),
        Field(name="first", type="bool", nullable=True),
        Field(name="note", type="str", nullable=True, max_bytes=300),
        Field(name="paid_at", type="datetime", nullable=True),
    ),
)
GOOD = {"user": "u1", "at": 1_700_000_000_000_000, "amount": 1.5}


def text(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != name}).encode()


BAD = [
    (None, "tombstone", "no value"),
    (b"", "undecodable", "truncated"),
    (b"hello", "undecodable", "malformed"),
    (b"[1, 2]", "undecodable", "expected `object`"),
    (b"null", "undecodable", "expected `object`"),
    (text()[:-1], "undecodable", "truncated"),
    (text() + b" {}", "undecodable", "trailing"),
    (text() + b"," + text(), "undecodable", "trailing"),
    (b"\xef\xbb\xbf" + text(), "undecodable", "malformed"),
    (text(user="\ud800"), "undecodable", "malformed"),
    (text(user="x").replace(b'"x"', b'"\xff"'), "undecodable", "user"),
    (text(user="x").replace(b'"x"', b'"\xed\xa0\x80"'), "undecodable", "user"),
    (text(extra="x").replace(b'"x"', b'"\xff"'), "undecodable", "UTF-8"),
    (text(extra={"x": 1}).replace(b'"x"', b'"\xc3"'), "undecodable", "UTF-8"),
    (text(extra="x").replace(b'"x"', b'"\xed\xa0\x80"'), "undecodable", "UTF-8"),
    (text(extra=1).replace(b": 1}", b": " + b"[" * 400 + b"]" * 400 + b"}"), "undecodable", "nested"),
    (text(extra=1).replace(b": 1}", b": " + b"[" * 60_000 + b"}"), "undecodable", "nested"),
    (text(user="x")[:-1] + b', "note": "NaN', "undecodable", "truncated"),           # in a string, though that breaks off
    (text(user="x")[:-1] + b', "note": "' + b'\\"' * 32_000, "undecodable", "truncated"),     # looked at once, not from each quote on
    (without("user"), "missing_field", "'user'"),
    (without("at"), "missing_field", "'at'"),
    (text(amount="1"), "wrong_type", "'amount' should be a number, is a string \"1\""),
    (text(amount=None), "wrong_type", "'amount' is null"),
    (text(amount=True), "wrong_type", "is true"),
    (text(shop=1.5), "wrong_type", "whole number"),
    (text(shop=1.0), "wrong_type", "whole number"),
    (text(first=1), "wrong_type", "true or false"),
    (text(user=5), "wrong_type", "is the number 5"),
    (text(user=["u"]), "wrong_type", "is a list"),
    (text(user={"a": 1}), "wrong_type", "is an object"),
    (text(at="yesterday"), "wrong_type", "RFC 3339"),
    (text(at="2020-01-01T00:00:00"), "wrong_type", "time zone"),
    (text(at="2020-02-30T00:00:00Z"), "wrong_type", "RFC 3339"),
    (text(at=1.5), "wrong_type", "RFC 3339"),
    (text(note="x" * 301), "oversized", "301 bytes; at most 300"),
    (text(note="\u20ac" * 101), "oversized", "303 bytes; at most 300"),
    (json.dumps({**GOOD, "note": "\u20ac" * 101}, ensure_ascii=False).encode(), "oversized", "303 bytes"),
    (text(user="x" * (limits.KEY_BYTES + 1)), "oversized", "257 bytes; at most 256"),
    (text(extra="x" * limits.RECORD_BYTES), "oversized", "record"),
    (text(amount=float("nan")), "out_of_range", "NaN"),
    (text(amount=float("inf")), "out_of_range", "Infinity"),
    (text(amount=float("-inf")), "out_of_range", "Infinity"),
    (text(amount=1).replace(b"1}", b"1e999}"), "out_of_range", "'amount'"),
    (text(amount=2.0**63), "out_of_range", "2^63"),
    (text(amount=-(2**63)), "out_of_range", "2^63"),
    (text(amount=10**400), "out_of_range", "'amount'"),
    (text(shop=2**53 + 1), "out_of_range", "2^53"),
    (text(shop=10**40), "out_of_range", "'shop'"),
    (text(at=2**53 + 1), "out_of_range", "2^53"),
    (text(at="9999-12-31T23:59:59Z"), "out_of_range", "285 years"),
    (text(at="0001-01-01T00:00:00+10:00"), "out_of_range", "285 years"),
    (text(paid_at="2300-01-01T00:00:00Z"), "out_of_range", "'paid_at'"),
    (text(user=""), "bad_key", "empty"),
    (text(user=None), "null_key", "'user'"),
]


@pytest.mark.parametrize(("value", "reason", "detail"), BAD, ids=[f"{i}-{reason}" for i, (_, reason, _) in enumerate(BAD)])
def test_a_bad_record_is_refused_with_its_reason_and_its_neighbours_are_kept(
    value: bytes | None, reason: str, detail: str
) -> None:
    decoded = Decoder(PURCHASE).decode([text(amount=1), value, text(amount=2)])
    assert [(refusal.index, refusal.reason) for refusal in decoded.refused] == [(1, reason)]
    assert detail.lower() in decoded.refused[0].detail.lower()
    assert decoded.kept.tolist() == [0, 2]
    assert decoded.events.columns["amount"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("user", ["a:b", "{0}", "}", "a\nb", "a\x00b", " ", "%3A", "\u20ac", "\U0001f600", "x" * limits.KEY_BYTES])
def test_an_id_may_hold_anything_but_nothing(user: str) -> None:
    decoded = Decoder(PURCHASE).decode([text(user=user)], [user.encode()])
    assert not decoded.refused
    assert decoded.events.columns["user"].tolist() == [user]


def test_columns_hold_null_as_none_or_nan_and_never_a_negative_zero() -> None:
    decoded = Decoder(PURCHASE).decode([
        text(amount=-0.0, shop=7, first=True, note="n", paid_at="2020-01-01T00:00:00.000001Z"),
        text(amount=3, note=None),
    ])
    columns = decoded.events.columns
    assert not np.signbit(columns["amount"]).any()
    assert columns["amount"].tolist() == [0.0, 3.0]
    assert columns["user"].dtype == columns["note"].dtype == object
    assert columns["note"].tolist() == ["n", None]
    for name, first in {"shop": 7.0, "first": 1.0, "paid_at": 1_577_836_800_000_001.0}.items():
        assert columns[name].dtype == np.float64
        assert columns[name][0] == first
        assert np.isnan(columns[name][1])
    assert decoded.events.times_us.dtype == np.int64


def test_only_the_columns_asked_for_are_made_and_the_others_are_checked_all_the_same() -> None:
    decoded = Decoder(PURCHASE, columns=["amount"]).decode(
        [text(), text(note=5), text(note="x" * 301), text(paid_at="2300-01-01T00:00:00Z")]
    )
    assert set(decoded.events.columns) == {"amount"}
    assert [refusal.reason for refusal in decoded.refused] == ["wrong_type", "oversized", "out_of_range"]


def test_a_nullable_key_may_be_null() -> None:
    decoded = Decoder(PURCHASE).decode([text(shop=None)])
    assert not decoded.refused
    assert np.isnan(decoded.events.columns["shop"]).all()


def test_a_record_key_other_than_the_promised_field_is_refused() -> None:
    decoded = Decoder(PURCHASE).decode([text(), text(), text(), b"x"], [b"u1", b"u2", None, b"u1"])
    assert [(r.index, r.reason) for r in decoded.refused] == [(1, "bad_key"), (2, "bad_key"), (3, "undecodable")]
    assert "'user'" in decoded.refused[0].detail
    assert not Decoder(PURCHASE).decode([text()]).refused


@pytest.mark.parametrize("chunk", [1, 2, decode.CHUNK])
def test_positions_and_log_times_follow_the_records_that_are_kept(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "CHUNK", chunk)
    decoded = Decoder(PURCHASE).decode(
        [text(user="a"), b"x", text(user="b"), text(user="c"), text(user="d", at=2**53 + 1), text(user="e")],
        [b"a", b"a", b"b", b"a", b"d", b"e"],
        partition=3, offsets=np.arange(10, 16), timestamps_us=np.arange(6), append_time=False,
    )
    events = decoded.events
    assert (events.partition, events.append_time) == (3, False)
    assert events.columns["user"].tolist() == ["a", "b", "e"]
    assert events.offsets.tolist() == [10, 12, 15]
    assert events.timestamps_us.tolist() == [0, 2, 5]
    assert decoded.kept.tolist() == [0, 2, 5]
    assert [(r.index, r.reason) for r in decoded.refused] == [(1, "undecodable"), (3, "bad_key"), (4, "out_of_range")]


def test_records_that_only_together_are_json_do_not_pass() -> None:
    halves = [b'{"user": "a", "at": 1, "amount": 1, "x": [{}', b'{}]}', text() + b"," + text()]
    assert [refusal.index for refusal in Decoder(PURCHASE).decode(halves).refused] == [0, 1, 2]


def test_no_records_are_no_events() -> None:
    decoded = Decoder(PURCHASE).decode([])
    assert len(decoded.events) == 0
    assert decoded.events.columns["amount"].dtype == np.float64


instants = st.datetimes(
    min_value=datetime(1700, 1, 1), max_value=datetime(2250, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))]),
)


@given(st.lists(instants, min_size=1, max_size=20), st.booleans())
def test_instants_are_exact_to_the_microsecond(times: list[datetime], mixed: bool) -> None:
    values = [text(at=time.isoformat()) for time in times] + ([text(at=5)] if mixed else [])
    expected = [to_us(time) for time in times] + ([5] if mixed else [])
    assert Decoder(PURCHASE).decode(values).events.times_us.tolist() == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("u1"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2), max_leaves=3,
)
records = st.one_of(
    st.binary(max_size=20),
    st.none(),
    st.dictionaries(st.sampled_from(list(PURCHASE.by_name)), json_values).map(lambda d: json.dumps({**GOOD, **d}).encode()),
    st.dictionaries(st.sampled_from(list(PURCHASE.by_name)), json_values).map(lambda d: json.dumps(d).encode()),
    st.tuples(st.text(min_size=1, max_size=3), st.floats(-1e18, 1e18)).map(lambda t: text(user=t[0], amount=t[1])),
)


@given(st.lists(records, max_size=12), st.sampled_from([1, 3, decode.CHUNK]))
def test_what_a_record_is_does_not_depend_on_its_batch(values: list[bytes | None], chunk: int) -> None:
    decoder = Decoder(PURCHASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "CHUNK", chunk)
        together = decoder.decode(values)
    alone = [decoder.decode([value]) for value in values]
    assert together.kept.tolist() == [i for i, one in enumerate(alone) if not one.refused]
    assert [(r.reason, r.detail) for r in together.refused] == [(r.reason, r.detail) for one in alone for r in one.refused]
    for name in PURCHASE.by_name:
        expected = [one.events.columns[name][0] for one in alone if not one.refused]
        got = together.events.columns[name].tolist()
        assert repr(got) == repr([x if x is None or isinstance(x, str) else float(x) for x in expected])
    for name in ("amount", "shop", "paid_at"):
        assert not np.isinf(together.events.columns[name]).any()


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), instants,
    st.floats(min_value=-9e18, max_value=9e18), st.none() | st.integers(-(2**53), 2**53), st.none() | st.booleans(),
)
def test_an_encoded_event_decodes_to_itself(
    user: str, at: datetime, amount: float, shop: int | None, first: bool | None
) -> None:
    values = {"user": user, "at": at, "amount": amount, "shop": shop, "first": first}
    decoded = Decoder(PURCHASE).decode([encode(PURCHASE, values)], [key_of(PURCHASE, values)])
    assert not decoded.refused
    columns = decoded.events.columns
    assert columns["user"][0] == user
    assert decoded.events.times_us[0] == to_us(at)
    assert columns["amount"][0] == amount
    assert (None if np.isnan(columns["shop"][0]) else int(columns["shop"][0])) == shop


@pytest.mark.parametrize(("values", "message"), [
    ({**GOOD, "colour": "red"}, "no field 'colour'"),
    ({"user": "u1", "at": 1}, "missing_field"),
    ({**GOOD, "amount": float("nan")}, "'amount' is nan"),
    ({**GOOD, "amount": np.float64("inf")}, "'amount' is inf"),
    ({**GOOD, "at": datetime(2020, 1, 1)}, "no time zone"),
    ({**GOOD, "user": "\ud800"}, "not JSON"),
    ({**GOOD, "user": object()}, "not JSON"),
    ({**GOOD, "user": ""}, "bad_key"),
])
def test_what_would_be_refused_is_not_encoded(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(PURCHASE).encode(values)
