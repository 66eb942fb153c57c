"""Views at offsets of their own: those that are behind catch up beside the others."""

from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
import pytest
from trips import LIFETIME
from worker_rig import ALL_VIEWS, PROJECT, RIDER, SECOND_US, START_US, TRIP, ZONE, Rig, replace_views

from featureflow import limits
from featureflow.clock import NO_TIME_US, ManualClock
from featureflow.define.spec import Aggregation, Column, View
from featureflow.define.version import with_version
from featureflow.errors import UnavailableError
from featureflow.ingest.backfill import Backfill
from featureflow.ingest.claim import take
from featureflow.ingest.past import Past
from featureflow.kernel import accept
from featureflow.store.log import memory
from featureflow.store.log.memory import MemoryConsumer, MemoryLog
from featureflow.store.log.protocol import Partition
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Committed, Track

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


def test_a_view_that_is_behind_is_read_again_alone_until_it_has_caught_up() -> None:
    rig = Rig(2)
    worker = rig.started(project=replace_views(PROJECT, RIDER))
    rig.produce(80, bad=0.1)
    rig.drain(worker)
    worker.close()
    letters = len(rig.letters())
    assert rig.at(ZONE).offset == 0
    rig.produce(10)
    rig.drain(rig.started())
    assert rig.agrees()
    positions = [letter["position"] for letter in rig.letters()]
    assert len(positions) > letters
    late = [position for position in positions if str(position).endswith(RIDER.id)]
    assert len(late) == len(set(late)), "the view that is ahead refuses nothing twice"


def test_views_that_are_fresh_do_not_wait_for_one_that_folds_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAST_RECORDS", 10)
    rig = Rig(1)
    worker = rig.started()
    rig.produce(300)
    rig.drain(worker)
    rig.rebuild(ZONE)
    behind = list[int]()
    while rig.at(ZONE).token != rig.at(RIDER).token:            # until the worker has claimed again
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
    while rig.at(ZONE).offset < rig.at(RIDER).offset:
        rig.produce(1)
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
        assert rig.at(RIDER).offset == rig.log.topic(TRIP.topic).end[0], "each turn takes in what is new"
        behind.append(rig.at(ZONE).offset)
    assert len(behind) > 20
    assert behind == sorted(behind)
    assert rig.at(ZONE).max_time_us == rig.at(RIDER).max_time_us
    rig.produce(20)
    rig.drain(worker)
    assert rig.agrees()


def test_of_two_views_that_are_behind_the_nearer_is_fresh_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAST_RECORDS", 10)
    third = with_version(msgspec.structs.replace(RIDER, name="rider_too", aggregations=RIDER.aggregations[:1]), {"trip": TRIP})
    project = replace_views(PROJECT, RIDER, ZONE, third)
    rig = Rig(1, project=project)
    worker = rig.started(project=replace_views(PROJECT, RIDER, ZONE))
    rig.produce(150)
    rig.drain(worker)
    worker.close()
    rig.rebuild(ZONE)
    worker = rig.started(project=replace_views(PROJECT, RIDER, ZONE))
    while rig.at(ZONE).offset < 70:
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
    worker.close()
    worker = rig.started()
    while rig.at(ZONE).offset < 150:
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
    assert rig.at(third).offset == 0
    while rig.at(third).offset < 150:
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US // 2)
    assert rig.agrees()


def test_while_the_past_cannot_be_read_it_is_asked_for_ever_more_rarely_and_the_present_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(1)
    worker = rig.started()
    rig.produce(50)
    rig.drain(worker)
    rig.rebuild(ZONE)
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
    assert rig.at(RIDER).offset == rig.log.topic(TRIP.topic).end[0]
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
    worker = rig.started()
    rig.drain(worker)
    assert rig.at(healthy).max_time_us == now_us
    begin = 10 - kept
    rig.memory_log.delete_before(TRIP.topic, 0, begin)
    rig.online.drop_view(rebuilt.id, for_good=False)
    rig.online.create_offsets(rebuilt.id, "trip", rig.log.topic(TRIP.topic).topic_id, {0: begin})
    rig.drain(worker)
    for _ in range(6):
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US)
    assert rig.at(rebuilt).offset == rig.at(healthy).offset == 10
    assert rig.at(healthy).max_time_us == now_us
    late = worker.status().late
    rig.append([rig.trip(at=now_us + SECOND_US)])
    rig.drain(worker)
    while rig.at(rebuilt).offset < 11:
        worker.step(timeout_s=0.0)
    assert rig.at(healthy).max_time_us == now_us + SECOND_US
    if kind == "append":
        assert worker.status().late == late
        assert rig.at(rebuilt).max_time_us == now_us + SECOND_US, "they agree again as soon as something newer comes"


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

    worker = rig.started()
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
    while rig.at(ALL).offset < end:
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US)
    (left,) = rig.events()
    verdict = accept.judge(left, NO_TIME_US, TRIP)
    assert rig.at(ALL).max_time_us == verdict.max_time_us(NO_TIME_US)
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
    worker = rig.started()
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


def test_views_at_different_offsets_both_say_that_they_live() -> None:
    rig = Rig(1)
    worker = rig.started(project=replace_views(PROJECT, RIDER))
    rig.produce(20)
    rig.drain(worker)
    backfill = Backfill(None, {}, rig.clock)
    owned = take(rig.log, rig.online, Partition("trip", 0), TRIP.topic, ALL_VIEWS, 1, rig.clock.now_us(), backfill)
    assert owned.offsets == {Track(RIDER.id): 20, Track(ZONE.id): 0}
    assert owned.position == 0
    assert owned.beats(rig.clock.now_us() - 1, one_server=True) == []
    before = {view.id: rig.at(view) for view in PROJECT.views}
    rig.clock.advance(SECOND_US)
    beats = owned.beats(rig.clock.now_us() - SECOND_US, one_server=True)
    assert len(beats) == 2
    for beat in beats:
        assert isinstance(rig.online.commit(beat), Committed)
    for view in PROJECT.views:
        after = rig.at(view)
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
