"""Every aggregation of the table equals the oracle, to the last bit."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from replay import recompute
from unit.kernel.worlds import (
    EXACT,
    LIFETIME,
    NASTY,
    NOON,
    ORDINARY,
    World,
    aggregation,
    answers_of,
    partitions_of,
    same,
    source,
    view,
)

import oracle
from featureflow.errors import DefinitionError
from featureflow.kernel.aggregation.table import aggregation as find
from oracle import Record

VALUES = st.lists(NASTY, max_size=25) | st.lists(ORDINARY, max_size=25)


def world(op: str, values: list[float]) -> World:
    clicks = source(keyed=False)
    others = [None if i % 5 == 4 else v for i, v in enumerate(reversed(values))]       # what max_by and min_by compare
    records = tuple(
        Record("click", i % 2, i, NOON + (i * 7919 % 11), NOON + 20, {"at": 0.0, "user": "u1", "x": v, "y": y, "kind": None})
        for i, (v, y) in enumerate(zip(values, others, strict=True))
    )
    return World(view([aggregation(op, [LIFETIME], size=4)], [clicks]), {"click": clicks}, records)


@pytest.mark.parametrize("op", EXACT)
@given(values=VALUES)
@example(values=[1e17, 1.0, -1e17])
@example(values=[1e17, 3.25, -1e17, 1e-3])
@example(values=[1.76e9, 1.76e9 + 1, 1.76e9 - 2])
@example(values=[1.76e15 + i for i in range(5)])
@example(values=[5e-324, -5e-324])
@example(values=[2.0**62] * 25)
@example(values=[-1e-20, -1e-9, -(2.0**-56), 2.0**-57])
@example(values=[0.1] * 10)
@example(values=[-0.0])
@settings(max_examples=60, deadline=None)
def test_it_equals_the_oracle_to_the_last_bit(op: str, values: list[float]) -> None:
    w = world(op, values)
    got = recompute(
        w.kernel, w.sources, partitions_of(w), ["u1"], np.array([NOON + 30]), {"click": {0: len(values), 1: len(values)}}
    )
    expected = oracle.answers(w.view, w.sources, w.records, "u1", NOON + 30)
    assert same(answers_of(w, got, 0), expected)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=30))
@settings(deadline=None)
def test_sums_and_means_of_ordinary_numbers_are_what_fsum_gives(cents: list[int]) -> None:
    values = [c / 4 for c in cents]                                # multiples of 2^-56, so nothing is rounded on the way in
    for op, expected in (("sum", math.fsum(values)), ("mean", math.fsum(values) / len(values))):
        w = world(op, values)
        got = recompute(w.kernel, w.sources, partitions_of(w), ["u1"], np.array([NOON + 30]), {"click": {0: 99, 1: 99}})
        assert got.values[0, 0] == expected


def test_the_oracle_itself_rounds_once() -> None:
    counted = [(Record("click", 0, i, 0, 0, {}), v) for i, v in enumerate([1e17, 1.0, -1e17])]
    assert oracle.aggregate(aggregation("sum", [LIFETIME]), counted, LIFETIME, 0) == [1.0]
    assert oracle.quantum(2.0**-57) == 0                           # ties to even
    assert oracle.quantum(3 * 2.0**-57) == 2
    assert Fraction(oracle.quantum(0.1), 2**56) == Fraction(0.1)


def test_an_unknown_aggregation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DefinitionError, match=r"no aggregation 'median'[\s\S]*count, sum, mean"):
        find("median")
