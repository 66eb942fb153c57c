"""What bins say of scores and labels is what all pairs say, within the error that is stated."""

from __future__ import annotations

import random

import pytest

from featureflow.kernel.tile import SECOND_US
from featureflow.store.mirror import Accuracy
from featureflow.watch.rolling import BINS, CALIBRATION_BINS, VERSIONS, Counts, Rolling, accuracy

DAY_US = 86_400 * SECOND_US


def naive_auc(pairs: list[tuple[float, bool]]) -> float:
    """Of all pairs of a positive and a negative, the share in which the positive has the higher score; equal ones count a half."""
    positives = [score for score, label in pairs if label]
    negatives = [score for score, label in pairs if not label]
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return won / (len(positives) * len(negatives))


def naive_calibration(pairs: list[tuple[float, bool]]) -> float:
    total = 0.0
    for number in range(CALIBRATION_BINS):
        of_bin = [(s, label) for s, label in pairs if min(max(int(s * CALIBRATION_BINS), 0), CALIBRATION_BINS - 1) == number]
        if of_bin:
            mean, share = sum(s for s, _ in of_bin) / len(of_bin), sum(label for _, label in of_bin) / len(of_bin)
            total += len(of_bin) / len(pairs) * abs(mean - share)
    return total


def counted(pairs: list[tuple[float, bool]]) -> Accuracy:
    counts = Counts()
    for score, label in pairs:
        counts.add(score, label)
    return accuracy(counts, 7)


def drawn(luck: random.Random, n: int) -> list[tuple[float, bool]]:
    """Scores that say something of their labels, many of them close together."""
    scores = [luck.random() ** luck.choice((1, 4)) for _ in range(n)]
    return [(score, luck.random() < score) for score in scores]


@pytest.mark.parametrize("seed", range(20))
def test_auc_is_that_of_all_pairs_within_its_stated_error(seed: int) -> None:
    luck = random.Random(seed)
    pairs = [*drawn(luck, luck.choice((20, 300))), (0.0, False), (1.0, True)]
    found = counted(pairs)
    assert found.auc is not None and found.auc_error is not None
    assert abs(found.auc - naive_auc(pairs)) <= found.auc_error + 1e-12
    assert found.auc_error < 0.01
    assert found.labels == len(pairs)
    assert found.base_rate == sum(label for _, label in pairs) / len(pairs)
    assert found.calibration_error == pytest.approx(naive_calibration(pairs), abs=1e-9)


def test_the_stated_error_is_reached_where_a_bin_holds_both() -> None:
    width = 1 / BINS
    low, high = 0.5 + 0.1 * width, 0.5 + 0.9 * width
    better, worse = counted([(low, False), (high, True)]), counted([(low, True), (high, False)])
    assert (better.auc, better.auc_error) == (worse.auc, worse.auc_error) == (0.5, 0.5)


def test_scores_beyond_the_unit_interval_are_in_the_outer_bins() -> None:
    found = counted([(-3.0, False), (7.0, True)])
    assert (found.auc, found.auc_error) == (1.0, 0.0)


def test_one_kind_of_label_alone_has_no_auc() -> None:
    found = counted([(0.2, False), (0.4, False)])
    assert (found.auc, found.base_rate, found.labels) == (None, 0.0, 2)
    assert counted([]).base_rate is None


def test_the_window_rolls_by_tiles_and_forgets_what_it_has_left() -> None:
    rolling = Rolling(7 * DAY_US)
    assert rolling.tile_us == DAY_US // 4, "twelve in the window: of six hours"
    start = 100 * DAY_US
    for day in range(20):
        rolling.add("1", start + day * DAY_US, 0.5, day % 2 == 0)
    now_us = start + 19 * DAY_US
    rolling.forget(now_us)
    assert rolling.accuracy(now_us)["1"].labels == 8
    assert len(rolling.versions["1"]) == 8
    rolling.forget(now_us + 8 * DAY_US)
    assert rolling.versions == {}
    assert rolling.until == {}


def test_versions_are_bounded_and_those_with_the_newest_labels_stay() -> None:
    rolling = Rolling(7 * DAY_US)
    for number in range(VERSIONS + 3):
        rolling.add(f"v{number}", DAY_US + number, 0.5, True)
    rolling.forget(DAY_US)
    assert set(rolling.versions) == {f"v{number}" for number in range(3, VERSIONS + 3)}


def test_counts_do_not_depend_on_order_in_the_last_bit() -> None:
    pairs = drawn(random.Random(1), 500)
    first, second = counted(pairs), counted(pairs[::-1])
    assert first == second
