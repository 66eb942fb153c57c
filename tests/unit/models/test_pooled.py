"""What several processes saw is judged as if one had seen it, in whatever parts it comes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from unit.models.test_verdict import trial

from featureflow.models.pooled import LEAST_SCORES, heard, pooled, said
from featureflow.models.release import CANARY, STABLE
from featureflow.models.verdict import SCORES, Seen, distance, judge

NOTHING = Seen(0, 0, 0, 0, np.empty(0))
counts = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)).map(
    lambda n: Seen(n[0] + n[1], n[0], n[2] + n[3], n[2], np.arange(float(n[1])))
)


def of(scores: NDArray[np.float64], rows: int | None = None) -> Seen:
    """Of so many rows, these scores were kept."""
    return Seen(len(scores) if rows is None else rows, 0, 1, 0, scores)


def through(members: Sequence[dict[str, Seen]]) -> dict[str, Seen]:
    """As each hears the others."""
    found = [heard(said(member, len(members))) for member in members]
    assert None not in found
    return pooled([one for one in found if one is not None])


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=5))
def test_counts_of_all_add_up(seen: list[tuple[Seen, Seen]]) -> None:
    found = through([{STABLE: stable, CANARY: canary} for stable, canary in seen])
    for place, name in enumerate((STABLE, CANARY)):
        for field in ("rows", "failed", "runs", "slow"):
            assert getattr(found[name], field) == sum(getattr(one[place], field) for one in seen)
        given_scores = sum(one[place].rows - one[place].failed for one in seen)
        assert found[name].weights is not None and found[name].weights.sum() == pytest.approx(given_scores)


def test_failures_of_which_no_process_has_seen_enough_end_a_candidate_together() -> None:
    members = [
        {STABLE: Seen(4_000, 0, 4_000, 0, np.empty(0)), CANARY: Seen(40, 10, 40, 0, np.empty(0))} for _ in range(3)
    ]
    assert all(judge(trial(), member, {}) is None for member in members)
    assert judge(trial(), through(members), {}) == "canary (fraud@2): 30 of 120 rows have no score, 1.00% are allowed"


def test_a_candidate_that_does_as_well_in_places_of_other_callers_goes_on_though_samples_are_cut() -> None:
    """A busy process with low scores, and a quiet one with high ones: the candidate of the quiet one is told whole, the rest is cut."""
    draw = np.random.default_rng(0)
    busy = {STABLE: of(draw.normal(0, 1, SCORES), 40_000), CANARY: of(draw.normal(0, 1, SCORES), 4_000)}
    quiet = {STABLE: of(draw.normal(9, 1, SCORES), 4_000), CANARY: of(draw.normal(9, 1, 400), 400)}
    found = through([busy, quiet])
    assert (
        distance(found[CANARY].scores, found[STABLE].scores) > 0.15
    )  # counted alike they would differ by where they are from
    assert judge(trial(score_drift=0.02), found, {}) is None


def test_other_scores_of_which_no_process_has_enough_end_a_candidate_together() -> None:
    draw = np.random.default_rng(0)
    members = [{STABLE: of(draw.normal(0, 1, SCORES), 9_000), CANARY: of(draw.normal(2, 1, 50))} for _ in range(4)]
    assert all(judge(trial(score_drift=0.1), member, {}) is None for member in members)
    assert "distributed otherwise" in (judge(trial(score_drift=0.1), through(members), {}) or "")


def test_few_scores_that_weigh_much_are_not_taken_for_another_distribution() -> None:
    for seed in range(40):
        draw = np.random.default_rng(seed)
        members = [
            {STABLE: of(draw.normal(size=SCORES), 9_000), CANARY: of(draw.normal(size=n), n)} for n in (900, 40, 40, 40)
        ]
        assert judge(trial(score_drift=0.02), through(members), {}) is None


def test_what_is_said_is_bounded_however_many_say_it() -> None:
    seen = {STABLE: of(np.zeros(SCORES)), CANARY: of(np.zeros(SCORES))}
    assert len(said(seen, 1)) < 2 * 4 * SCORES + 200
    assert 10 * len(said(seen, 10)) < 2 * 4 * SCORES + 2_000
    assert len(said(seen, 10**6)) < 2 * 4 * LEAST_SCORES + 200


def test_a_sample_is_of_the_whole_window() -> None:
    found = heard(said({STABLE: of(np.arange(float(SCORES)))}, 10))
    assert found is not None and found[STABLE].scores[[0, -1]].tolist() == [0.0, SCORES - 1.0]


def test_scores_beyond_float32_are_in_their_place_too() -> None:
    found = heard(said({STABLE: of(np.array([-1e300, 0.0, 1e300]))}, 1))
    assert found is not None and found[STABLE].scores.tolist() == [-np.inf, 0.0, np.inf]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        msgspec.msgpack.encode({"stable": [1, 0, 1]}),
        msgspec.msgpack.encode({"stable": [1, 0, 1, 0, b"abc"]}),  # no float32
        msgspec.msgpack.encode({"stable": [1, 2, 1, 0, b""]}),  # more failed than there were
        msgspec.msgpack.encode({"stable": [1, 0, 1, 0, bytes(8)]}),  # more scores than rows
        msgspec.msgpack.encode({"stable": [1, 0, 1, 0, b"", "of a later version"]}),
    ],
)
def test_what_makes_no_sense_is_not_heard(document: bytes) -> None:
    assert heard(document) is None


def test_an_arm_that_others_do_not_have_counts_by_itself() -> None:
    own = {STABLE: Seen(5, 1, 5, 1, np.ones(4)), CANARY: Seen(2, 0, 2, 0, np.ones(2))}
    found = pooled([own, {STABLE: Seen(3, 0, 3, 0, np.zeros(3)), "another": NOTHING}])
    assert list(found) == [STABLE, CANARY]
    assert (found[STABLE].rows, found[CANARY].rows, found[STABLE].scores.tolist()) == (8, 2, [1.0] * 4 + [0.0] * 3)
