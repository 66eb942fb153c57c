"""A body against its model: what fits, what does not, and what the caller is told to change."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_rig import ASK, TIP, WITH_MODELS

from featureflow import limits
from featureflow.define.spec import Column, Field, Input, Request
from featureflow.errors import RequestError
from featureflow.reading.plan import ModelPlan, Plan
from featureflow.serve.asked import BodyDecoder, rows_of
from featureflow.serve.request import Row, instant_us
from featureflow.serve.wire.v1 import SCORE_BODY

PLAN: ModelPlan = Plan(WITH_MODELS, {"trip": 2}).models[TIP.name]
DECODER = BodyDecoder(PLAN)
GOOD: dict[str, Any] = {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}


def refusal(body: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        DECODER.decode(body if isinstance(body, bytes) else msgspec.json.encode(body))
    return caught.value


def test_one_row_or_many_may_be_asked() -> None:
    one = DECODER.decode(msgspec.json.encode({**GOOD, "deadline_ms": 5, "explain": True}))
    assert (len(one.rows), one.deadline_ms, one.explain) == (1, 5.0, True)
    assert one.rows[0].ids == ("ada", 7)
    many = DECODER.decode(msgspec.json.encode({"rows": [GOOD, {**GOOD, "entities": {"zone": None, "rider": None}}]}))
    assert [row.ids for row in many.rows] == [("ada", 7), (None, None)]


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"entities": {"rider": "ada"}}, 422, 'entities: absent: zone. Send {"rider": string, "zone": integer}'),
        ({"entities": {"rider": "ada", "zone": 7, "zon": 1}}, 422, "not known: zon"),
        ({"entities": {"rider": 5, "zone": 7}}, 422, "entities.rider must be a string (or null), not int"),
        ({"entities": {"rider": "ada", "zone": "7"}}, 422, "entities.zone must be a whole number"),
        ({"entities": {"rider": "ada", "zone": 7.5}}, 422, "$.entities"),
        ({"entities": {"rider": "ada", "zone": True}}, 422, "$.entities"),
        ({"entities": {"rider": "ada", "zone": 2**53 + 1}}, 422, "2^53"),
        ({"entities": {"rider": "é" * 129, "zone": 7}}, 422, "256 bytes"),
        ({"entities": {"rider": "", "zone": 7}}, 422, "empty"),
        ({"entities": 5}, 422, "$.entities"),
        ({"priority": "urgent"}, 422, "'urgent' - at `$.priority`: one of critical, normal, batch."),
        ({"context": {}}, 422, 'context.hour is absent or null. Send {"hour": int'),
        ({"context": {"hour": 17, "houre": 1}}, 422, "not known: houre"),
        ({"context": {"hour": 17.5}}, 422, "context.hour must be int, not float"),
        ({"context": {"hour": "17"}}, 422, "context.hour must be int, not str"),
        ({"context": {"hour": 2**60}}, 422, "2^53"),
        ({"context": {"hour": 17, "weight": 1e300}}, 422, "2^63"),
        ({"context": {"hour": 17, "vip": 1}}, 422, "context.vip must be bool"),
        ({"context": {"hour": 17, "since": "yesterday"}}, 422, "RFC 3339"),
        ({"context": {"hour": 17, "since": "2013-12-30T22:00:00"}}, 422, "RFC 3339"),
        ({"context": {"hour": 17, "since": 2**62}}, 422, "285 years of 1970"),
        ({"context": {"hour": 17, "city": "x" * 41}}, 422, "40 bytes"),
        ({"deadline_ms": 0}, 422, "$.deadline_ms"),
        ({"deadline_ms": 1e9}, 422, "$.deadline_ms"),
        ({"explain": "yes"}, 422, "$.explain"),
        ({"explian": True}, 422, "explian"),
        ({"rows": [GOOD]}, 422, "not both"),
    ],
)
def test_a_body_that_does_not_fit_says_what_to_change(change: dict[str, object], status: int, says: str) -> None:
    error = refusal({**GOOD, **change})
    assert error.status == status
    assert says in error.detail


def test_a_wrong_row_among_many_is_named() -> None:
    error = refusal({"rows": [GOOD, {"entities": {"rider": "ada", "zone": 7}}]})
    assert "rows[1].context.hour" in error.detail
    assert refusal({"rows": []}).status == 422
    assert refusal({"rows": [GOOD] * 1001}).status == 422
    assert refusal({}).status == 422


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"NaN",
        b'{"entities": NaN}',
        b"\xff\xfe",
        b'{"entities": {"rider": "\xff"}}',
        b"[" * 100_000,
        b'{"rows":' * 50_000,
        b"\0",
        b'"\\ud800"',
    ],
)
def test_what_is_not_json_is_a_400_or_422(raw: bytes) -> None:
    assert refusal(raw).status in (400, 422)


def test_whole_numbers_may_be_written_as_floats_and_instants_in_two_ways() -> None:
    context = {"hour": 17.0, "since": "2013-12-30T22:00:00Z"}
    written = DECODER.decode(msgspec.json.encode({**GOOD, "context": context})).rows[0].inputs
    counted = (
        DECODER.decode(msgspec.json.encode({**GOOD, "context": {"hour": 17, "since": 1_388_440_800_000_000}}))
        .rows[0]
        .inputs
    )
    assert written == counted == (17, None, None, 1_388_440_800_000_000.0, None)


IDS = (
    st.none()
    | st.text(max_size=70)
    | st.integers(-(2**54), 2**54)
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.sampled_from([":{}\r\n\0", "a:b{0}", "\x00", "*", "é" * 100])
)
SCALARS = (
    IDS
    | st.floats()
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from(["2013-12-30T22:00:00Z", "Paris", 2**53, 1e19, -0.0])
)
ENTITIES = st.fixed_dictionaries({}, optional={"rider": IDS, "zone": IDS, "other": IDS})
CONTEXTS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["hour", "weight", "vip", "since", "city", "other"], SCALARS)
)
ROWS = st.fixed_dictionaries({}, optional={"entities": ENTITIES | SCALARS, "context": CONTEXTS | SCALARS})
BODIES = ROWS | st.fixed_dictionaries(
    {},
    optional={
        "rows": st.lists(ROWS, max_size=3) | SCALARS,
        "deadline_ms": SCALARS,
        "explain": SCALARS,
        "entities": ENTITIES,
    },
)
GOOD_ROWS = st.fixed_dictionaries(
    {
        "entities": st.fixed_dictionaries(
            {"rider": st.none() | st.text(min_size=1, max_size=70), "zone": st.none() | st.integers(-(2**53), 2**53)}
        ),
        "context": st.fixed_dictionaries(
            {"hour": st.integers(-(2**53), 2**53)},
            optional={
                "weight": st.none() | st.floats(-1e18, 1e18) | st.integers(-(2**62), 2**62),
                "vip": st.none() | st.booleans(),
                "since": st.none() | st.integers(0, 2**53),
                "city": st.none() | st.text(max_size=12),
            },
        ),
    }
)


@settings(max_examples=300, deadline=None)
@given(BODIES | GOOD_ROWS | st.fixed_dictionaries({"rows": st.lists(GOOD_ROWS, min_size=1, max_size=3)}))
def test_the_typed_way_takes_nothing_that_the_exact_rules_refuse_and_gives_the_same_rows(body: dict[str, Any]) -> None:
    raw = msgspec.json.encode(body)
    try:
        taken = [(row.ids, _same(row.inputs)) for row in DECODER.decode(raw).rows]
    except RequestError as error:
        taken = None if 400 <= error.status < 500 else error
    try:
        exact = [(row.ids, _same(row.inputs)) for row in rows_of(SCORE_BODY.decode(raw), PLAN)]
    except (RequestError, msgspec.DecodeError):
        exact = None
    assert taken == exact


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_at_all_are_a_request_error_or_rows(raw: bytes) -> None:
    refused: list[RequestError] = []
    try:
        DECODER.decode(raw)
    except RequestError as error:
        refused.append(error)
    assert all(400 <= error.status < 500 and error.detail for error in refused)


def _same(inputs: tuple[Any, ...]) -> list[object]:
    return [
        None if value is None else value if isinstance(value, str) else (float(value) + 0.0, math.isnan(value))
        for value in inputs
    ]


def test_a_categorical_input_is_one_of_its_categories() -> None:
    plan = Field(name="plan", type="str", categories=("1", "2"), nullable=True)
    ask = msgspec.structs.replace(ASK, fields=(*ASK.fields, plan))
    model = msgspec.structs.replace(TIP, inputs=(*TIP.inputs, Input(name="plan", expr=Column("ask:plan"))))
    decode = BodyDecoder(Plan(msgspec.structs.replace(WITH_MODELS, requests=(ask,), models=(model,)), {"trip": 2}).models["tip"]).decode
    for context, found in (({"plan": "2"}, "2"), ({"plan": None}, None), ({}, None)):
        assert decode(msgspec.json.encode({**GOOD, "context": {"hour": 17, **context}})).rows[0].inputs[-1] == found
    for value, says in (("3", "context.plan must be one of 1, 2"), (1, "context.plan must be str, not int")):
        with pytest.raises(RequestError) as caught:
            decode(msgspec.json.encode({**GOOD, "context": {"hour": 17, "plan": value}}))
        assert says in caught.value.detail


@pytest.mark.parametrize(
    ("written", "title", "says"),
    [
        ("9999-12-31T00:00:00Z", "Instant out of range", "285 years"),
        ("9999-12-31T23:59:59-23:00", "Instant out of range", "285 years"),
        (2**53 + 1, "Instant out of range", "285 years"),
        ("noon", "Not an instant", "RFC 3339 with a zone"),
        ("2026-03-01T00:00:00", "Not an instant", "RFC 3339 with a zone"),
    ],
)
def test_an_instant_that_is_too_far_away_is_told_from_what_is_none(written: str | int, title: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        instant_us(written, "--at")
    assert (caught.value.title, caught.value.status) == (title, 422)
    assert says in caught.value.detail


def test_instants_up_to_the_bound_are_taken() -> None:
    assert instant_us(-(2**53), "at") == -(2**53)
    assert instant_us("1970-01-01T01:00:00+01:00", "at") == 0


# -- what only other versions read -------------------------------------------------------------------------------------

IMAGE = Field(name="image", type="vector", size=2)
SEEN = Request(name="seen", fields=(Field(name="hour", type="float"), Field(name="city", type="int"), IMAGE))
FEW = msgspec.structs.replace(TIP, inputs=(TIP.inputs[0], TIP.inputs[4]))
OTHERS: ModelPlan = Plan(msgspec.structs.replace(WITH_MODELS, requests=(ASK, SEEN), models=(FEW,)), {"trip": 2}).models[TIP.name]
MORE = st.fixed_dictionaries(
    {"entities": st.fixed_dictionaries({"rider": IDS}, optional={"zone": IDS, "other": IDS})},
    optional={
        "context": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(["hour", "weight", "vip", "since", "city", "image", "other"], SCALARS | st.lists(st.floats(-9, 9)))
        )
    },
)


def with_others() -> BodyDecoder:
    """One that has seen a body with what other versions read, and looks for it from then on."""
    decoder = BodyDecoder(OTHERS)
    decoder.decode(msgspec.json.encode({"entities": {"rider": "ada", "zone": 7}, "context": {"vip": True}}))
    return decoder


@settings(max_examples=300, deadline=None)
@given(MORE | st.fixed_dictionaries({"rows": st.lists(MORE, min_size=1, max_size=3)}), st.booleans())
def test_what_other_versions_read_is_taken_by_the_same_rules_in_both_ways(body: dict[str, Any], seen: bool) -> None:
    raw, decoder = msgspec.json.encode(body), with_others() if seen else BodyDecoder(OTHERS)

    def rows(taken: list[Row]) -> list[object]:
        return [(row.ids, _same(row.inputs), msgspec.to_builtins(row.entities), _sent(row.context)) for row in taken]

    try:
        exact = rows(rows_of(SCORE_BODY.decode(raw), OTHERS))
    except (RequestError, msgspec.DecodeError):
        exact = None
    for _ in range(2):                     # the second time it is looked for
        try:
            taken = rows(decoder.decode(raw).rows)
        except RequestError:
            taken = None
        assert taken == exact


def _sent(context: Any) -> dict[str, object]:
    """What is logged, but for nulls, which the typed structs write for each field that they know."""
    return {name: value for name, value in msgspec.to_builtins(context).items() if value is not None}


def test_what_other_versions_read_is_looked_for_by_the_typed_structs_once_somebody_sends_it() -> None:
    decoder = with_others()
    (row,) = decoder.decode(b'{"entities": {"rider": "ada", "zone": 7}, "context": {"weight": 1.5, "vip": true}}').rows
    assert not isinstance(row.entities, dict), "it was read by the exact rules"
    assert (row.ids, row.inputs) == (("ada",), (1.5,))
    assert msgspec.json.decode(msgspec.json.encode([row.entities, row.context])) == [
        {"rider": "ada", "zone": 7}, {"weight": 1.5, "vip": True},
    ]  # fmt: skip
    (alone,) = decoder.decode(b'{"entities": {"rider": "ada"}}').rows
    assert msgspec.json.encode(alone.entities) == b'{"rider":"ada"}'


def test_a_name_that_is_declared_twice_is_taken_as_either_and_a_large_vector_is_logged_by_its_sum() -> None:
    decoder = BodyDecoder(OTHERS)
    for value in ("Paris", 7):
        (row,) = decoder.decode(msgspec.json.encode({"entities": {"rider": "ada"}, "context": {"city": value}})).rows
        assert row.context == {"city": value}
    with pytest.raises(RequestError, match="context.city must be int, not float"):
        decoder.decode(b'{"entities": {"rider": "ada"}, "context": {"city": 7.5}}')
    large = msgspec.structs.replace(SEEN, fields=(Field(name="image", type="vector", size=limits.LOGGED_NUMBERS + 1),))
    plan = Plan(msgspec.structs.replace(WITH_MODELS, requests=(ASK, large), models=(FEW,)), {"trip": 2}).models[TIP.name]
    (row,) = BodyDecoder(plan).decode(
        msgspec.json.encode({"entities": {"rider": "ada"}, "context": {"image": [0.5] * (limits.LOGGED_NUMBERS + 1)}})
    ).rows
    assert set(row.context["image"]) == {"sha256", "numbers"}
