"""Events to scores: what a score is made of, that it counts its own event, and that each is appended once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from replay import recompute
from serve_rig import train
from watch_rig import RISK, WATCHED, Crash, CrashAt, WatchRig, models_in
from worker_rig import SECOND_US, TRIP, Rig

from featureflow.define.spec import Call, Column, Ensemble, Field, Input, Literal, score_column
from featureflow.kernel.derive import features_to_inputs
from featureflow.kernel.finalize import ViewKernel
from featureflow.models.release import Arm, content_of, release
from featureflow.models.store import ModelStore
from featureflow.reading.plan import Plan
from featureflow.store.log.protocol import Partition
from featureflow.store.mirror import RELEASES_DOCUMENT
from featureflow.watch import failpoint
from featureflow.watch.current import CurrentModel
from featureflow.watch.score import Score
from featureflow.watch.scoring import Scoring


@pytest.fixture
def rig(models: ModelStore) -> WatchRig:
    return WatchRig(models)


def positions(scores: dict[int, list[Score]], entity: str = "rider") -> list[tuple[int, int]]:
    return sorted((one.partition, one.offset) for own in scores.values() for one in own if one.entity == entity)


def recomputed(rig: WatchRig, score: Score, upto: dict[int, int]) -> float:
    """The score from the log's events up to ``upto``, by another way."""
    events = next(e for e in rig.rig.events() if e.partition == score.partition)
    row = int(np.searchsorted(events.offsets, score.offset))
    zone = events.columns["zone"][row]
    columns: dict[str, np.ndarray] = {"ask:fare": events.columns["fare"][row : row + 1]}
    for view, entity in zip(WATCHED.views, (events.columns["rider"][row], None if np.isnan(zone) else int(zone)), strict=True):
        kernel = ViewKernel(view, {"trip": TRIP})
        q = np.array([score.scored_at], np.int64)
        values = recompute(kernel, {"trip": TRIP}, {"trip": rig.rig.events()}, [entity], q, {"trip": upto}).values
        for feature, at in zip(view.features, kernel.columns, strict=True):
            block = values[:, at : at + feature.size]
            columns[feature.reference] = block[:, 0] if feature.size == 1 else block
    return float(rig.models.load("risk").score(features_to_inputs(RISK, columns))[0])


def test_every_event_has_the_score_of_features_that_count_it(rig: WatchRig) -> None:
    stage = rig.scoring()
    rig.rig.produce(120)
    rig.ingest()
    end = rig.log.topic(TRIP.topic).end
    rig.drain(stage)
    scores = rig.scores()
    events = rig.rig.events()
    accepted = [
        (e.partition, int(offset))
        for e in events
        for offset in e.offsets[e.times_us <= e.timestamps_us + TRIP.future_us]
    ]
    assert positions(scores) == sorted(accepted)
    flat = [one for own in scores.values() for one in own]
    assert {one.degraded for one in flat} == {"[]"}
    for one in flat[::7]:
        assert one.score == pytest.approx(recomputed(rig, one, end), abs=1e-6)
        features = msgspec.json.decode(one.features or "")
        assert set(features) == {"ask:fare", "rider_now:count_1h", "zone_now:last_n"}
        assert len(features["zone_now:last_n"]) == 3
    assert len({one.score for one in flat}) > 20
    ids = {one.id: partition for partition, own in scores.items() for one in own}
    assert all(ids[one.id] == partition for partition, own in scores.items() for one in own), "an entity's scores are in one partition"


def test_an_event_waits_until_its_features_count_it(rig: WatchRig) -> None:
    """The scoring comes first; its read goes on until ingest has folded the event."""
    stage = rig.scoring()
    rig.rig.append([rig.rig.trip(rider="ada", zone=7, fare=1.0, at=rig.rig.clock.now_us())])
    late = threading.Timer(0.05, rig.ingest)
    late.start()
    rig.steps(stage, 3)
    late.join()
    [one] = [one for own in rig.scores().values() for one in own if one.entity == "rider"]
    assert msgspec.json.decode(one.features or "")["rider_now:count_1h"] == 1.0
    assert "behind" not in one.degraded


def test_an_event_that_waited_long_enough_is_scored_as_it_stands_and_says_so(models: ModelStore) -> None:
    rig = WatchRig(models, wait_us=0)
    stage = rig.scoring()
    rig.rig.append([rig.rig.trip(rider="ada", zone=7, fare=1.0, at=rig.rig.clock.now_us())])
    rig.steps(stage, 3)
    [one] = [one for own in rig.scores().values() for one in own if one.entity == "rider"]
    assert "behind" in msgspec.json.decode(one.degraded)
    assert msgspec.json.decode(one.features or "")["rider_now:count_1h"] is None


def test_what_came_before_the_alert_was_applied_is_not_scored_and_all_that_came_after_is(rig: WatchRig) -> None:
    rig.rig.produce(30)
    begins = {Partition("trip", partition): end for partition, end in rig.log.topic(TRIP.topic).end.items()}
    rig.rig.produce(30)
    rig.ingest()
    rig.drain(rig.scoring(begins=begins))
    scored = positions(rig.scores())
    assert scored
    assert all(offset >= begins[Partition("trip", partition)] for partition, offset in scored)


@pytest.mark.parametrize("name", get_args(failpoint.Scoring))
def test_no_event_is_scored_twice_or_never_wherever_the_process_dies(models: ModelStore, name: failpoint.Name) -> None:
    rig = WatchRig(models)
    for nth in (1, 2):
        rig.rig.produce(40)
        rig.ingest()
        dying = rig.scoring(CrashAt(name, nth if name != "scoring_placed" else 1))
        with pytest.raises(Crash):
            rig.steps(dying, 50, rig.more)
        rig.drain(rig.scoring())           # another process: the dead one's group is taken over
    accepted = [
        (e.partition, int(offset))
        for e in rig.rig.events()
        for offset in e.offsets[e.times_us <= e.timestamps_us + TRIP.future_us]
    ]
    assert positions(rig.scores()) == sorted(accepted)


def test_a_process_that_has_lost_its_group_appends_nothing(rig: WatchRig) -> None:
    old = rig.scoring()
    rig.rig.produce(10)
    rig.ingest()
    old.step(timeout_s=0.0)
    old.step(timeout_s=0.0)
    new = rig.scoring()
    rig.rig.produce(10)
    rig.ingest()
    rig.drain(new)
    before = sum(map(len, rig.scores().values()))
    rig.steps(old, 3)
    assert sum(map(len, rig.scores().values())) == before


def test_records_that_are_no_events_are_passed_by_and_counted(rig: WatchRig) -> None:
    stage = rig.scoring()
    now_us = rig.rig.clock.now_us()
    ahead = rig.rig.trip(rider="bob:{0}", at=now_us + 60 * SECOND_US)
    rig.rig.append([rig.rig.trip(rider="ada", at=now_us), rig.rig.poison(), ahead])
    rig.ingest()
    rig.drain(stage)
    assert len(positions(rig.scores())) == 1
    skipped = {
        sample.labels["reason"]: sample.value
        for metric in rig.registry.collect() if metric.name == "featureflow_watch_skipped"
        for sample in metric.samples if sample.name.endswith("_total")
    }  # fmt: skip
    assert skipped.pop("future") == 1
    assert skipped


def test_lost_state_is_no_score_where_the_model_refuses_it_and_the_event_is_passed(models: ModelStore) -> None:
    strict = msgspec.structs.replace(RISK, when_missing="refuse")
    rig = WatchRig(models, rig=Rig(), project=msgspec.structs.replace(WATCHED, models=(strict,)), wait_us=0)
    stage = rig.scoring()
    rig.rig.online.drop_view(WATCHED.views[0].id, for_good=True)
    rig.rig.append([rig.rig.trip(rider="ada", zone=7, at=rig.rig.clock.now_us())])
    rig.steps(stage, 3)
    [one] = [one for own in rig.scores().values() for one in own if one.entity == "rider"]
    assert one.score is None
    assert "unscored:missing" in msgspec.json.decode(one.degraded)
    assert "rider_now:missing" in msgspec.json.decode(one.degraded)


def looked(stage: Scoring) -> None:
    """As when the time has come to look which version should score."""
    stage._current._due = 0.0
    stage._current.get()
    stage._current.wait(30.0)


def scored_by(rig: WatchRig, stage: Scoring) -> str:
    """The version that scores an event now."""
    looked(stage)
    [(_, offset)] = rig.log.append(TRIP.topic, [rig.rig.trip(rider="ada", at=rig.rig.clock.now_us())])
    rig.ingest()
    rig.drain(stage)
    [version] = {one.model_version for own in rig.scores().values() for one in own if (one.id, one.offset) == ("ada", offset)}
    return version


def test_a_new_version_scores_what_comes_after_it_without_a_restart(tmp_path: Path) -> None:
    rig = WatchRig(models_in(tmp_path))
    stage = rig.scoring()
    assert scored_by(rig, stage) == "1"
    train(rig.models, RISK, seed=9)
    assert scored_by(rig, stage) == "2"


def test_what_is_released_scores_and_no_other_version_of_its_name(tmp_path: Path) -> None:
    rig = WatchRig(models_in(tmp_path))
    train(rig.models, RISK, seed=9)
    stage = rig.scoring()

    def released(version: str, content: str = "") -> None:
        content = content or content_of(rig.models.load("risk", version).manifest)
        arm = Arm(name="stable", version=version, weight=10_000, content=content)
        document = release(None, arm, model="risk", now_us=1, salt="s")
        rig.rig.online.put_meta(RELEASES_DOCUMENT, msgspec.json.encode({"risk": document}))

    assert scored_by(rig, stage) == "2"
    released("1")
    assert scored_by(rig, stage) == "1"
    released("2", content="another")
    assert scored_by(rig, stage) == "1"
    assert "another one than was released" in stage._current.problem
    released("2")
    assert scored_by(rig, stage) == "2"


def test_an_ensemble_scores_by_its_members_and_its_version_is_of_theirs(tmp_path: Path) -> None:
    halved = Ensemble(members=("risk",), rules=(), score=Call("mul", (Column(score_column("risk")), Literal(0.5))))
    inputs = tuple(msgspec.structs.replace(one, name=f"risk.{one.name}") for one in RISK.inputs)
    both = msgspec.structs.replace(RISK, name="both", inputs=inputs, ensemble=halved)
    rules = tuple(msgspec.structs.replace(rule, model="both") for rule in WATCHED.alerts)
    rig = WatchRig(models_in(tmp_path), project=msgspec.structs.replace(WATCHED, models=(RISK, both), alerts=rules))
    stage = rig.scoring(model="both")
    first = scored_by(rig, stage)
    [one, *_] = [one for own in rig.scores().values() for one in own if one.entity == "rider"]
    assert one.score == pytest.approx(recomputed(rig, one, rig.log.topic(TRIP.topic).end) / 2, abs=1e-6)
    assert (one.model, one.variant) == ("both", "ensemble")
    assert scored_by(rig, stage) == first
    train(rig.models, RISK, seed=9)
    assert scored_by(rig, stage) != first


def test_a_version_with_inputs_of_its_own_scores_if_it_is_said_of_events_what_it_reads(tmp_path: Path) -> None:
    """The definition has come to read less: what a version reads beside that is found in the event, or said by the alert."""
    store = ModelStore(tmp_path, provider="cpu")
    train(store, RISK, 3, WATCHED)
    less = msgspec.structs.replace(RISK, inputs=RISK.inputs[:1])
    rules = tuple(msgspec.structs.replace(rule, ids={"rider": "rider"}, context={}) for rule in WATCHED.alerts)
    rig = WatchRig(store, project=msgspec.structs.replace(WATCHED, models=(less,), alerts=rules))
    stage = rig.scoring()
    assert scored_by(rig, stage) == "1"
    scores = [one for own in rig.scores().values() for one in own if one.entity == "rider"]
    wanted = recomputed(rig, scores[0], rig.log.topic(TRIP.topic).end)
    assert scores[0].score == pytest.approx(wanted, abs=1e-6)
    assert "zone_now:last_n" in msgspec.json.decode(scores[0].features or "{}")
    train(store, less, 4, rig.project)
    assert scored_by(rig, stage) == "2"
    newest = next(one for own in rig.scores().values() for one in own if one.model_version == "2")
    assert list(msgspec.json.decode(newest.features or "{}")) == ["rider_now:count_1h"]

    hour = msgspec.structs.replace(WATCHED.requests[0], fields=(*WATCHED.requests[0].fields, Field(name="hour", type="int", nullable=True)))
    more = msgspec.structs.replace(RISK, inputs=(*RISK.inputs, Input(name="hour", expr=Column("ask:hour"))))
    train(store, more, 5, msgspec.structs.replace(WATCHED, requests=(hour,), models=(more,)))
    both = WatchRig(store, project=msgspec.structs.replace(WATCHED, requests=(hour,), models=(less,)))
    refusing = both.scoring()
    assert refusing._current.get() is None
    assert "risk@3 reads ask:hour, and neither an event of trip nor the alert by_rider says what that is" in refusing._current.problem
    said = tuple(msgspec.structs.replace(rule, context={**rule.context, "ask:hour": Column("zone")}) for rule in WATCHED.alerts)
    saying = WatchRig(store, project=msgspec.structs.replace(WATCHED, requests=(hour,), models=(less,), alerts=said))
    assert scored_by(saying, saying.scoring()) == "3"


def test_a_version_one_of_whose_views_waits_for_its_sources_scores_nothing_and_says_why(tmp_path: Path) -> None:
    rig = WatchRig(models_in(tmp_path))
    current = CurrentModel(rig.models, rig.rig.online, Plan(rig.project, {}), "risk", "")
    for _ in range(2):
        assert current.get() is None
        current.wait(60.0)
    assert "waits for trip; run: featureflow apply" in current.problem
    current.close()
