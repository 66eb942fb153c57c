"""Fixed-point limbs: exact in, correctly rounded out."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.kernel.worlds import NASTY

from featureflow.kernel import exact
from oracle import quantum

UNIT = 1 << 56


def limbs_of(integers: list[int], limbs: int = 3) -> np.ndarray:
    """Python integers as canonical limbs (limbs, n)."""
    return np.array([[(x >> 40 * i) & exact.LIMB_MASK for i in range(limbs - 1)] + [x >> 40 * (limbs - 1)] for x in integers], np.int64).T


def value(limbs: np.ndarray) -> list[int]:
    return [sum(int(x) << 40 * i for i, x in enumerate(column)) for column in limbs.T]


@given(st.lists(NASTY, min_size=1, max_size=20))
@example([-1e-20, -1e-17, -(2.0**-30), -(2.0**-56)])
def test_values_are_split_exactly_whatever_their_sign_and_size(values: list[float]) -> None:
    array = np.array(values)
    assert value(exact.split(exact.quantize(array), 3)) == [quantum(v) for v in values]
    assert value(exact.squares(exact.quantize(array))) == [quantum(v) ** 2 for v in values]


SUMS = st.integers(-(2**119), 2**119) | st.tuples(st.integers(-(2**60), 2**60), st.integers(0, 58)).map(lambda p: p[0] << p[1])
HARD = st.tuples(st.integers(-(2**53), 2**53), st.integers(1, 66), st.integers(-2, 2)).map(  # ties, and just beside them
    lambda p: (p[0] << p[1]) + (1 << p[1] - 1) + p[2]
)


@given(st.lists(SUMS | HARD | st.integers(-(2**142), 2**142), min_size=1, max_size=8))
def test_a_sum_is_the_nearest_float_ties_to_even(integers: list[int]) -> None:
    expected = [float(Fraction(x, UNIT)) for x in integers]
    assert exact.to_float(limbs_of(integers)).tolist() == expected
    for x, nearest in zip(integers, expected, strict=True):  # alone, each takes the path of its own size
        assert exact.to_float(limbs_of([x])).tolist() == [nearest]


def test_every_path_of_rounding_is_taken_by_its_own_size() -> None:
    tie_and_a_bit = (1 << 117) + (1 << 64) + 1
    for x in (tie_and_a_bit >> 40, tie_and_a_bit, tie_and_a_bit << 20, -tie_and_a_bit, (2**53 + 1 << 60) + 1):
        assert exact.to_float(limbs_of([x])).tolist() == [float(Fraction(x, UNIT))]
    for shift in range(1, 67):                                     # a tie of 53 bits, and just beside it
        for beside in (-1, 0, 1):
            for bits in (2**52 + 1, 2**52 + 2, -(2**52) - 1):
                x = (bits << shift) + (1 << shift - 1) + beside
                assert exact.to_float(limbs_of([x])).tolist() == [float(Fraction(x, UNIT))]
    double_rounding = np.float64(2.0**61) + (np.float64(2.0**8) + np.float64(2.0**-56))
    assert exact.to_float(limbs_of([(1 << 117) + (1 << 64) + 1]))[0] > double_rounding


@given(st.lists(NASTY, min_size=1, max_size=20))
@example([1.76e9, 1.76e9 + 1, 1.76e9 - 2])
@example([1e18] * 7)
def test_variance_is_the_exact_fraction_rounded_once(values: list[float]) -> None:
    n, total, squares = len(values), sum(map(quantum, values)), sum(quantum(v) ** 2 for v in values)
    got = exact.variance(np.array([n]), limbs_of([total]), limbs_of([squares], 6))
    assert got.tolist() == [float(Fraction(n * squares - total**2, n * n * UNIT * UNIT))]
    assert got[0] >= 0.0


def test_variance_of_nothing_is_undefined() -> None:
    assert math.isnan(exact.variance(np.array([0]), limbs_of([0]), limbs_of([0], 6))[0])


@pytest.mark.parametrize("limbs", [3, 6])
def test_limbs_come_back_as_integers(limbs: int) -> None:
    integers = [0, 1, -1, 2**79 + 5, -(2**100), 2 ** (40 * limbs - 1), -(2 ** (40 * limbs + 20))]
    assert exact.integers(limbs_of(integers, limbs)) == integers


def test_so_many_additions_cannot_overflow_a_limb() -> None:
    assert exact.ADDITIONS * (2 << exact.LIMB_BITS) <= 2**63
