"""Categories and vectors in records: what they take, and the columns that they become."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow.define.spec import Call, Column, Field, Source
from featureflow.kernel.decode import Decoder, Encoder
from featureflow.kernel.expression import evaluate

VISIT = Source(
    name="visit", topic="visits", time_field="at", disorder_us=0, future_us=0,
    fields=(
        Field(name="at", type="datetime"),
        Field(name="channel", type="str", categories=("app", "web")),
        Field(name="plan", type="str", categories=("free", "pr\u00f6"), nullable=True),
        Field(name="taste", type="vector", size=3),
        Field(name="mood", type="vector", size=2, nullable=True),
    ),
)
GOOD: dict[str, Any] = {"at": 1, "channel": "web", "taste": [1, 2.5, -0.0]}


def text(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


BAD = [
    (text(channel="fax"), "unknown_category", "'fax' is none of 'app', 'web'"),
    (text(channel=""), "unknown_category", "'channel'"),
    (text(channel="WEB"), "unknown_category", "'channel'"),
    (text(channel=None), "wrong_type", "'channel' is null"),
    (text(channel=1), "wrong_type", "a string"),
    (text(plan="pro"), "unknown_category", "'plan'"),
    (text(taste=[1, 2]), "wrong_length", "'taste' has 2 numbers; its vectors have 3"),
    (text(taste=[1, 2, 3, 4]), "wrong_length", "4 numbers"),
    (text(taste=[]), "wrong_length", "0 numbers"),
    (text(taste=[1, None, 3]), "wrong_type", "'taste[1]' is null"),
    (text(taste=[1, "2", 3]), "wrong_type", "'taste[1]' should be a number"),
    (text(taste=[1, 2, [3]]), "wrong_type", "'taste[2]' should be a number"),
    (text(taste=[1, 2, True]), "wrong_type", "is true"),
    (text(taste={"0": 1}), "wrong_type", "a list of numbers"),
    (text(taste=3), "wrong_type", "a list of numbers"),
    (text(taste="123"), "wrong_type", "a list of numbers"),
    (text(taste=None), "wrong_type", "'taste' is null"),
    (text(taste=[1, 2, float("nan")]), "out_of_range", "NaN"),
    (text(taste=[1, 2, 2.0**63]), "out_of_range", "'taste[2]'"),
    (text(taste=[1, 2, 10**400]), "out_of_range", "'taste[2]'"),
    (text(taste=[1, 2, 3]).replace(b"3]", b"1e999]"), "out_of_range", "'taste[2]'"),
    (text(mood=[1]), "wrong_length", "'mood'"),
    (json.dumps({"at": 1, "channel": "web"}).encode(), "missing_field", "'taste'"),
]


@pytest.mark.parametrize(("value", "reason", "detail"), BAD, ids=[f"{i}-{reason}" for i, (_, reason, _) in enumerate(BAD)])
def test_what_does_not_fit_is_refused_by_name_and_its_neighbours_are_kept(value: bytes, reason: str, detail: str) -> None:
    decoded = Decoder(VISIT).decode([text(), value, text(channel="app", mood=[4, 5])])
    assert [(refusal.index, refusal.reason) for refusal in decoded.refused] == [(1, reason)]
    assert detail in decoded.refused[0].detail
    assert decoded.events.columns["channel"].tolist() == ["web", "app"]
    assert decoded.events.columns["taste"].tolist() == [[1, 2.5, 0], [1, 2.5, 0]]


def test_a_vectors_column_is_a_matrix_with_a_row_of_nan_for_null_and_no_minus_zero() -> None:
    columns = Decoder(VISIT).decode([text(), text(mood=[1, -2]), text(mood=None)]).events.columns
    assert columns["taste"].shape == (3, 3)
    assert columns["taste"].dtype == np.float64
    assert not np.signbit(columns["taste"]).any()
    np.testing.assert_array_equal(columns["mood"], [[np.nan] * 2, [1, -2], [np.nan] * 2])
    assert evaluate(Call("is_null", (Column("mood"),)), columns).tolist() == [True, False, True]
    assert Decoder(VISIT).decode([]).events.columns["taste"].shape == (0, 3)


@given(st.lists(st.floats(-(2.0**63), 2.0**63, exclude_min=True, exclude_max=True), min_size=3, max_size=3))
def test_an_encoded_vector_decodes_to_itself_to_the_bit(taste: list[float]) -> None:
    data = Encoder(VISIT).encode({**GOOD, "taste": np.array(taste)})
    assert data == Encoder(VISIT).encode({**GOOD, "taste": tuple(taste)})
    assert Decoder(VISIT).decode([data]).events.columns["taste"].tobytes() == (np.array([taste]) + 0.0).tobytes()


@pytest.mark.parametrize("taste", [[1, 2, float("nan")], np.array([1, 2, np.inf])])
def test_what_would_be_refused_is_not_encoded(taste: Any) -> None:
    with pytest.raises(ValueError, match="'taste' is"):
        Encoder(VISIT).encode({**GOOD, "taste": taste})
