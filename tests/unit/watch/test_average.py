"""Averages and alerts are a fold over the score topic, and nothing else."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from featureflow.define.spec import Alert as Rule
from featureflow.watch.average import Average, fold, key_of
from featureflow.watch.score import Alert, Score

RULE = Rule(
    name="suspicious", model="fraud", source="payment", entity="user", field="user", ids={}, context={}, average=0.3, above=0.87, until=0.8
)
SCORES = st.lists(
    st.tuples(st.floats(0.0, 1.0) | st.sampled_from([0.8, 0.87, 1.0, None]), st.integers(0, 2)), max_size=60
)


def score(value: float | None, offset: int, partition: int = 0) -> Score:
    return Score(
        event_time=offset, scored_at=offset, model="fraud", model_version="1", variant="fp32", provider="cpu", score=value, entity="user",
        id="ada", source="payment", partition=partition, offset=offset, features="{}", degraded="[]",
    )  # fmt: skip


def folded(scores: list[Score], rule: Rule = RULE) -> tuple[Average | None, list[Alert]]:
    average, alerts = None, []
    for one in scores:
        found = fold(rule, average, one)
        if found is not None:
            average, alert = found
            alerts += [alert] if alert is not None else []
    return average, alerts


def arrived(drawn: list[tuple[float | None, int]]) -> list[Score]:
    """Offsets grow in each partition, as those of a log."""
    return [score(value, offset, partition) for offset, (value, partition) in enumerate(drawn)]


def test_the_first_score_is_the_average_and_each_next_one_weighs_as_declared() -> None:
    average, alerts = folded([score(0.5, 0), score(1.0, 1), score(0.0, 2)])
    assert average is not None
    assert average.value == 0.3 * 0.0 + 0.7 * (0.3 * 1.0 + 0.7 * 0.5)
    assert (average.scores, average.event_time, average.seen, alerts) == (3, 2, {0: 2}, [])


def test_an_alert_is_raised_at_the_threshold_and_cleared_below_the_lower_one() -> None:
    alone = msgspec.structs.replace(RULE, average=1.0)
    _, alerts = folded([score(value, offset) for offset, value in enumerate((0.86, 0.87, 0.81, 0.8, 0.9, 0.79, 0.85, 0.87))], alone)
    assert [(a.level, a.value, a.threshold, a.offset) for a in alerts] == [
        ("raised", 0.87, 0.87, 1), ("cleared", 0.79, 0.8, 5), ("raised", 0.87, 0.87, 7)
    ]  # fmt: skip


def test_an_alert_says_where_it_came_from() -> None:
    _, [alert] = folded([score(0.9, 7, 2)])
    assert alert == Alert(
        event_time=7, alert_id="suspicious/payment/2/7/raised", rule="suspicious", level="raised", value=0.9, threshold=0.87, score=0.9,
        model="fraud", model_version="1", entity="user", id="ada", source="payment", partition=2, offset=7, features="{}", degraded="[]",
    )  # fmt: skip


@given(SCORES)
def test_levels_take_turns_and_each_is_where_a_naive_reading_has_it(drawn: list[tuple[float | None, int]]) -> None:
    _, alerts = folded(arrived(drawn))
    value, raised, expected = None, False, []
    for offset, (given_score, partition) in enumerate(drawn):
        if given_score is None:
            continue
        value = given_score if value is None else 0.3 * given_score + (1.0 - 0.3) * value
        if (not raised and value >= 0.87) or (raised and value < 0.8):
            raised = not raised
            expected.append(("raised" if raised else "cleared", value, partition, offset))
    assert [(a.level, a.value, a.partition, a.offset) for a in alerts] == expected
    assert len({a.alert_id for a in alerts}) == len(alerts)


@given(SCORES, st.integers(0, 60), st.integers(0, 60), st.floats(0.0, 1.0))
def test_events_that_are_scored_once_more_change_no_average_and_tell_nobody(
    drawn: list[tuple[float | None, int]], first: int, upto: int, other: float
) -> None:
    """A group that is set back scores some events again, perhaps otherwise: by a newer model, from newer features."""
    scores = arrived(drawn)
    again = [msgspec.structs.replace(one, score=other) for one in scores[first:upto] if one.score is not None]
    assert folded([*scores[:upto], *again, *scores[upto:]]) == folded(scores)


def test_an_average_comes_back_from_its_record_as_it_was() -> None:
    average, _ = folded([score(0.1, 4), score(0.7, 9, 1), score(1 / 3, 11)])
    assert msgspec.json.decode(msgspec.json.encode(average), type=Average) == average


def test_another_model_or_source_under_the_same_name_begins_anew() -> None:
    keys = {key_of(rule, entity) for rule in (RULE, *(
        msgspec.structs.replace(RULE, **{part: "other"}) for part in ("name", "model", "source", "entity")
    )) for entity in ("ada", "bob")}
    assert len(keys) == 10
