"""Lost replies, duplicates, rollbacks, rivals and servers that are away: whatever goes wrong, every value is what the log says."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from troubled_store import TroubledStore
from worker_rig import KEYS, RIDER, RIDERS, SECOND_US, START_US, ZONE, Rig

from featureflow import limits
from featureflow.backoff import Backoff
from featureflow.clock import ManualClock
from featureflow.errors import LogError, StateError, UnavailableError
from featureflow.ingest import failpoint
from featureflow.ingest.source_views import SourceViews
from featureflow.ingest.worker import Worker
from featureflow.store.log.memory import MemoryConsumer
from featureflow.store.online import record
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Advance, Commit, Committed, Refused


def storm(seed: int, store_class: type[MemoryOnlineStore] = MemoryOnlineStore, *, rebuilds: float = 0.0, buckets: int = 1) -> bool:
    """Sixty turns in bad weather. Whether every value is then what the log says.

    ``rebuilds``: the chance that a view is dropped and begins anew, at each turn; slices of the past are then small.
    """
    luck = random.Random(seed)
    rig = Rig(seed=seed, online_class=store_class, luck=luck, buckets=buckets)

    def begin() -> None:
        rig.produce(luck.randrange(6), bad=0.05)
        if luck.random() < rebuilds:
            rig.rebuild(luck.choice((RIDER, ZONE)))

    return rig.storm(begin)


@pytest.mark.parametrize("seed", range(40))
def test_buckets_that_are_refused_and_lost_one_by_one_come_to_the_same_values(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAST_RECORDS", 7)
    assert storm(seed, rebuilds=0.04, buckets=3)


@pytest.mark.parametrize("seed", range(40))
def test_views_that_catch_up_at_their_own_pace_in_bad_weather_come_to_the_same_values(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAST_RECORDS", 7)
    assert storm(seed, rebuilds=0.08)


@pytest.mark.parametrize("seed", range(40))
def test_lost_replies_duplicates_rollbacks_and_rivals_change_no_value(seed: int) -> None:
    assert storm(seed)


class Away(MemoryOnlineStore):
    """A store that is asked ``tried`` times whether it may hold state, and does not answer once it is ``away``."""

    away, tried = False, 0

    def check(self) -> list[str]:
        self.tried += 1
        if self.away:
            raise UnavailableError("nobody answers; see online.url")
        return super().check()


def tried_in_a_minute() -> int:
    """How often a worker asks a store that is away, by a clock that is told."""
    clock = ManualClock(START_US)
    store = Away(clock)
    rig = Rig(online=store, clock=clock)
    worker = rig.worker()
    worker.open()
    store.away, store.tried = True, 0
    for _ in range(6_000):
        worker.step(timeout_s=0.0, wait=lambda seconds: None)
        clock.advance(10_000)
    assert not worker.status().ready
    store.away = False
    rig.produce(50)
    rig.drain(worker)
    assert rig.agrees()
    return store.tried


def test_a_store_that_is_away_is_asked_again_after_waits_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10 <= tried_in_a_minute() <= 60
    monkeypatch.setattr(Backoff, "failed", lambda self: 0)
    assert tried_in_a_minute() > 1_000, "the test would not show that nobody waits"


class NoOffset(MemoryOnlineStore):
    """Wherever a commit starts from, it may go."""

    def commit(self, commit: Commit) -> Committed | Refused:
        stored = self.offsets(commit.source, commit.partition, [advance.view_id for advance in commit.advances])
        advances = [
            replace(advance, from_offset=min(record.offset, advance.to_offset))
            for advance in commit.advances
            if (record := stored[advance.view_id]) is not None
        ]
        for advance in advances:                                  # where the stored one is higher it is put back first
            self._put_back(commit, advance)
        return super().commit(replace(commit, advances=tuple(advances)))

    def _put_back(self, commit: Commit, advance: Advance) -> None:
        key = KEYS.offset(advance.view_id, commit.source, commit.partition)
        (value,) = self.read([key])
        assert value is not None
        self.damage(key, record.encode(replace(record.decode(value), offset=advance.from_offset)))


def seen(store_class: type[MemoryOnlineStore] = MemoryOnlineStore) -> bool:
    """Whether one of forty storms ends with a wrong value, or loudly."""
    for seed in range(40):
        try:
            if not storm(seed, store_class):
                return True
        except (StateError, LogError):
            return True
    return False


def test_a_storm_would_show_that_the_store_does_not_compare_offsets() -> None:
    assert seen(NoOffset)


def test_a_storm_would_show_that_rows_outlive_their_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def stay(self: SourceViews, partition: int) -> None:
        for _, slab in self._each:
            while slab.pending is not None:
                slab.committed([0] * 1_000)

    monkeypatch.setattr(SourceViews, "drop", stay)
    monkeypatch.setattr(limits, "FEW_EVENTS", 0)                   # a value that grows with each event tells by its length
    assert seen()


def refused_with_the_next_batch_in_hand() -> bool:
    """Whether every value is what the log says, though a commit was refused while the next batch was decoded and folded.

    The store is out of order for one commit: a key has another length, and has its own again before the answer is taken.
    """
    rig, armed = Rig(1, online_class=MemoryOnlineStore), list[bytes]()
    key = KEYS.state("rider", "ada", RIDER.id, "trip", None)
    assert isinstance(rig.online, TroubledStore)
    store = rig.online.store

    def disorder(name: failpoint.Name) -> None:
        if armed and name == "before_commit":
            store.damage(key, armed[0] * 2)
        elif armed and name == "in_flight":
            store.damage(key, armed.pop())

    worker = rig.started(poll_records=1, failpoint=disorder)
    rig.append([rig.trip(rider="ada", zone=7, fare=20.0, at=rig.clock.now_us())])
    rig.drain(worker)
    rig.append([rig.trip(rider=rider, zone=7, fare=20.0, at=rig.clock.now_us()) for rider in RIDERS])
    armed += [value for value in store.read([key]) if value is not None]
    worker.step(timeout_s=0.0)
    assert not armed, "the next batch was in hand"
    rig.drain(worker)
    return rig.agrees()


def test_a_batch_folded_ahead_goes_with_the_one_before_it_that_was_refused() -> None:
    assert refused_with_the_next_batch_in_hand()


def test_a_batch_that_was_sent_though_the_one_before_it_was_refused_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_stands", lambda self, flight: True)
    monkeypatch.setattr(Worker, "_refused", lambda *refused: None)
    assert not refused_with_the_next_batch_in_hand()


def test_a_zombie_that_wakes_up_writes_nothing_and_leaves_its_successor_alone() -> None:
    rig = Rig(1)
    successors: list[Any] = []             # the worker, then where it stood

    def stopped(name: failpoint.Name) -> None:
        if name == "before_commit" and armed and not successors:  # with a batch in hand, while a successor takes over
            successors.append(rig.started())
            rig.drain(successors[0])
            successors.append(rig.at())

    armed: list[bool] = []
    registry = CollectorRegistry()
    zombie = rig.started(failpoint=stopped, registry=registry)
    rig.drain(zombie)
    armed.append(True)
    rig.produce(10)
    zombie.step(timeout_s=0.0)
    assert successors[1].offset == 10
    assert rig.at() == successors[1]
    assert rig.agrees()
    assert registry.get_sample_value("featureflow_ingest_commits_total", {"outcome": "fenced"}) == 1
    rig.clock.advance(SECOND_US)
    zombie.step(timeout_s=0.0)
    assert zombie.status().partitions == ()
    assert rig.at().token == successors[1].token, "it did not claim again"


def test_lag_is_shown_of_partitions_that_are_held_and_of_no_other() -> None:
    rig, registry = Rig(1, online_class=MemoryOnlineStore), CollectorRegistry()

    def lag() -> float | None:
        return registry.get_sample_value("featureflow_ingest_lag", {"source": "trip", "partition": "0"})

    worker, store = rig.started(registry=registry), rig.online
    assert isinstance(store, TroubledStore)
    rig.produce(10)
    rig.drain(worker)
    rig.produce(20)
    rig.clock.advance(5 * SECOND_US)
    store.rate = 1.0
    worker.step(timeout_s=0.0)
    assert not worker.status().ready
    assert lag() is None, "it grows, and nobody counts"
    store.rate = 0.0
    rig.drain(worker)
    rig.clock.advance(5 * SECOND_US)
    worker.step(timeout_s=0.0)
    assert lag() == 0.0
    rig.started()                           # another takes all partitions
    worker.step(timeout_s=0.0)
    assert lag() is None


def test_a_store_that_is_away_is_waited_for_and_nothing_is_lost() -> None:
    rig = Rig(online_class=MemoryOnlineStore)
    store = rig.online
    assert isinstance(store, TroubledStore)
    worker = rig.started()
    rig.produce(50)
    rig.drain(worker)
    store.rate = 1.0
    rig.produce(50)
    for _ in range(20):
        assert worker.step(timeout_s=0.0) == 0
        rig.clock.advance(400_000)
    assert not worker.status().ready
    assert "online.url" in worker.status().problems[0]
    assert store.troubles < 15, "the wait grows"
    store.rate = 0.0
    rig.drain(worker)
    assert worker.status().ready
    assert rig.agrees()


def test_a_log_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, waited = Rig(1), list[float]()
    worker = rig.started()
    rig.drain(worker)

    def away(self: MemoryConsumer, **bounds: object) -> None:
        raise UnavailableError("no broker answers; see log.url")

    with monkeypatch.context() as network:
        network.setattr(MemoryConsumer, "poll", away)
        worker.step(timeout_s=0.5, wait=waited.append)
    assert waited == [0.5]
    assert worker.status().problems == ("no broker answers; see log.url",)
    rig.produce(5)
    rig.drain(worker)
    assert worker.status().ready


def test_keys_that_expired_while_they_were_cached_are_written_whole() -> None:
    rig = Rig(1)
    worker = rig.started()
    rig.produce(60)
    rig.drain(worker)
    rig.clock.advance(9_000 * SECOND_US)                          # beyond the hour view's time to live
    assert rig.online.read([b"feat:{0}:rider:ada:" + RIDER.id.encode() + b":trip"]) == [None]
    rig.produce(20)
    rig.drain(worker)
    assert rig.agrees()
