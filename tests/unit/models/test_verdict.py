"""When a candidate ends: only for what is not chance, and not for what the stable version suffers from as well."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from unit.models.test_release import arm, first

from featureflow.models import release as steps
from featureflow.models.release import CANARY, Bounds, Release
from featureflow.models.verdict import PARTS, SCORES, Seen, Tally, auc_error, distance, judge, wilson
from featureflow.store.mirror import Accuracy

NOTHING = np.empty(0)


def trial(**bounds: object) -> Release:
    return steps.canary(first(), arm("2", 500, CANARY), now_us=2, salt="s", bounds=Bounds(**bounds))  # type: ignore[arg-type]


def seen(rows: int = 1_000, failed: int = 0, runs: int = 1_000, slow: int = 0, scores: NDArray[np.float64] = NOTHING) -> Seen:
    return Seen(rows, failed, runs, slow, scores)


def verdict(own: Seen, stable: Seen = seen(), accuracy: dict[str, Accuracy] | None = None, **bounds: object) -> str | None:  # noqa: B008
    return judge(trial(**bounds), {"stable": stable, CANARY: own}, accuracy or {})


def drawn(shift: float = 0.0, n: int = SCORES, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(shift, 1.0, n)


def test_a_candidate_that_does_as_well_goes_on() -> None:
    everything = {"latency_us": 1_000, "score_drift": 0.05, "auc_loss": 0.01, "calibration_loss": 0.01}
    live = {v: Accuracy(auc=0.8, base_rate=0.1, calibration_error=0.01, labels=100_000, until_us=9) for v in ("1", "2")}
    own = seen(failed=5, slow=5, scores=drawn(seed=1))
    assert verdict(own, seen(failed=5, slow=5, scores=drawn(seed=2)), live, **everything) is None


def test_errors_beyond_their_bound_end_it_and_are_named() -> None:
    found = verdict(seen(failed=100))
    assert found == "canary (fraud@2): 100 of 1,000 rows have no score, 1.00% are allowed"


def test_one_that_fails_at_everything_is_gone_at_its_hundredth_row() -> None:
    assert verdict(seen(rows=99, failed=99)) is None
    assert verdict(seen(rows=100, failed=100)) is not None


@pytest.mark.parametrize("rows", [1, 40])
def test_looked_at_each_second_for_hours_a_candidate_at_half_its_bound_goes_on_and_one_at_twice_it_ends(rows: int) -> None:
    draw = np.random.default_rng(rows)

    def ends(share: float, looks: int) -> bool:
        made = trial()
        tallies = {name: Tally(made.bounds) for name in ("stable", CANARY)}
        for second in range(looks):
            at_us = second * 1_000_000
            for tally in tallies.values():
                failed = int(draw.binomial(rows, share if tally is tallies[CANARY] else 0.0))
                tally.add(at_us, rows=rows, failed=failed, seconds=0.0, scores=NOTHING)
            if judge(made, {name: tally.seen(at_us) for name, tally in tallies.items()}, {}) is not None:
                return True
        return False

    assert not ends(0.005, 5_000)
    assert ends(0.02, 100_000 if rows == 1 else 1_000)


def test_a_few_errors_by_chance_end_nobody() -> None:
    assert verdict(seen(failed=20)) is None                          # 2 % where 1 % is allowed, of a thousand
    assert verdict(seen(rows=100_000, failed=2_000)) is not None     # of a hundred thousand it is no chance


def test_rows_that_no_version_can_score_are_not_the_candidates_fault() -> None:
    assert verdict(seen(failed=300), seen(failed=300)) is None
    assert verdict(seen(failed=300), seen(failed=30)) is not None


def test_a_slow_candidate_ends_but_not_where_the_machine_is_slow() -> None:
    assert "12" in (verdict(seen(slow=120), latency_us=12_000) or "")
    assert verdict(seen(slow=120), seen(slow=120), latency_us=12_000) is None
    assert verdict(seen(slow=12), latency_us=12_000) is None
    assert verdict(seen(slow=120)) is None                           # no bound is declared


def test_scores_that_are_distributed_otherwise_end_it() -> None:
    assert "distance" in (verdict(seen(scores=drawn(1.0)), seen(scores=drawn(seed=1)), score_drift=0.1) or "")
    assert verdict(seen(scores=drawn(0.1)), seen(scores=drawn(seed=1)), score_drift=0.1) is None
    assert verdict(seen(scores=drawn(1.0, n=99)), seen(scores=drawn(seed=1)), score_drift=0.1) is None
    assert verdict(seen(scores=drawn(1.0)), seen(scores=drawn(seed=1))) is None


def test_few_scores_are_not_taken_for_another_distribution() -> None:
    for seed in range(1, 50):
        own, stable = drawn(n=150, seed=seed), drawn(n=150, seed=100 + seed)
        assert verdict(seen(scores=own), seen(scores=stable), score_drift=0.02) is None
    assert verdict(seen(scores=drawn(1.0, n=150)), seen(scores=drawn(n=150, seed=1)), score_drift=0.02) is not None


def live(auc: float, labels: int = 20_000, until_us: int = 9, calibration_error: float = 0.01) -> Accuracy:
    return Accuracy(auc=auc, base_rate=0.1, calibration_error=calibration_error, labels=labels, until_us=until_us)


def test_a_lower_live_auc_ends_it_where_labels_are_enough_to_say_so() -> None:
    assert "live AUC is 0.7000" in (verdict(seen(), accuracy={"1": live(0.8), "2": live(0.7)}, auc_loss=0.02) or "")
    assert verdict(seen(), accuracy={"1": live(0.8), "2": live(0.79)}, auc_loss=0.02) is None
    assert verdict(seen(), accuracy={"1": live(0.8), "2": live(0.7, labels=300)}, auc_loss=0.02) is None
    assert verdict(seen(), accuracy={"1": live(0.8), "2": live(0.0, labels=199)}, auc_loss=0.02) is None
    assert verdict(seen(), accuracy={"1": live(0.8), "2": live(0.7, until_us=1)}, auc_loss=0.02) is None     # of before the release
    assert verdict(seen(), accuracy={"2": live(0.1)}, auc_loss=0.02) is None
    coarse = msgspec.structs.replace(live(0.7), auc_error=0.09)      # counted in bins that are too wide to say so
    assert verdict(seen(), accuracy={"1": live(0.8), "2": coarse}, auc_loss=0.02) is None
    assert verdict(seen(), accuracy={"1": live(0.8), "2": live(0.7)}) is None


def test_worse_live_calibration_ends_it() -> None:
    accuracy = {"1": live(0.8), "2": live(0.8, calibration_error=0.2)}
    assert "calibration" in (verdict(seen(), accuracy=accuracy, calibration_loss=0.05) or "")
    assert verdict(seen(), accuracy=accuracy, calibration_loss=0.19) is None


# -- what a tally keeps ------------------------------------------------------------------------------------------------

@given(st.lists(st.tuples(st.integers(0, 400_000_000), st.integers(1, 50), st.integers(0, 10)), max_size=60))
def test_a_tally_counts_what_is_within_the_window_and_nothing_else(turns: list[tuple[int, int, int]]) -> None:
    bounds, now = Bounds(latency_us=5_000), 0
    tally, part = Tally(bounds), bounds.window_us // PARTS
    told: list[tuple[int, int, int, float]] = []
    for step, rows, failed in turns:
        now += step
        failed = min(failed, rows)
        seconds = 0.001 * (rows % 10)
        tally.add(now, rows=rows, failed=failed, seconds=seconds, scores=np.full(rows - failed, float(rows)))
        told.append((now, rows, failed, seconds))
    found = tally.seen(now)
    within = [t for t in told if t[0] // part > now // part - PARTS]
    assert (found.rows, found.failed, found.runs) == (sum(t[1] for t in within), sum(t[2] for t in within), len(within))
    assert found.slow == sum(t[3] > 0.005 for t in within)
    assert found.scores.tolist() == [float(t[1]) for t in within for _ in range(t[1] - t[2])]


def test_a_tally_is_bounded_whatever_comes() -> None:
    tally = Tally(Bounds())
    for second in range(2_000):
        tally.add(second * 1_000_000, rows=5_000, failed=0, seconds=0.0, scores=np.zeros(5_000))
    assert len(tally.seen(2_000_000_000).scores) < 2 * SCORES
    assert len(tally._parts) <= PARTS + 1
    assert tally.seen(10**15).rows == 0


# -- the formulas ------------------------------------------------------------------------------------------------------

@given(st.integers(0, 500), st.integers(0, 500))
def test_a_shares_interval_holds_it(hits: int, misses: int) -> None:
    low, high = wilson(hits, hits + misses)
    assert 0 <= low <= high <= 1
    if hits + misses:
        assert low - 1e-12 <= hits / (hits + misses) <= high + 1e-12


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.lists(st.floats(-10, 10), min_size=1, max_size=60))
def test_the_distance_of_two_samples_is_the_naive_one(a: list[float], b: list[float]) -> None:
    naive = max(abs(sum(x <= t for x in a) / len(a) - sum(x <= t for x in b) / len(b)) for t in (*a, *b))
    assert math.isclose(distance(np.array(a), np.array(b)), naive, abs_tol=1e-12)


def test_the_standard_error_of_an_auc_is_that_of_drawn_samples() -> None:
    draw, found = np.random.default_rng(0), []
    for _ in range(400):
        positive, negative = draw.normal(1.0, 1.0, 100), draw.normal(0.0, 1.0, 300)
        found.append(float((positive[:, None] > negative[None, :]).mean()))
    said = auc_error(Accuracy(auc=float(np.mean(found)), base_rate=0.25, labels=400))
    assert said == pytest.approx(float(np.std(found)), rel=0.15)
