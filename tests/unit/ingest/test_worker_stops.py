"""What waiting does not cure stops the worker, and is named with the command that does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from worker_rig import ALL_VIEWS, SECOND_US, TRIP, ZONE, Rig

from featureflow.errors import LogError, OffsetMissingError, OffsetOutOfRangeError, StateError
from featureflow.ingest.past import Past
from featureflow.store.log.memory import MemoryConsumer
from featureflow.store.log.protocol import Polled
from featureflow.store.mirror import partitions_document


def test_a_view_that_was_never_applied_stops_the_worker_and_names_the_command() -> None:
    rig = Rig()
    rig.online.drop_view(ZONE.id)
    worker = rig.started()
    with pytest.raises(OffsetMissingError, match="featureflow apply"):
        rig.drain(worker)


def test_a_store_that_was_emptied_stops_the_worker() -> None:
    rig = Rig()
    worker = rig.started()
    rig.produce(10)
    rig.drain(worker)
    for view_id in ALL_VIEWS:
        rig.online.drop_view(view_id)
    rig.produce(10)
    with pytest.raises(OffsetMissingError, match="featureflow rebuild"):
        rig.drain(worker)


def test_a_store_that_evicts_stops_the_worker_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    worker = rig.started()
    rig.drain(worker)
    monkeypatch.setattr(rig.online, "check", lambda: ["maxmemory-policy is volatile-lru"])
    for _ in range(4):
        rig.clock.advance(SECOND_US)
        worker.step(timeout_s=0.0)
    rig.clock.advance(SECOND_US)
    with pytest.raises(StateError, match="volatile-lru"):
        worker.step(timeout_s=0.0)


def test_a_topic_that_was_recreated_stops_the_worker() -> None:
    rig = Rig()
    rig.memory_log.delete_topic(TRIP.topic)
    rig.log.ensure_topic(TRIP.topic, 2)
    with pytest.raises(OffsetMissingError, match="created again"):
        rig.drain(rig.started())


def test_events_deleted_before_they_were_folded_stop_the_worker_and_name_the_rebuild() -> None:
    rig = Rig(1)
    rig.produce(20)
    rig.memory_log.delete_before(TRIP.topic, 0, 5)
    with pytest.raises(OffsetOutOfRangeError, match="begins at 5.*featureflow rebuild"):
        rig.drain(rig.started())


def test_events_deleted_under_a_reading_worker_stop_it_and_name_the_rebuild() -> None:
    rig = Rig(1)
    worker = rig.started()
    rig.drain(worker)
    rig.produce(20)
    rig.memory_log.delete_before(TRIP.topic, 0, 15)
    with pytest.raises(OffsetOutOfRangeError, match="featureflow rebuild") as caught:
        rig.drain(worker)
    assert str(caught.value).count("featureflow rebuild") == 1


def test_a_log_that_went_back_stops_the_worker() -> None:
    rig = Rig(1)
    topic_id = rig.log.topic(TRIP.topic).topic_id
    for view_id in ALL_VIEWS:
        rig.online.drop_view(view_id)
        rig.online.create_offsets(view_id, "trip", topic_id, {0: 9})
    with pytest.raises(LogError, match="truncated.*Give the event a new name"):
        rig.drain(rig.started())


def test_a_partition_that_readers_do_not_know_of_is_not_committed() -> None:
    rig = Rig(2)
    rig.online.put_meta(partitions_document("trip"), b"1")
    with pytest.raises(StateError, match="featureflow apply"):
        rig.drain(rig.started())


def test_what_is_on_its_way_is_finished_though_the_log_fails_in_the_middle_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, polls = Rig(1), itertools.count()
    worker = rig.started(poll_records=1)
    rig.drain(worker)
    rig.append([rig.trip(at=rig.clock.now_us()) for _ in range(3)])
    poll = MemoryConsumer.poll

    def malformed(self: MemoryConsumer, **bounds: Any) -> Polled:
        if next(polls) == 1:
            raise LogError("the record batch at offset 1 is malformed: its records do not fill it")
        return poll(self, **bounds)

    before = worker.status().events
    monkeypatch.setattr(MemoryConsumer, "poll", malformed)
    with pytest.raises(LogError, match="malformed"):
        worker.step(timeout_s=0.0)
    worker.close()
    assert worker.status().events == before + 1


def test_a_worker_that_cannot_leave_its_group_keeps_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, closed = Rig(1), list[bool]()
    worker = rig.started()
    rig.drain(worker)

    def stuck(self: MemoryConsumer) -> None:
        raise LogError("leaving the group failed")

    monkeypatch.setattr(MemoryConsumer, "close", stuck)
    monkeypatch.setattr(Past, "close", lambda self: closed.append(True))
    with pytest.raises(LogError, match="leaving the group"):
        worker.close()
    assert closed == [True]
    assert (worker.status().ready, worker.status().partitions) == (False, ())
