"""Vectors that entries keep: as a whole or not at all, to the last bit, whatever the order of the events."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import recompute
from unit.kernel.worlds import (
    LIFETIME,
    NASTY,
    NOON,
    SECOND,
    V,
    World,
    aggregation,
    answers_of,
    applied_of,
    bits,
    exact,
    partitions_of,
    sliding,
    source,
    view,
)

import oracle
from featureflow.kernel import fold
from featureflow.kernel.finalize import Values
from oracle import Record

CLICKS = source(keyed=False, disorder_s=0)
WINDOWS = (sliding(600), exact(sliding(60)), LIFETIME)
OPS = ("last", "first", "max_by", "min_by")
VIEW = view([aggregation(op, WINDOWS, value=V, vector=3, name=op) for op in OPS], [CLICKS])


def record(t: int, vector: list[float] | None, y: float | None = 1.0, *, partition: int = 0) -> Record:
    at = NOON + t * SECOND
    return Record("click", partition, t, at, at, {"at": float(at), "user": "u1", "x": 1.0, "y": y, "kind": None, "v": vector})


def ask(records: list[Record], q: int) -> tuple[World, Values]:
    world = World(VIEW, {"click": CLICKS}, tuple(records))
    answered = recompute(world.kernel, world.sources, partitions_of(world), ["u1"], np.array([NOON + q * SECOND]), applied_of(records))
    return world, answered


VECTORS = st.lists(NASTY.map(lambda value: value + 0.0), min_size=3, max_size=3) | st.none()


@given(st.lists(st.tuples(VECTORS, st.sampled_from([0.0, 1.0, None]), st.integers(0, 1)), max_size=30), st.integers(0, 900))
@settings(max_examples=60, deadline=None)
def test_they_equal_the_oracle_to_the_last_bit(made: list[tuple[list[float] | None, float | None, int]], q: int) -> None:
    records = [record(30 * i, vector, y, partition=partition) for i, (vector, y, partition) in enumerate(made)]
    world, got = ask(records, q)
    expected = oracle.answers(world.view, world.sources, records, "u1", NOON + q * SECOND)
    assert bits(answers_of(world, got, 0)) == bits(expected)


def test_a_null_vector_does_not_count_and_the_one_before_it_stays() -> None:
    _, values = ask([record(0, [1.0, 2.0, 3.0]), record(1, None, 9.0)], 2)
    assert values.values[0].tolist() == [1.0, 2.0, 3.0] * len(VIEW.features)


def test_without_an_event_every_number_is_undefined() -> None:
    _, values = ask([record(0, None)], 1)
    assert values.values.shape == (1, 3 * len(VIEW.features))
    assert np.isnan(values.values).all()


def test_a_vector_with_one_number_too_large_does_not_count_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    large = [record(0, [1.0, 2.0, 3.0]), record(1, [0.0, 2.0**63, 0.0], 0.0)]
    assert ask(large, 2)[1].values[0, :3].tolist() == [1.0, 2.0, 3.0]
    monkeypatch.setattr(fold, "NUMBER_ABS", math.inf)
    assert ask(large, 2)[1].values[0, :3].tolist() == [0.0, 2.0**63, 0.0]  # what keeps it out is that bound
