"""Scores and labels, joined as a naive reading of everything joins them, in whatever order they come and wherever it is cut."""

from __future__ import annotations

import random
from dataclasses import dataclass

import msgspec
import pytest

from featureflow.define import spec
from featureflow.kernel.tile import SECOND_US
from featureflow.watch.join import SLACK_US, JoinState, LabelEvent, LabelJoin, WaitingScore

MINUTE_US = 60 * SECOND_US
DISORDER_US = 30 * SECOND_US
LABEL = spec.Label(
    name="lost", model="fraud", source="dispute", entity="user", field="user", value=spec.Column("lost"), within_us=10 * MINUTE_US,
    over_us=600 * MINUTE_US,
)


@dataclass(frozen=True)
class World:
    scores: list[WaitingScore]
    labels: list[LabelEvent]


def world(seed: int) -> World:
    """An hour of scores of a few users, and labels of some of them; several of one instant."""
    luck = random.Random(seed)
    users = [f"u{number}" for number in range(8)]
    scores = [
        WaitingScore(f"p{number}", luck.choice(users), luck.choice(("1", "2")), luck.randrange(60) * MINUTE_US, luck.random())
        for number in range(200)
    ]
    labels = [
        LabelEvent(luck.choice(users), luck.randrange(75) * MINUTE_US, luck.randrange(2), number, luck.random() < 0.4)
        for number in range(60)
    ]
    return World(scores, labels)


def naive(made: World, label: spec.Label) -> list[tuple[str, float, bool]]:
    """(version, score, label) of every score that has one."""
    found = []
    for scored in made.scores:
        own = [
            (one.at_us, one.partition, one.offset, one.value)
            for one in made.labels
            if one.entity == scored.entity and scored.asked_us <= one.at_us <= scored.asked_us + label.within_us
        ]
        if own:
            found.append((scored.version, scored.score, min(own)[3]))
        elif label.absent is not None:
            found.append((scored.version, scored.score, label.absent))
    return sorted(found)


def run(made: World, label: spec.Label, seed: int, *, restarts: bool = True) -> tuple[JoinState, LabelJoin]:
    """Read both in event time order within their disorder, either ahead of the other, saved and taken up again at any point."""
    luck = random.Random(seed)
    scores = sorted(made.scores, key=lambda one: one.asked_us + luck.randrange(SLACK_US // 2))
    labels = sorted(made.labels, key=lambda one: one.at_us + luck.randrange(DISORDER_US))
    join = LabelJoin(label, DISORDER_US)
    scores_us = labels_us = 0
    while scores or labels:
        if scores and (not labels or luck.random() < 0.75):
            for scored in scores[: luck.randrange(1, 9)]:
                join.add_score(scored)
                scores_us = max(scores_us, scored.asked_us)
                scores = scores[1:]
        elif labels:
            happened, *labels = labels
            join.add_label(happened)
            labels_us = max(labels_us, happened.at_us)
        if luck.random() < 0.3:
            join.settle(scores_us, labels_us, labels_us)
        if restarts and luck.random() < 0.2:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(join.state), type=JoinState)
            join = LabelJoin(label, DISORDER_US, state)
    end_us = 100 * MINUTE_US
    join.settle(end_us, end_us, end_us)
    return join.state, join


@pytest.mark.parametrize("absent", [None, False, True])
@pytest.mark.parametrize("seed", range(10))
def test_each_score_gets_the_first_label_of_its_entity_in_time_and_once(seed: int, absent: bool | None) -> None:
    label = msgspec.structs.replace(LABEL, absent=absent)
    made = world(seed)
    expected = naive(made, label)
    state, join = run(made, label, seed)
    assert state.counted == len(expected)
    found = join.state.rolling.accuracy(100 * MINUTE_US)
    for version in ("1", "2"):
        of_version = [(score, value) for v, score, value in expected if v == version]
        assert found[version].labels == len(of_version)
        assert found[version].base_rate == pytest.approx(sum(value for _, value in of_version) / len(of_version))
    assert (state.waiting, state.kept) == ([], [])
    assert (state.lost, state.halvings) == (0, 0)


def test_the_order_of_reading_changes_nothing() -> None:
    made = world(3)
    first, *others = [run(made, LABEL, seed)[0].rolling for seed in range(6)]
    assert all(other == first for other in others)


def test_a_score_that_was_appended_twice_counts_once() -> None:
    join = LabelJoin(LABEL, DISORDER_US)
    scored = WaitingScore("p", "u", "1", 5 * MINUTE_US, 0.5)
    join.add_score(scored)
    join.add_label(LabelEvent("u", 6 * MINUTE_US, 0, 0, True))
    join.settle(6 * MINUTE_US, 8 * MINUTE_US, 8 * MINUTE_US)
    assert join.state.counted == 1
    join.add_score(WaitingScore("p", "u", "1", 5 * MINUTE_US, 0.5))
    join.settle(8 * MINUTE_US, 8 * MINUTE_US, 8 * MINUTE_US)
    assert (join.state.counted, join.state.waiting) == (1, [])


def test_a_label_is_not_taken_before_an_earlier_one_could_have_come() -> None:
    join = LabelJoin(LABEL, DISORDER_US)
    join.add_score(WaitingScore("p", "u", "1", 5 * MINUTE_US, 0.5))
    join.add_label(LabelEvent("u", 7 * MINUTE_US, 0, 0, True))
    join.settle(7 * MINUTE_US, 7 * MINUTE_US, 7 * MINUTE_US)
    assert join.state.counted == 0
    join.add_label(LabelEvent("u", 7 * MINUTE_US - DISORDER_US, 0, 1, False))
    join.settle(9 * MINUTE_US, 9 * MINUTE_US, 9 * MINUTE_US)
    assert join.state.rolling.accuracy(9 * MINUTE_US)["1"].base_rate == 0.0


def test_of_more_scores_than_fit_an_even_share_is_followed_and_the_state_stays_bounded() -> None:
    join = LabelJoin(msgspec.structs.replace(LABEL, within_us=600 * MINUTE_US), DISORDER_US, most=500)
    luck = random.Random(1)
    for number in range(20_000):
        join.add_score(WaitingScore(f"p{number}", f"u{number}", "1", number * 1_000, luck.random()))
        assert len(join.state.waiting) <= 500
        assert len(join.state.recent) <= 500
    assert 250 < len(join.state.waiting) <= 500
    early = sum(int(scored.prediction_id[1:]) < 10_000 for scored in join.state.waiting)
    assert 0.35 < early / len(join.state.waiting) < 0.65, "drawn from all of the time alike"
    assert join.share == pytest.approx(len(join.state.waiting) / 20_000, rel=0.5)
    for number in range(2_000):
        join.add_label(LabelEvent("nobody", number, 0, number, True))
        assert len(join.state.kept) <= 500
    assert join.state.lost > 0


def test_another_definition_begins_anew() -> None:
    join = LabelJoin(LABEL, DISORDER_US)
    join.add_score(WaitingScore("p", "u", "1", 0, 0.5))
    other = msgspec.structs.replace(LABEL, within_us=1)
    assert LabelJoin(LABEL, DISORDER_US, join.state).state.waiting == join.state.waiting != []
    assert LabelJoin(other, DISORDER_US, join.state).state.waiting == []
