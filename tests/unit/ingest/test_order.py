from __future__ import annotations

import numpy as np
import pytest

from featureflow.ingest.order import FEW, changes, in_order, lengths


@pytest.mark.parametrize("n", [0, 1, FEW - 1, FEW, 3 * FEW])
@pytest.mark.parametrize("bits", [0, 3, 15, 16, 17, 24, 40, 62])
def test_numbers_come_in_order_and_equal_ones_as_they_stood(n: int, bits: int) -> None:
    rng = np.random.default_rng(n + bits)
    numbers, ties = rng.integers(0, 1 << bits, n), rng.permutation(n)
    numbers[n // 2 :] = numbers[: n - n // 2]                      # some are equal
    assert in_order(numbers).tolist() == sorted(range(n), key=numbers.tolist().__getitem__)
    assert in_order(numbers, ties).tolist() == sorted(ties.tolist(), key=numbers.tolist().__getitem__)


def test_runs_begin_where_a_value_changes_and_are_so_long() -> None:
    ordered = np.array([3, 3, 4, 9, 9, 9])
    assert changes(ordered).nonzero()[0].tolist() == [0, 2, 3]
    assert lengths(np.array([0, 2, 3]), 6).tolist() == [2, 1, 3]
    assert changes(ordered[:0]).tolist() == lengths(np.zeros(0, np.int64), 0).tolist() == []
