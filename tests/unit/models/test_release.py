"""Who gets which version, and what each step makes of the release before."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow.errors import ModelError
from featureflow.models import release as steps
from featureflow.models.release import CANARY, SHADOW, STABLE, WHOLE, Arm, Bounds, Release

UNITS = [f"str:user-{i}" for i in range(2_000)]
weights = st.integers(1, WHOLE - 1)
salts = st.text("0123456789abcdef", min_size=32, max_size=32)


def arm(version: str, weight: int = WHOLE, name: str = STABLE) -> Arm:
    return Arm(name=name, version=version, weight=weight, content=f"content of {version}")


def first(version: str = "1") -> Release:
    return steps.release(None, arm(version), model="fraud", now_us=1, salt="a")


def trial(weight: int, *, salt: str = "s", sticky: str | None = "user", before: Release | None = None) -> Release:
    return steps.canary(before or first(), arm("2", weight, CANARY), now_us=2, salt=salt, sticky=sticky)


# -- who gets which arm ------------------------------------------------------------------------------------------------

@given(weights, salts)
def test_an_arm_gets_its_share_but_for_chance(weight: int, salt: str) -> None:
    made = trial(weight, salt=salt)
    share = sum(made.arm_of(unit).name == CANARY for unit in UNITS) / len(UNITS)
    wanted = weight / WHOLE
    assert abs(share - wanted) <= 6 * (wanted * (1 - wanted) / len(UNITS)) ** 0.5 + 1 / len(UNITS)     # six standard errors


@given(weights, salts, st.text(max_size=20))
def test_an_entity_keeps_its_arm_in_every_process(weight: int, salt: str, unit: str) -> None:
    made = trial(weight, salt=salt)
    again = msgspec.json.decode(msgspec.json.encode(made), type=Release)
    assert again == made
    assert again.arm_of(unit) == made.arm_of(unit)


@given(weights, weights, salts)
def test_a_candidate_that_is_given_more_keeps_whom_it_has(one: int, other: int, salt: str) -> None:
    low, high = sorted((one, other))
    before = trial(low, salt=salt)
    after = steps.canary(before, arm("2", high, CANARY), now_us=3, salt="another")
    had = {unit for unit in UNITS if before.arm_of(unit).name == CANARY}
    has = {unit for unit in UNITS if after.arm_of(unit).name == CANARY}
    assert had <= has
    assert after.sticky == "user"


def test_another_candidate_draws_anew() -> None:
    one, other = trial(5_000, salt="s"), steps.canary(trial(5_000, salt="s"), arm("3", 5_000, CANARY), now_us=3, salt="t")
    same = sum((one.arm_of(unit).name == CANARY) == (other.arm_of(unit).name == CANARY) for unit in UNITS)
    assert 0.45 < same / len(UNITS) < 0.55


def test_the_points_of_an_assignment_are_the_same_on_every_machine() -> None:
    assert [steps.point("s", unit) for unit in ("str:u1", "int:1", "request:r1", "")] == [462, 3782, 2695, 1833]


# -- steps -------------------------------------------------------------------------------------------------------------

def test_a_canary_is_promoted_to_everybody_and_its_shadow_stays() -> None:
    made = steps.promote(steps.shadow(trial(500), arm("3", 0, SHADOW), now_us=3), now_us=4)
    assert [(a.name, a.version, a.weight) for a in made.arms] == [(STABLE, "2", WHOLE)]
    assert (made.number, made.step, made.sticky) == (4, "promote", None)
    assert made.shadow is not None and made.shadow.version == "3"
    with pytest.raises(ModelError, match="no candidate to promote"):
        steps.promote(made, now_us=5)


def test_a_rollback_ends_the_candidate_first_and_then_goes_back_version_by_version() -> None:
    past = [first(), trial(500)]
    past.append(steps.rollback(past, now_us=3, reason="it was slow"))
    assert (past[-1].stable.version, past[-1].candidates, past[-1].reason) == ("1", (), "it was slow")
    for number, version in ((4, "2"), (5, "3")):
        past.append(steps.release(past[-1], arm(version), model="fraud", now_us=number, salt="b"))
    for version in ("2", "1"):
        past.append(steps.rollback(past, now_us=9))
        assert past[-1].stable.version == version
    with pytest.raises(ModelError, match="no stable version before 1"):
        steps.rollback(past, now_us=10)


def test_a_version_that_was_left_is_gone_back_to_once_it_was_released_again() -> None:
    past = [first("1")]
    past.append(steps.release(past[-1], arm("2"), model="fraud", now_us=2, salt="b"))
    past.append(steps.rollback(past, now_us=3))                      # from 2 to 1
    with pytest.raises(ModelError, match="no stable version before 1"):
        steps.rollback(past, now_us=4)
    past.append(steps.release(past[-1], arm("2"), model="fraud", now_us=5, salt="c"))
    past.append(steps.release(past[-1], arm("3"), model="fraud", now_us=6, salt="d"))
    assert steps.rollback(past, now_us=7).stable.version == "2"


def test_a_shadow_becomes_the_candidate_and_is_no_shadow_then() -> None:
    shadowed = steps.shadow(first(), arm("2", 0, SHADOW), now_us=2)
    made = steps.canary(shadowed, arm("2", 100, CANARY), now_us=3, salt="s")
    assert made.shadow is None
    assert steps.shadow(shadowed, None, now_us=3).shadow is None
    with pytest.raises(ModelError, match="answers already, as canary"):
        steps.shadow(made, arm("2"), now_us=4)


@pytest.mark.parametrize("weight", [0, WHOLE, -1, WHOLE + 1])
def test_a_candidate_of_nothing_or_all_is_refused(weight: int) -> None:
    with pytest.raises(ModelError, match="more than nothing and less than all"):
        trial(weight)


def test_the_stable_version_is_no_candidate() -> None:
    with pytest.raises(ModelError, match="stable version already"):
        steps.canary(first("2"), arm("2", 100, CANARY), now_us=2, salt="s")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"arms": ()}, "make 10,000"),
        ({"arms": (arm("1", 9_000), arm("2", 999, CANARY))}, "make 10,000"),
        ({"arms": (arm("1", 9_000), arm("1", 1_000, CANARY))}, "version 1"),
        ({"arms": (arm("1", 9_000), arm("2", 1_000, STABLE))}, "name stable"),
        ({"shadow": arm("1", 0, SHADOW)}, "version 1"),
        ({"arms": (arm("../1"),)}, "cannot name"),
    ],
)
def test_a_release_that_says_two_things_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        msgspec.structs.replace(first(), **changes)


@pytest.mark.parametrize(
    "bound", [{"errors": 1.5}, {"score_drift": -0.1}, {"latency_us": 0}, {"least_rows": 0}, {"window_us": 10}, {"auc_loss": float("nan")}]
)
def test_bounds_that_cannot_be_are_refused(bound: dict[str, float]) -> None:
    with pytest.raises(ModelError):
        Bounds(**bound)  # type: ignore[arg-type]


def test_bounds_are_told_as_the_options_that_set_them() -> None:
    assert Bounds().told == "--max-errors 0.01"
    told = "--max-errors 0.01 --max-latency 20ms --max-drift 0.2 --max-auc-loss 0.05 --max-calibration-loss 0.1"
    assert Bounds(latency_us=20_000, score_drift=0.2, auc_loss=0.05, calibration_loss=0.1).told == told
    assert Bounds(errors=None, latency_us=1_500).told == "--max-latency 1500us"
    assert Bounds(errors=None).told == "none"


# -- any order of steps ------------------------------------------------------------------------------------------------

STEP = st.tuples(st.sampled_from(["release", "canary", "shadow", "no shadow", "promote", "rollback"]), st.sampled_from("1234"))


@given(st.lists(STEP, max_size=25))
def test_in_any_order_of_steps_somebody_answers_and_a_rollback_leaves_the_version_it_was_for(taken: list[tuple[str, str]]) -> None:
    past = [first("1")]
    stable, candidate, beside = "1", None, None                       # the naive model
    for now, (step, version) in enumerate(taken, 2):
        try:
            if step == "release":
                made = steps.release(past[-1], arm(version), model="fraud", now_us=now, salt=str(now))
                expected = (version, None, None)
            elif step == "canary":
                made = steps.canary(past[-1], arm(version, 100, CANARY), now_us=now, salt=str(now))
                expected = (stable, version, None if beside == version else beside)
            elif step == "promote":
                made = steps.promote(past[-1], now_us=now)
                expected = (candidate, None, beside)
            elif step == "rollback":
                made = steps.rollback(past, now_us=now)
                expected = (stable, None, beside) if candidate else (made.stable.version, None, None)
                assert candidate or made.stable.version in {one.stable.version for one in past} - {stable}
            else:
                made = steps.shadow(past[-1], arm(version, 0, SHADOW) if step == "shadow" else None, now_us=now)
                expected = (stable, candidate, version if step == "shadow" else None)
        except ModelError:
            refused = {
                "canary": version == stable, "shadow": version in (stable, candidate), "promote": candidate is None,
                "rollback": candidate is None,
            }  # fmt: skip
            assert refused[step]
            continue
        past.append(made)
        stable, candidate, beside = expected  # type: ignore[assignment]
        found = (made.stable.version, made.candidates[0].version if made.candidates else None, made.shadow.version if made.shadow else None)
        assert found == (stable, candidate, beside)
        assert (made.number, made.step) == (len(past), step.removeprefix("no "))
        assert sum(one.weight for one in made.arms) == WHOLE
