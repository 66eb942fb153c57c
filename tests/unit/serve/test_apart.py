"""One request that goes as several."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from featureflow.errors import RequestError
from featureflow.pending import Pending
from featureflow.serve.answer import Answer, Reply, Shed
from featureflow.serve.apart import apart
from featureflow.serve.wire.v1 import Assignment, FeatureValue, ScoreAnswer


def scored(*scores: float, arm: str = "", degraded: Sequence[str] = (), explained: bool = False) -> Answer:
    features: list[dict[str, FeatureValue]] | UnsetType = [{"f": FeatureValue(s, "present", None)} for s in scores] if explained else UNSET
    parts: list[dict[str, float | None]] | UnsetType = [{"rule": s} for s in scores] if explained else UNSET
    assignment = Assignment(3, arm) if arm else UNSET
    ids = [f"id{s:g}" for s in scores]
    return Answer(200, msgspec.json.encode(
        ScoreAnswer("m", arm or "7", "int8", "cpu", "now", list(scores), ids, list(degraded), "r", features, UNSET, parts, assignment)
    ))  # fmt: skip


def asked(*places: Sequence[int]) -> tuple[Pending[Reply], list[Pending[Reply]]]:
    future: Pending[Reply] = Pending()
    return future, apart(future, places)


def answered(future: Pending[Reply]) -> ScoreAnswer:
    answer = future.result()
    assert isinstance(answer, Answer)
    return msgspec.json.decode(answer.body, type=ScoreAnswer)


def test_rows_keep_their_order_whichever_part_is_answered_first() -> None:
    future, (first, second) = asked([0, 3], [1, 2])
    second.set_result(scored(1, 2, degraded=["v:stale"], explained=True))
    assert not future.done()
    first.set_result(scored(0, 3, degraded=["v:missing", "v:stale"], explained=True))
    found = answered(future)
    assert (found.scores, found.prediction_ids) == ([0, 1, 2, 3], ["id0", "id1", "id2", "id3"])
    assert found.degraded == ["v:missing", "v:stale"]
    assert found.features is not UNSET and [row["f"].value for row in found.features] == [0, 1, 2, 3]
    assert found.parts is not UNSET and [row["rule"] for row in found.parts] == [0, 1, 2, 3]
    assert (found.version, found.assignment) == ("7", UNSET)


def test_parts_of_one_arm_are_answered_as_if_it_had_been_asked_at_once_and_those_of_several_say_whose_a_row_is() -> None:
    future, (first, second) = asked([0], [1])
    first.set_result(scored(0, arm="stable"))
    second.set_result(scored(1, arm="stable"))
    assert answered(future).assignment == Assignment(3, "stable")
    future, (first, second) = asked([1], [0, 2])
    first.set_result(scored(1, arm="stable"))
    second.set_result(scored(0, 2, arm="canary"))
    found = answered(future)
    assert found.assignment == Assignment(3, "stable+canary", ["canary", "stable", "canary"])
    assert found.version == "stable+canary"


def test_what_keeps_one_part_from_being_answered_keeps_all_and_the_others_are_not_waited_for() -> None:
    future, parts = asked([0], [1], [2])
    parts[0].set_result(scored(0))
    parts[1].set_result(Shed("late", "too late"))
    assert future.result() == Shed("late", "too late")
    assert parts[2].cancelled()
    future, parts = asked([0], [1])
    parts[1].set_exception(RequestError("No such model version", "x"))
    with pytest.raises(RequestError):
        future.result()
    assert parts[0].cancelled()


def test_a_caller_who_has_gone_away_waits_for_no_part() -> None:
    future, parts = asked([0], [1])
    parts[0].set_result(scored(0))
    future.cancel()
    assert [part.cancelled() for part in parts] == [False, True]


def test_what_cannot_be_read_of_a_part_is_told() -> None:
    future, parts = asked([0], [1])
    parts[0].set_result(Answer(200, b"{}"))
    parts[1].set_result(scored(1))
    with pytest.raises(msgspec.ValidationError):
        future.result()
