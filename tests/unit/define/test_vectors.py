"""Aggregations of vectors, as they are declared."""

from __future__ import annotations

from datetime import datetime

import pytest

from featureflow import Entity, Event, Field, Model, Vector, View, first, key, last, last_n, len, limits, max_by, mean
from featureflow.errors import DefinitionError


class User(Entity[str]): ...


class Visit(Event, topic="visits", time="at", disorder="1m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    spent: Field[float]
    taste: Field[Vector[3]]
    large: Field[Vector[1024]]


class UserNow(View, of=User):
    taste = last(Visit.taste, over=("1h", "1d"))
    best = max_by(Visit.taste, by=Visit.spent, over=("1d",))
    spent = last(Visit.spent, over=("1h",))


def test_it_is_one_feature_of_so_many_numbers() -> None:
    declared = UserNow._definition
    assert [(f.name, f.size, f.numbers, f.is_sequence) for f in declared.features] == [
        ("taste_1h", 3, 3, True), ("taste_1d", 3, 3, True), ("best_1d", 3, 3, True), ("spent_1h", 1, 1, False),
    ]  # fmt: skip
    assert declared.width == 10
    assert declared.spans[2] == slice(6, 9)


def test_it_is_a_model_s_input_of_so_many_columns_and_a_sequence_to_calculate_with() -> None:
    class Taste(Model, deadline="10ms", drift=0.01):
        apart = UserNow.taste["1h"] - UserNow.best["1d"]
        average = mean(UserNow.taste["1h"])
        there = len(UserNow.taste["1h"])
        inputs = (UserNow.taste["1h"], apart, average, there)

    assert [(i.name, i.size) for i in Taste._definition.inputs] == [
        ("user_now:taste_1h", 3), ("apart", 3), ("average", 1), ("there", 1),
    ]  # fmt: skip


def test_without_its_window_it_is_refused_in_arithmetic_with_what_to_write() -> None:
    with pytest.raises(DefinitionError) as caught:
        UserNow.taste + 1  # type: ignore[operator]  # what is shown
    assert 'UserNow.taste["1h"]' in str(caught.value)


def test_last_n_keeps_no_vectors() -> None:
    with pytest.raises(DefinitionError) as caught:
        last_n(Visit.taste, 4)
    assert "last(Visit.taste, over=" in str(caught.value)


def test_a_row_of_too_many_bytes_is_refused_with_the_numbers() -> None:
    body = {f"f{i}": first(Visit.large, over=("1h",)) for i in range(8)}
    with pytest.raises(DefinitionError) as caught:
        type(View)("TooMuch", (View,), body, of=User)
    assert "65728 bytes" in str(caught.value)
    assert str(limits.VECTORS_BYTES) in str(caught.value)
    type(View)("Fits", (View,), {f"f{i}": first(Visit.large, over=("1h",)) for i in range(7)}, of=User)


def test_a_vector_has_no_default() -> None:
    with pytest.raises(DefinitionError) as caught:
        last(Visit.taste, over=("1h",), default=0.0)  # type: ignore[call-overload]  # what is shown
    assert "no default=" in str(caught.value)
