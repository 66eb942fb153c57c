"""The worker against a log and a store in memory: every value is what the log says, whatever goes wrong in between."""

from __future__ import annotations

import itertools
import random
import threading
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from trips import LIFETIME
from worker_rig import PROJECT, RIDER, RIDERS, SECOND_US, START_US, TRIP, ZONE, Rig, TroubledStore

from featureflow import limits
from featureflow.backoff import Backoff
from featureflow.clock import NO_TIME_US, ManualClock
from featureflow.define.spec import DEFAULT_PROJECT, Aggregation, Column, Project, View, with_version
from featureflow.errors import LogError, OffsetMissingError, OffsetOutOfRangeError, StateError, UnavailableError
from featureflow.ingest import failpoint, state_writes
from featureflow.ingest.backfill import Backfill
from featureflow.ingest.claim import take
from featureflow.ingest.order import Index, in_order
from featureflow.ingest.past import Past
from featureflow.ingest.source_views import SourceViews
from featureflow.ingest.worker import Worker
from featureflow.kernel import accept
from featureflow.store.keys import Keys
from featureflow.store.log import memory
from featureflow.store.log.memory import MemoryConsumer, MemoryLog
from featureflow.store.log.protocol import TRACE_PARENT, Partition, Polled, Record
from featureflow.store.mirror import partitions_document
from featureflow.store.online import record
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Advance, Commit, Committed, OffsetRecord, Refused, Track

KEYS = Keys(DEFAULT_PROJECT)
ALL_VIEWS = [view.id for view in PROJECT.views]
ALL = with_version(                        # counts all that is not older than a day and the disorder when it comes
    msgspec.structs.replace(
        ZONE, name="zone_all", ttl_us=86_400 * SECOND_US,
        aggregations=tuple(
            Aggregation(name=op, op=op, source="trip", value=value, where=None, windows=(LIFETIME,))
            for op, value in (("count", None), ("sum", Column("fare")))
        ),
    ),
    {"trip": TRIP},
)  # fmt: skip


def started(rig: Rig, **settings: object):  # type: ignore[no-untyped-def]  # passes them on
    worker = rig.worker(**settings)  # type: ignore[arg-type]  # passes them on
    worker.open()
    return worker


def at(rig: Rig, view: View = RIDER) -> OffsetRecord:
    """The view's offset record of partition 0."""
    stored = rig.online.offsets("trip", 0, [view.id])[view.id]
    assert stored is not None
    return stored


# -- the straight way --------------------------------------------------------------------------------------------------


def test_state_is_what_the_log_says_to_the_bit() -> None:
    rig = Rig()
    worker = started(rig)
    for _ in range(5):
        rig.produce(40, bad=0.1)
        rig.drain(worker)
        assert rig.agrees()
    assert worker.status().ready
    assert worker.status().late > 0


def test_no_commit_changes_more_rows_than_its_bound_and_all_events_are_folded() -> None:
    rig, registry = Rig(), CollectorRegistry()
    worker = started(rig, commit_rows=5, registry=registry)
    rig.produce(200)
    rig.drain(worker)
    commits = {s.labels["le"]: s.value for m in registry.collect() for s in m.samples if s.name.endswith("commit_rows_bucket")}
    assert commits["10.0"] == commits["+Inf"] > 20
    assert rig.agrees()


def test_one_row_a_commit_is_slow_but_right() -> None:
    rig = Rig()
    worker = started(rig, commit_rows=1)
    rig.produce(30)
    rig.drain(worker)
    assert rig.agrees()


@pytest.mark.parametrize("bits", [62, 11])
def test_a_poll_that_is_cut_into_thousands_of_commits_loses_nothing(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time they are sorted by a number that so many do not fit into, to see that it would be noticed."""

    def of_so_many_bits(numbers: Index, ties: Index | None = None) -> Index:
        return in_order(numbers & ((1 << bits) - 1), ties)

    monkeypatch.setattr(state_writes, "in_order", of_so_many_bits)
    rig = Rig(1)
    worker = started(rig, commit_rows=1)
    now = rig.clock.now_us()
    rig.append([rig.trip(at=now - (n % 50) * SECOND_US, rider=RIDERS[n % len(RIDERS)], zone=7) for n in range(2_100)])
    try:
        rig.drain(worker)
    except (IndexError, ValueError):       # rows beside those of their entity, or two writes of one
        assert bits == 11
    else:
        assert rig.agrees() is (bits > 11)


def test_a_worker_that_starts_again_goes_on_where_the_store_stands() -> None:
    rig = Rig()
    for _ in range(3):
        worker = started(rig)
        rig.produce(50)
        rig.drain(worker)
        worker.close()
        assert worker.status().problems == ("stopped",)
        assert rig.agrees()


def test_a_worker_that_starts_after_one_was_killed_holds_its_partitions_in_its_first_turn() -> None:
    class Died(BaseException): ...

    def dies(name: failpoint.Name) -> None:
        if name == "in_flight":
            raise Died

    rig = Rig()
    rig.produce(50)
    with pytest.raises(Died):
        rig.drain(started(rig, failpoint=dies))
    again = started(rig)
    again.step(timeout_s=0.0)              # the clock stands: nothing is waited for, and no token has to grow old
    assert again.status().ready
    assert [status.problem for status in again.status().partitions] == ["", ""]
    rig.drain(again)
    assert rig.agrees()


def test_stopping_finishes_what_is_in_hand_and_tells_the_log() -> None:
    rig = Rig(1)
    rig.produce(50)
    stop = threading.Event()

    def after_commit(name: failpoint.Name) -> None:
        if name == "after_commit":
            stop.set()

    worker = rig.worker(failpoint=after_commit)
    worker.run(stop)
    assert rig.memory_log.advisory["featureflow.default.ingest"] == {Partition("trip", 0): 50}
    assert rig.agrees()


def test_an_idle_partition_commits_every_second_so_that_silence_is_not_mistaken_for_loss() -> None:
    rig = Rig(1)
    worker = started(rig)
    rig.drain(worker)
    before = rig.online.offsets("trip", 0, ALL_VIEWS)
    for _ in range(4):
        rig.clock.advance(500_000)
        worker.step(timeout_s=0.0)
    after = rig.online.offsets("trip", 0, ALL_VIEWS)
    for view_id in ALL_VIEWS:
        assert after[view_id].committed_ms >= before[view_id].committed_ms + 1_000  # type: ignore[union-attr]  # they are there
        assert rig.online.visible(view_id, "trip", 0) == []


# -- records that are not folded ---------------------------------------------------------------------------------------


def test_a_bad_record_is_put_aside_with_its_reason_and_position_and_the_partition_goes_on() -> None:
    rig = Rig(1)
    worker = started(rig)
    rig.append([rig.trip(), Record(b"{", key=b"ada", partition=0), Record(b"[1]", partition=0), rig.trip()])
    rig.drain(worker)
    letters = rig.letters()
    assert {(letter["position"], letter["reason"]) for letter in letters} >= {("trip/0/1", "undecodable"), ("trip/0/2", "undecodable")}
    assert worker.status().dead_letters == len(letters)
    assert rig.agrees()


def test_an_event_from_the_future_moves_nothing_and_is_put_aside() -> None:
    rig = Rig(1)
    worker = started(rig)
    rig.append([rig.trip(at=rig.clock.now_us()), rig.trip(at=rig.clock.now_us() + 3_600 * SECOND_US)])
    rig.drain(worker)
    assert [(letter["position"], letter["reason"]) for letter in rig.letters()] == [("trip/0/1", "future")]
    assert at(rig).max_time_us <= rig.clock.now_us()
    assert rig.agrees()


def test_an_event_too_old_for_one_view_is_late_for_that_view_alone() -> None:
    rig = Rig(1)
    worker = started(rig)
    now = rig.clock.now_us()
    rig.append([rig.trip(at=now), rig.trip(at=now - 7_200 * SECOND_US, zone=7, fare=20.0)])
    rig.drain(worker)
    assert [(letter["position"], letter["reason"]) for letter in rig.letters()] == [(f"trip/0/1/{RIDER.id}", "late")]
    assert worker.status().late == 1
    assert rig.agrees()


@pytest.mark.parametrize("buckets", [1, 3])
def test_an_event_too_old_for_a_view_that_has_no_entity_there_is_not_late_for_it(buckets: int) -> None:
    """Whether the view's buckets stand together or one of them is alone behind."""
    rig = Rig(1, buckets=buckets)
    worker = started(rig)
    now = rig.clock.now_us()
    rig.append([rig.trip(at=now), rig.trip(at=now - 2 * 86_400 * SECOND_US, zone=None)])
    rig.drain(worker)
    assert [(letter["position"], letter["reason"]) for letter in rig.letters()] == [(f"trip/0/1/{RIDER.id}", "late")]


@pytest.mark.parametrize(("one_server", "events", "commits"), [(True, 9, 1), (True, 25, 3), (True, 200, 5), (False, 9, 5)])
def test_a_batch_has_a_commit_for_as_many_buckets_as_it_has_rows_for(one_server: bool, events: int, commits: int) -> None:
    rig = Rig(1, online=MemoryOnlineStore(ManualClock(START_US), one_server=one_server), buckets=5, project=replace_views(PROJECT, RIDER))
    registry = CollectorRegistry()
    worker = started(rig, commit_rows=20, registry=registry)
    now = rig.clock.now_us()
    rig.append([rig.trip(at=now, rider=f"rider-{i % 10}") for i in range(events)])
    rig.drain(worker)
    assert registry.get_sample_value("featureflow_ingest_commits_total", {"outcome": "committed"}) == commits
    assert rig.agrees()


def test_a_dead_letter_is_durable_before_anything_is_committed_past_it() -> None:
    rig = Rig(1)
    worker = started(rig)
    append, broken = rig.memory_log.append, [True]

    def failing(topic, records):  # type: ignore[no-untyped-def]  # as append
        if broken[0] and topic != TRIP.topic:
            raise UnavailableError("the log is away; see log.url")
        return append(topic, records)

    rig.append([rig.trip(), Record(b"{", partition=0)])
    rig.memory_log.append = failing  # type: ignore[method-assign]  # the log is away
    for _ in range(10):
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US)
    assert at(rig).offset == 0
    assert "log.url" in worker.status().problems[0]
    assert not worker.status().ready
    broken[0] = False
    rig.drain(worker)
    assert worker.status().ready
    assert [letter["position"] for letter in rig.letters()] == ["trip/0/1"]
    assert rig.agrees()


def test_an_event_in_another_partition_than_its_entity_is_put_aside_and_the_partition_goes_on() -> None:
    rig, registry = Rig(2), CollectorRegistry()
    worker = started(rig, registry=registry)
    home = sum(b"ada") % 2
    rig.append([rig.trip(rider="ada", at=rig.clock.now_us(), zone=7, fare=20.0)])
    rig.drain(worker)
    before = rig.actual(RIDER, rig.clock.now_us()).values.tobytes()
    stray = msgspec.structs.replace(rig.trip(rider="ada", at=rig.clock.now_us(), zone=7, fare=30.0), partition=1 - home)
    other = next(rider for rider in RIDERS if sum(rider.encode()) % 2 == 1 - home)
    rig.append([stray, msgspec.structs.replace(rig.trip(rider=other, at=rig.clock.now_us(), zone=7, fare=40.0), partition=1 - home), stray])
    rig.drain(worker)
    letters = [(letter["position"], letter["reason"]) for letter in rig.letters()]
    assert letters == [(f"trip/{1 - home}/{offset}/{RIDER.id}", "wrong_partition") for offset in (0, 2)]
    assert "'ada' is folded from partition" in str(rig.letters()[0]["detail"])
    labels = {"source": "trip", "reason": "wrong_partition"}
    assert registry.get_sample_value("featureflow_ingest_dead_letters_total", labels) == 2
    assert worker.status().ready
    after = rig.actual(RIDER, rig.clock.now_us()).values
    assert after[RIDERS.index("ada")].tobytes() == before[: after[0].nbytes]
    assert after[RIDERS.index(other)][0] == 1
    zone = rig.actual(ZONE, rig.clock.now_us()).values[0]         # a view by another field has state in every partition
    assert zone[0] == 4


def test_entities_that_two_partitions_begin_at_once_belong_to_one_of_them() -> None:
    rig = Rig(2)
    worker = started(rig)
    rig.drain(worker)
    rig.append([msgspec.structs.replace(rig.trip(rider="ada", at=rig.clock.now_us()), partition=partition) for partition in (0, 1, 0, 1)])
    rig.drain(worker)
    positions = [str(letter["position"]) for letter in rig.letters()]
    assert len({position.split("/")[1] for position in positions}) == 1
    assert len(set(positions)) == 2
    assert rig.actual(RIDER, rig.clock.now_us()).values[RIDERS.index("ada")][0] == 2


# -- trouble -----------------------------------------------------------------------------------------------------------


def storm(seed: int, store_class: type[MemoryOnlineStore] = MemoryOnlineStore, *, rebuilds: float = 0.0, buckets: int = 1) -> bool:
    """Sixty turns in bad weather, then a calm to catch up in. Whether every value is then what the log says.

    ``rebuilds``: the chance that a view is dropped and begins anew, at each turn; slices of the past are then small.
    """
    luck = random.Random(seed)
    rig = Rig(seed=seed, online_class=store_class, luck=luck, buckets=buckets)
    store = rig.online
    assert isinstance(store, TroubledStore)
    workers = [started(rig, commit_rows=luck.choice((1, 4, 30)))]
    store.rate = 0.08
    for _ in range(60):
        rig.produce(luck.randrange(6), bad=0.05)
        if luck.random() < rebuilds:
            rebuild(rig, luck.choice((RIDER, ZONE)))
        if luck.random() < 0.05:                                  # the group hands everything to a newcomer; the other hears later
            workers = [workers[-1], started(rig, commit_rows=4)]
        if luck.random() < 0.05:                                  # a crash
            workers[-1] = started(rig)
        luck.choice(workers).step(timeout_s=0.0, wait=lambda seconds: None)
        rig.clock.advance(luck.choice((1_000, 200_000, 3_000_000)))
    assert store.troubles > 0
    store.rate, store.flying = 0.0, []
    rig.drain(started(rig))
    return rig.agrees()


def rebuild(rig: Rig, view: View) -> None:
    """As ``featureflow rebuild`` does."""
    topic_id = rig.log.topic(TRIP.topic).topic_id
    rig.online.drop_view(view.id, for_good=False)
    rig.online.create_offsets(view.id, "trip", topic_id, dict.fromkeys(range(rig.partitions), 0), rig.buckets)


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

    worker = started(rig, poll_records=1, failpoint=disorder)
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
            successors.append(started(rig))
            rig.drain(successors[0])
            successors.append(at(rig))

    armed: list[bool] = []
    registry = CollectorRegistry()
    zombie = started(rig, failpoint=stopped, registry=registry)
    rig.drain(zombie)
    armed.append(True)
    rig.produce(10)
    zombie.step(timeout_s=0.0)
    assert successors[1].offset == 10
    assert at(rig) == successors[1]
    assert rig.agrees()
    assert registry.get_sample_value("featureflow_ingest_commits_total", {"outcome": "fenced"}) == 1
    rig.clock.advance(SECOND_US)
    zombie.step(timeout_s=0.0)
    assert zombie.status().partitions == ()
    assert at(rig).token == successors[1].token, "it did not claim again"


def test_lag_is_shown_of_partitions_that_are_held_and_of_no_other() -> None:
    rig, registry = Rig(1, online_class=MemoryOnlineStore), CollectorRegistry()

    def lag() -> float | None:
        return registry.get_sample_value("featureflow_ingest_lag", {"source": "trip", "partition": "0"})

    worker, store = started(rig, registry=registry), rig.online
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
    started(rig)                           # another takes all partitions
    worker.step(timeout_s=0.0)
    assert lag() is None


def test_a_store_that_is_away_is_waited_for_and_nothing_is_lost() -> None:
    rig = Rig(online_class=MemoryOnlineStore)
    store = rig.online
    assert isinstance(store, TroubledStore)
    worker = started(rig)
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
    worker = started(rig)
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
    worker = started(rig)
    rig.produce(60)
    rig.drain(worker)
    rig.clock.advance(9_000 * SECOND_US)                          # beyond the hour view's time to live
    assert rig.online.read([b"feat:{0}:rider:ada:" + RIDER.id.encode() + b":trip"]) == [None]
    rig.produce(20)
    rig.drain(worker)
    assert rig.agrees()


# -- what waiting does not cure ----------------------------------------------------------------------------------------


def test_a_view_that_was_never_applied_stops_the_worker_and_names_the_command() -> None:
    rig = Rig()
    rig.online.drop_view(ZONE.id)
    worker = started(rig)
    with pytest.raises(OffsetMissingError, match="featureflow apply"):
        rig.drain(worker)


def test_a_store_that_was_emptied_stops_the_worker() -> None:
    rig = Rig()
    worker = started(rig)
    rig.produce(10)
    rig.drain(worker)
    for view_id in ALL_VIEWS:
        rig.online.drop_view(view_id)
    rig.produce(10)
    with pytest.raises(OffsetMissingError, match="featureflow rebuild"):
        rig.drain(worker)


def test_a_store_that_evicts_stops_the_worker_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    worker = started(rig)
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
        rig.drain(started(rig))


def test_events_deleted_before_they_were_folded_stop_the_worker_and_name_the_rebuild() -> None:
    rig = Rig(1)
    rig.produce(20)
    rig.memory_log.delete_before(TRIP.topic, 0, 5)
    with pytest.raises(OffsetOutOfRangeError, match="begins at 5.*featureflow rebuild"):
        rig.drain(started(rig))


def test_events_deleted_under_a_reading_worker_stop_it_and_name_the_rebuild() -> None:
    rig = Rig(1)
    worker = started(rig)
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
        rig.drain(started(rig))


def test_a_partition_that_readers_do_not_know_of_is_not_committed() -> None:
    rig = Rig(2)
    rig.online.put_meta(partitions_document("trip"), b"1")
    with pytest.raises(StateError, match="featureflow apply"):
        rig.drain(started(rig))


def test_what_is_on_its_way_is_finished_though_the_log_fails_in_the_middle_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, polls = Rig(1), itertools.count()
    worker = started(rig, poll_records=1)
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
    worker = started(rig)
    rig.drain(worker)

    def stuck(self: MemoryConsumer) -> None:
        raise LogError("leaving the group failed")

    monkeypatch.setattr(MemoryConsumer, "close", stuck)
    monkeypatch.setattr(Past, "close", lambda self: closed.append(True))
    with pytest.raises(LogError, match="leaving the group"):
        worker.close()
    assert closed == [True]
    assert (worker.status().ready, worker.status().partitions) == (False, ())


# -- views at offsets of their own -------------------------------------------------------------------------------------


def test_a_view_that_is_behind_is_read_again_alone_until_it_has_caught_up() -> None:
    rig = Rig(2)
    worker = started(rig, project=replace_views(PROJECT, RIDER))
    rig.produce(80, bad=0.1)
    rig.drain(worker)
    worker.close()
    letters = len(rig.letters())
    assert at(rig, ZONE).offset == 0
    rig.produce(10)
    rig.drain(started(rig))
    assert rig.agrees()
    positions = [letter["position"] for letter in rig.letters()]
    assert len(positions) > letters
    late = [position for position in positions if str(position).endswith(RIDER.id)]
    assert len(late) == len(set(late)), "the view that is ahead refuses nothing twice"


def test_views_that_are_fresh_do_not_wait_for_one_that_folds_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAST_RECORDS", 10)
    rig = Rig(1)
    worker = started(rig)
    rig.produce(300)
    rig.drain(worker)
    rebuild(rig, ZONE)
    behind = list[int]()
    while at(rig, ZONE).token != at(rig, RIDER).token:            # until the worker has claimed again
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
    while at(rig, ZONE).offset < at(rig, RIDER).offset:
        rig.produce(1)
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
        assert at(rig, RIDER).offset == rig.log.topic(TRIP.topic).end[0], "each turn takes in what is new"
        behind.append(at(rig, ZONE).offset)
    assert len(behind) > 20
    assert behind == sorted(behind)
    assert at(rig, ZONE).max_time_us == at(rig, RIDER).max_time_us
    rig.produce(20)
    rig.drain(worker)
    assert rig.agrees()


def test_of_two_views_that_are_behind_the_nearer_is_fresh_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAST_RECORDS", 10)
    third = with_version(msgspec.structs.replace(RIDER, name="rider_too", aggregations=RIDER.aggregations[:1]), {"trip": TRIP})
    project = replace_views(PROJECT, RIDER, ZONE, third)
    rig = Rig(1, project=project)
    worker = started(rig, project=replace_views(PROJECT, RIDER, ZONE))
    rig.produce(150)
    rig.drain(worker)
    worker.close()
    rebuild(rig, ZONE)
    worker = started(rig, project=replace_views(PROJECT, RIDER, ZONE))
    while at(rig, ZONE).offset < 70:
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
    worker.close()
    worker = started(rig)
    while at(rig, ZONE).offset < 150:
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
    assert at(rig, third).offset == 0
    while at(rig, third).offset < 150:
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
    assert rig.agrees()


def test_while_the_past_cannot_be_read_it_is_asked_for_ever_more_rarely_and_the_present_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(1)
    worker = started(rig)
    rig.produce(50)
    rig.drain(worker)
    rebuild(rig, ZONE)
    asked = list[int]()

    def away(sources: dict[str, str]) -> MemoryConsumer:
        asked.append(rig.clock.now_us())
        raise UnavailableError("the log is away; see log.url")

    with monkeypatch.context() as patch:
        patch.setattr(rig.memory_log, "reader", away)
        for _ in range(600):
            rig.produce(1)
            worker.step(timeout_s=0.0)
            rig.clock.advance(SECOND_US // 5)
        assert any("the log is away" in problem for problem in worker.status().problems), "also between two attempts"
    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    least = (1, 2, 4, 8, 16, 30, 30, 30)
    assert all(wait >= seconds * SECOND_US for wait, seconds in zip(waits, least, strict=False)), "each wait is longer"
    assert len(asked) < 20
    assert at(rig, RIDER).offset == rig.log.topic(TRIP.topic).end[0]
    rig.drain(worker)
    assert not worker.status().problems
    assert rig.agrees()


def test_the_past_is_read_of_sources_that_are_behind_alone() -> None:
    opened = list[set[str]]()

    class Watched(MemoryLog):
        def reader(self, sources: dict[str, str]) -> MemoryConsumer:
            opened.append(set(sources))
            return super().reader(sources)

    log = Watched()
    for topic in ("as", "bs", "cs"):
        log.ensure_topic(topic, 1)
    past = Past(log, {"a": "as", "b": "bs", "c": "cs"}, ManualClock(0))
    a, b = Partition("a", 0), Partition("b", 0)
    for wanted in ({a: 0}, {a: 0}, {a: 0, b: 0}, {b: 0}):
        past.read(wanted)
    assert opened == [{"a"}, {"a", "b"}]
    past.close()


@pytest.mark.parametrize("rebuilt", [RIDER, ZONE], ids=["first", "second"])
@pytest.mark.parametrize("kind", ["append", "create"])
@pytest.mark.parametrize("kept", [5, 0], ids=["some are kept", "none is kept"])
def test_a_view_that_joins_does_not_change_the_running_maximum_of_those_that_saw_deleted_events(
    rebuilt: View, kind: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newcomer's first event is the first that is left: older than those that are gone, or from a future that they refused."""
    stamped(kind, monkeypatch)
    rig = Rig(1)
    healthy = RIDER if rebuilt is ZONE else ZONE
    now_us = rig.clock.now_us()
    rig.append([rig.trip(at=now_us) for _ in range(5)])
    first_us = now_us - 20 * SECOND_US if kind == "append" else now_us + 86_400 * SECOND_US
    rig.append([rig.trip(at=first_us), *(rig.trip(at=now_us - 10 * SECOND_US) for _ in range(4))])
    worker = started(rig)
    rig.drain(worker)
    assert at(rig, healthy).max_time_us == now_us
    begin = 10 - kept
    rig.memory_log.delete_before(TRIP.topic, 0, begin)
    rig.online.drop_view(rebuilt.id, for_good=False)
    rig.online.create_offsets(rebuilt.id, "trip", rig.log.topic(TRIP.topic).topic_id, {0: begin})
    rig.drain(worker)
    for _ in range(6):
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US)
    assert at(rig, rebuilt).offset == at(rig, healthy).offset == 10
    assert at(rig, healthy).max_time_us == now_us
    late = worker.status().late
    rig.append([rig.trip(at=now_us + SECOND_US)])
    rig.drain(worker)
    while at(rig, rebuilt).offset < 11:
        worker.step(timeout_s=0.0)
    assert at(rig, healthy).max_time_us == now_us + SECOND_US
    if kind == "append":
        assert worker.status().late == late
        assert at(rig, rebuilt).max_time_us == now_us + SECOND_US, "they agree again as soon as something newer comes"


@pytest.mark.parametrize("kind", ["append", "create"])
@pytest.mark.parametrize("seed", range(8))
def test_what_a_view_counts_that_begins_where_others_stand_hangs_on_what_is_left_and_not_on_what_they_saw(
    seed: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recomputed from there on it is the same, to the bit: nothing else remembers what was deleted."""
    stamped(kind, monkeypatch)
    rig = Rig(1, seed=seed, project=replace_views(PROJECT, RIDER, ZONE, ALL))
    late_us = (0, 0, 30 * SECOND_US, 5_000 * SECOND_US, 2 * 86_400 * SECOND_US)

    def produce(count: int) -> None:
        rig.append([rig.trip(at=rig.clock.now_us() - rig.luck.choice(late_us), zone=7) for _ in range(count)])

    worker = started(rig)
    produce(30)
    rig.append([rig.trip(at=rig.clock.now_us() + 5 * SECOND_US)])
    rig.drain(worker)
    begin = 31 - seed % 3
    rig.memory_log.delete_before(TRIP.topic, 0, begin)
    rig.online.drop_view(ALL.id, for_good=False)
    rig.online.create_offsets(ALL.id, "trip", rig.log.topic(TRIP.topic).topic_id, {0: begin})
    for _ in range(6):                                         # its beats too carry a running maximum
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US)
    for _ in range(5):
        rig.append([rig.trip(at=rig.clock.now_us() - 2 * 86_400 * SECOND_US, zone=7)])
        produce(8)
        rig.drain(worker)
    end = rig.log.topic(TRIP.topic).end[0]
    while at(rig, ALL).offset < end:
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US)
    (left,) = rig.events()
    verdict = accept.judge(left, NO_TIME_US, TRIP)
    assert at(rig, ALL).max_time_us == verdict.max_time_us(NO_TIME_US)
    q_us = rig.clock.now_us()
    actual, expected = rig.actual(ALL, q_us), rig.expected(ALL, q_us)
    assert actual.values.tobytes() == expected.values.tobytes()
    assert actual.statuses.tobytes() == expected.statuses.tobytes()


def stamped(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All logs in memory are of this kind of timestamps."""
    made = memory._batch
    monkeypatch.setattr(memory, "_batch", lambda *parts: replace(made(*parts), timestamp_kind=kind))


def test_a_worker_waits_while_a_view_is_rebuilt_and_goes_on_when_it_begins_anew() -> None:
    rig = Rig(2)
    worker = started(rig)
    rig.produce(60)
    rig.drain(worker)
    rig.online.drop_view(ZONE.id, for_good=False)
    for _ in range(20):
        rig.produce(2)
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
    assert not worker.status().ready
    assert any("is being rebuilt" in problem and "featureflow rebuild zone_now" in problem for problem in worker.status().problems)
    assert rig.online.create_offsets(ZONE.id, "trip", rig.log.topic(TRIP.topic).topic_id, {0: 0, 1: 0}) == [0, 1]
    rig.drain(worker)
    assert worker.status().ready
    assert rig.agrees()


def replace_views(project: Project, *views: View) -> Project:
    return msgspec.structs.replace(project, views=views)


def test_views_at_different_offsets_both_say_that_they_live() -> None:
    rig = Rig(1)
    worker = started(rig, project=replace_views(PROJECT, RIDER))
    rig.produce(20)
    rig.drain(worker)
    backfill = Backfill(None, {}, rig.clock)
    owned = take(rig.log, rig.online, Partition("trip", 0), TRIP.topic, ALL_VIEWS, 1, rig.clock.now_us(), backfill)
    assert owned.offsets == {Track(RIDER.id): 20, Track(ZONE.id): 0}
    assert owned.position == 0
    assert owned.beats(rig.clock.now_us() - 1, one_server=True) == []
    before = {view.id: at(rig, view) for view in PROJECT.views}
    rig.clock.advance(SECOND_US)
    beats = owned.beats(rig.clock.now_us() - SECOND_US, one_server=True)
    assert len(beats) == 2
    for beat in beats:
        assert isinstance(rig.online.commit(beat), Committed)
    for view in PROJECT.views:
        after = at(rig, view)
        assert after.committed_ms > before[view.id].committed_ms
        assert replace(after, committed_ms=0, complete_ms=0) == replace(before[view.id], committed_ms=0, complete_ms=0)


@pytest.mark.parametrize(("one_server", "commits"), [(True, 1), (False, 3)])
def test_buckets_of_one_server_say_together_that_they_live(one_server: bool, commits: int) -> None:
    rig = Rig(1, online=MemoryOnlineStore(ManualClock(START_US), one_server=one_server), buckets=3)
    rig.worker().open()
    owned = take(
        rig.log, rig.online, Partition("trip", 0), TRIP.topic, ALL_VIEWS, 3, rig.clock.now_us(), Backfill(None, {}, rig.clock)
    )  # fmt: skip
    beats = owned.beats(rig.clock.now_us() + SECOND_US, one_server=one_server)
    assert [len(beat.advances) for beat in beats] == [len(owned.offsets) // commits] * commits
    assert {advance.track for beat in beats for advance in beat.advances} == owned.offsets.keys()
    assert all(isinstance(rig.online.commit(beat), Committed) for beat in beats)


class Spans:
    """Keeps the spans that it is told of."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str | int]]] = []
        self.took_ns: list[int] = []

    def span(self, name: str, parent: str, began_ns: int, ended_ns: int, attributes: dict[str, str | int]) -> None:
        self.seen.append((name, parent, attributes))
        self.took_ns.append(ended_ns - began_ns)


def test_the_trace_of_an_event_goes_on_to_the_commit_that_made_it_count() -> None:
    rig, spans = Rig(), Spans()
    worker = started(rig, tracer=spans)
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    plain, traced = rig.trip(at=rig.clock.now_us()), rig.trip(at=rig.clock.now_us())
    rig.append([plain, msgspec.structs.replace(traced, headers=((TRACE_PARENT, parent.encode()),)), plain])
    rig.drain(worker)
    ((name, joined, place),) = spans.seen
    assert (name, joined) == ("ingest", parent)
    assert place["source"] == "trip"
    assert spans.took_ns[0] >= 0
