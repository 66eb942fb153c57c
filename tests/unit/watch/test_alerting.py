"""Scores to alerts: each exactly once, whatever dies when, and never against one that was sent."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from watch_rig import SCORES, WATCHED, Crash, CrashAt, WatchRig, by_id

from featureflow.errors import LogError
from featureflow.models.store import ModelStore
from featureflow.store.log.protocol import Record
from featureflow.watch import failpoint
from featureflow.watch.score import Score


def scored(rig: WatchRig, count: int = 150) -> None:
    rig.rig.produce(count)
    rig.ingest()
    rig.drain(rig.scoring())


def test_alerts_are_what_the_score_topic_comes_to(models: ModelStore) -> None:
    rig = WatchRig(models)
    scored(rig)
    rig.drain(rig.alerting())
    alerts = rig.alerts()
    assert by_id(alerts) == by_id(rig.expected_alerts())
    assert {alert.rule for alert in alerts} >= {"by_rider", "at_once"}
    assert {alert.level for alert in alerts} == {"raised", "cleared"}
    assert len(alerts) > 20


def test_averages_go_on_over_a_restart(models: ModelStore) -> None:
    """Each of ten processes folds a part, and restores what the others came to."""
    rig = WatchRig(models)
    for _ in range(10):
        scored(rig, 20)
        rig.drain(rig.alerting())
    assert by_id(rig.alerts()) == by_id(rig.expected_alerts())
    assert len(rig.alerts()) > 20


@pytest.mark.parametrize("name", get_args(failpoint.Alerting))
def test_an_alert_is_there_exactly_once_wherever_the_process_dies(models: ModelStore, name: failpoint.Name) -> None:
    rig = WatchRig(models)
    for _ in range(3):
        scored(rig, 40)
        dying = rig.alerting(CrashAt(name))
        with pytest.raises(Crash):
            rig.steps(dying, 20)
        rig.drain(rig.alerting())
    assert by_id(rig.alerts()) == by_id(rig.expected_alerts())
    assert len(rig.alerts()) > 10


def test_events_that_are_scored_once_more_tell_nobody_anything(models: ModelStore) -> None:
    """Somebody has set the scoring group back to the beginning, and the features are others now."""
    rig = WatchRig(models)
    scored(rig)
    rig.drain(rig.alerting())
    sent = by_id(rig.alerts())
    before = sum(map(len, rig.scores().values()))
    rig.rig.memory_log.stands["score"].clear()
    rig.drain(rig.scoring())
    assert sum(map(len, rig.scores().values())) > before
    rig.drain(rig.alerting())
    assert by_id(rig.alerts()) == sent


def test_a_rebuild_of_the_features_scores_nothing_anew(models: ModelStore) -> None:
    rig = WatchRig(models)
    scored(rig)
    rig.drain(rig.alerting())
    sent, scores = by_id(rig.alerts()), rig.scores()
    for view in WATCHED.views:
        rig.rig.rebuild(view)
    rig.ingest()
    rig.drain(rig.scoring())
    rig.drain(rig.alerting())
    assert (by_id(rig.alerts()), rig.scores()) == (sent, scores)


def test_a_threshold_that_is_declared_otherwise_is_looked_at_with_the_next_score(models: ModelStore) -> None:
    rig = WatchRig(models)
    scored(rig)
    rig.drain(rig.alerting())
    known = {alert.alert_id for alert in rig.alerts()}
    rules = tuple(msgspec.structs.replace(rule, above=-1.0, until=-2.0) for rule in WATCHED.alerts)
    rig.project = msgspec.structs.replace(WATCHED, alerts=rules)
    scored(rig, 60)
    rig.drain(rig.alerting())
    new = [alert for alert in rig.alerts() if alert.alert_id not in known]
    assert new
    assert {(alert.level, alert.threshold) for alert in new} == {("raised", -1.0)}


def test_scores_that_moved_between_partitions_are_not_folded(models: ModelStore) -> None:
    rig = WatchRig(models)
    rig.rig.memory_log.delete_topic(SCORES.topic)
    rig.log.ensure_topic(SCORES.topic, 5)
    stage = rig.alerting()
    with pytest.raises(LogError, match="5 partitions"):
        rig.steps(stage, 3)


def test_what_is_no_score_is_passed_by_and_stops_no_alert(models: ModelStore) -> None:
    rig = WatchRig(models)
    rig.log.append(SCORES.topic, [Record(b'{"score": "high"}', None, partition) for partition in range(3)])
    scored(rig)
    rig.drain(rig.alerting())
    assert rig.registry.get_sample_value("featureflow_watch_skipped_total", {"source": SCORES.name, "reason": "no_score"}) == 3.0
    assert len(rig.alerts()) > 20


def test_scores_of_a_model_that_no_rule_watches_any_more_are_passed_by(models: ModelStore) -> None:
    rig = WatchRig(models)
    scored(rig, 30)
    rig.drain(rig.alerting(project=msgspec.structs.replace(WATCHED, alerts=())))
    assert rig.alerts() == []
    assert any(isinstance(one, Score) for own in rig.scores().values() for one in own)
