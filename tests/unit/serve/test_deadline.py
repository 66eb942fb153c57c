"""What the server may take of a deadline."""

from __future__ import annotations

import pytest

from featureflow.serve.deadline import budget_of


@pytest.mark.parametrize(("given_ms", "way_back_ms"), [(0.01, 0.0005), (20, 1), (40, 2), (1_000, 2)])
def test_an_answers_way_to_the_caller_has_a_small_part_of_its_deadline(given_ms: float, way_back_ms: float) -> None:
    assert budget_of(given_ms, 5.0) == pytest.approx((given_ms - way_back_ms) * 1e-3)
    assert budget_of(None, given_ms * 1e-3) == pytest.approx((given_ms - way_back_ms) * 1e-3)
