"""How long things took lately. Time is told by the test."""

from __future__ import annotations

import pytest
from overload_world import Watch

from featureflow.serve.durations import BUCKETS, HALVED_S, MEMORY_S, Durations, bucket_of


def test_every_number_of_rows_has_a_bucket_that_holds_it() -> None:
    for rows in range(1, BUCKETS[-1] + 1):
        at = bucket_of(rows)
        assert BUCKETS[at] >= rows
        assert at == 0 or BUCKETS[at - 1] < rows
    assert bucket_of(10_000) == len(BUCKETS) - 1


def test_nothing_is_known_of_nothing() -> None:
    durations = Durations(Watch())
    assert set(durations.typical()) == set(durations.slow()) == {0.0}
    assert durations.typical_of(100) == 0.0


def test_what_was_not_measured_is_bounded_by_what_was() -> None:
    durations = Durations(Watch())
    durations.add(4, 0.004)
    durations.add(64, 0.010)
    assert durations.typical_of(1) == pytest.approx(0.004 * (0.25 + 0.75 / 4))
    assert durations.typical_of(8) == pytest.approx(0.008)
    assert durations.typical_of(16) == pytest.approx(0.010)  # not 0.016: 64 took no longer
    assert durations.typical_of(128) == pytest.approx(0.020)
    assert durations.typical_of(2048) == pytest.approx(0.320)


def test_the_typical_case_is_the_median_and_the_slow_one_the_99th_percentile() -> None:
    watch = Watch()
    durations = Durations(watch)
    for i in range(60):
        durations.add(1, 0.100 if i == 30 else 0.001)
        watch.s += 0.001
    assert durations.typical_of(1) == 0.001
    assert durations.slow()[0] == 0.100


def test_a_slow_one_is_forgotten_once_it_is_old_and_others_came() -> None:
    watch = Watch()
    durations = Durations(watch)
    durations.add(1, 0.180)
    watch.s += MEMORY_S
    for _ in range(10):
        durations.add(1, 0.001)
        watch.s += 0.01
    assert durations.slow()[0] == 0.001


def test_a_few_that_are_old_prove_nothing() -> None:
    watch = Watch()
    durations = Durations(watch)
    durations.add(1, 0.180)
    assert durations.typical_of(1) == 0.180
    watch.s += MEMORY_S + 0.1
    assert durations.typical_of(1) == 0.0


def test_what_is_remembered_of_long_ago_stays_and_says_ever_less() -> None:
    watch = Watch()
    durations = Durations(watch)
    for _ in range(20):
        durations.add(1, 0.050)
    watch.s += MEMORY_S
    assert durations.worth() == 1.0
    watch.s += 2 * HALVED_S
    assert durations.worth() == pytest.approx(0.25)
    assert durations.typical_of(1) == pytest.approx(0.050)  # whoever comes in a crowd after a quiet time is not let in on a guess
