"""What the log has deleted is folded from history, to an exact offset, and the log goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from worker_rig import RIDER, SECOND_US, TRIP, ZONE, Rig, joined

from featureflow import limits
from featureflow.define.spec import View
from featureflow.define.version import with_version
from featureflow.errors import OffsetOutOfRangeError, UnavailableError
from featureflow.ingest.decode import Decoder, Recalled
from featureflow.ingest.worker import Worker
from featureflow.kernel.events import Events
from featureflow.store.history.protocol import RefusedRecord
from featureflow.store.history.sql import SqlHistory
from featureflow.store.online.protocol import OffsetRecord

OTHER = with_version(msgspec.structs.replace(RIDER, name="rider_other", aggregations=RIDER.aggregations[:1]), {"trip": TRIP})


class World(Rig):
    """A rig with history beside the log. ``write`` is what the history writer does."""

    def __init__(self, history: SqlHistory, partitions: int = 1) -> None:
        super().__init__(partitions)
        self.history = history
        self._lost: list[Events] = []
        history.migrate()
        history.ensure_source(TRIP)
        history.create_offsets("trip", dict.fromkeys(range(partitions), 0))

    def write(self) -> None:
        """Bring history to the log's end."""
        decoder, at = Decoder(TRIP), self.history.offsets("trip")[0]
        for batch in self.read(TRIP.topic, self.log.topic(TRIP.topic).end):
            self.history.append(TRIP, 0, decoder.decode(batch).events, at, batch.next)

    def lose(self, offset: int) -> None:
        """The log deletes what is below; the truth does not."""
        (events,) = super().events()
        self._lost.append(events.take(np.flatnonzero(events.offsets < offset)))
        self.memory_log.delete_before(TRIP.topic, 0, offset)

    def events(self) -> list[Events]:
        return [joined([*self._lost, *super().events()])]

    def begin_anew(self, *views: View) -> None:
        """As ``featureflow rebuild`` does."""
        topic_id = self.log.topic(TRIP.topic).topic_id
        for view in views:
            self.online.drop_view(view.id, for_good=False)
            self.online.create_offsets(view.id, "trip", topic_id, {0: 0})

    def at(self, view: View) -> OffsetRecord:
        found = self.online.offsets("trip", 0, [view.id])[view.id]
        assert found is not None
        return found

    def started(self, history: SqlHistory | None = None) -> Worker:
        worker = self.worker(history=history)
        worker.open()
        return worker


@pytest.fixture
def world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(limits, "PAST_RECORDS", 10)
    history = SqlHistory(sqlite_url)
    yield World(history)
    history.close()


def test_all_views_emptied_are_folded_from_history_up_to_the_log_and_go_on(world: World) -> None:
    world.produce(120, bad=0.1)
    world.write()
    world.lose(70)
    world.begin_anew(RIDER, ZONE)
    worker = world.started(world.history)
    seen = []
    while world.at(ZONE).offset < 70:
        worker.step(timeout_s=0.0)
        world.clock.advance(SECOND_US // 5)
        seen.append(world.at(ZONE).offset)
    assert max(b - a for a, b in pairwise(seen)) <= 40, "a slice of history at a time"
    assert world.at(ZONE).offset == world.at(RIDER).offset == 70, "to the log's beginning, and no further"
    world.drain(worker)
    assert world.agrees()


def test_one_view_is_folded_from_history_beside_another_that_follows_the_log(world: World) -> None:
    first = world.started(world.history)
    world.produce(100)
    world.drain(first)
    world.write()
    world.lose(60)
    world.begin_anew(ZONE)
    for _ in range(200):
        world.produce(1)
        first.step(timeout_s=0.0)
        world.clock.advance(SECOND_US // 2)
        if world.at(ZONE).offset == world.at(RIDER).offset:
            break
    assert world.at(ZONE).max_time_us == world.at(RIDER).max_time_us
    world.drain(first)
    assert world.at(ZONE).offset == world.at(RIDER).offset > 100
    assert world.agrees()


def test_a_store_that_fell_behind_the_log_is_brought_up_from_history(world: World) -> None:
    worker = world.started(world.history)
    world.produce(30)
    world.drain(worker)
    worker.close()
    world.produce(60)
    world.write()
    world.lose(80)
    worker = world.started(world.history)
    assert world.at(RIDER).offset == 30
    world.drain(worker)
    assert world.agrees()


def test_records_that_are_no_events_at_the_end_of_what_was_deleted_are_passed(world: World) -> None:
    world.produce(20)
    world.append([world.poison() for _ in range(15)])
    world.produce(20)
    world.write()
    world.lose(35)
    world.begin_anew(RIDER, ZONE)
    worker = world.started(world.history)
    world.drain(worker)
    assert world.agrees()


@pytest.mark.parametrize("written", [False, True])
def test_a_gap_between_history_and_the_log_stops_the_worker_and_names_what_is_held(world: World, written: bool) -> None:
    world.produce(40)
    if written:
        world.write()
    world.produce(40)
    world.lose(60)
    world.begin_anew(RIDER, ZONE)
    worker = world.started(world.history)
    held = "0 to 40" if written else "0 to 0"
    with pytest.raises(OffsetOutOfRangeError, match=f"begins at 60.*up to 0, and history holds {held}.*featureflow rebuild"):
        world.drain(worker)


def test_without_history_what_the_log_deleted_stops_the_worker(world: World) -> None:
    world.produce(40)
    world.write()
    world.lose(20)
    worker = world.started(None)
    with pytest.raises(OffsetOutOfRangeError, match="begins at 20.*featureflow rebuild"):
        world.drain(worker)


def test_while_history_is_away_the_present_goes_on_for_the_views_that_follow_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = world.started(world.history)
    world.produce(50)
    world.drain(worker)
    world.write()
    world.lose(40)
    world.begin_anew(ZONE)

    def away(*_: object, **__: object) -> None:
        raise UnavailableError("the history database is away; see history.url")

    while world.at(ZONE).offset < 10:
        worker.step(timeout_s=0.0)
        world.clock.advance(SECOND_US // 5)
    with monkeypatch.context() as patch:
        patch.setattr(world.history, "scan", away)
        for _ in range(20):
            world.produce(1)
            worker.step(timeout_s=0.0)
            world.clock.advance(SECOND_US // 5)
        assert any("the history database is away" in problem for problem in worker.status().problems)
        assert world.at(RIDER).offset == world.log.topic(TRIP.topic).end[0]
    world.drain(worker)
    assert world.agrees()


def test_history_that_has_yet_to_read_again_what_it_refused_is_waited_for(world: World) -> None:
    """What an earlier definition refused may be an event by this one; passed by, it would never be counted."""
    strict = msgspec.structs.replace(TRIP, fields=tuple(msgspec.structs.replace(f, nullable=False) for f in TRIP.fields))
    world.produce(60)
    (events,) = world.events()
    nulls = np.isnan(events.columns["fare"]) | np.isnan(events.columns["zone"])
    assert nulls.any()
    (batch,) = world.read(TRIP.topic, world.log.topic(TRIP.topic).end)
    refused = [
        RefusedRecord(int(batch.offsets[i]), int(batch.timestamps_us[i]), True, batch.keys[i], batch.values[i] or b"")
        for i in np.flatnonzero(nulls)
    ]
    world.history.append(strict, 0, events.take(np.flatnonzero(~nulls)), 0, 60, refused)
    world.lose(40)
    world.begin_anew(RIDER, ZONE)
    worker = world.started(world.history)
    for _ in range(20):
        worker.step(timeout_s=0.0)
        world.clock.advance(SECOND_US)
    assert world.at(RIDER).offset == 0
    assert any("yet to read records again" in problem and "featureflow history" in problem for problem in worker.status().problems)
    again = [events.take(np.array([i])) for i in np.flatnonzero(nulls)]
    world.history.settle(TRIP, 0, again, [])
    world.clock.advance(60 * SECOND_US)
    world.drain(worker)
    assert world.agrees()


def test_while_history_is_away_other_partitions_keep_their_state_and_stay_fresh(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    two = World(world.history, 2)
    two.produce(60)
    first = two.started(world.history)
    two.drain(first)
    first.close()
    two.memory_log.delete_before(TRIP.topic, 0, 5)
    topic_id = two.log.topic(TRIP.topic).topic_id
    two.online.create_offsets(OTHER.id, "trip", topic_id, {0: 0, 1: 0})
    worker = two.worker(project=msgspec.structs.replace(two.project, views=(*two.project.views, OTHER)), history=world.history)
    worker.open()

    def away(*_: object, **__: object) -> None:
        raise UnavailableError("the history database is away; see history.url")

    monkeypatch.setattr(world.history, "extents", away)
    tokens = set()
    for _ in range(60):
        two.produce(1)
        worker.step(timeout_s=0.0)
        two.clock.advance(SECOND_US // 2)
        whole = two.online.offsets("trip", 1, [RIDER.id])[RIDER.id]
        assert whole is not None
        tokens.add(whole.token)
    assert any("the history database is away" in problem for problem in worker.status().problems)
    assert len(tokens) == 1, "claimed once, and never let go"
    assert whole.offset == two.log.topic(TRIP.topic).end[1]
    assert two.online.now_ms() - whole.complete_ms < 5_000


def test_recalled_records_are_cut_with_their_events() -> None:
    events = Events(0, *[np.arange(3)] * 3, {"x": np.arange(3.0)})
    recalled = Recalled("trip", 0, 0, 3, events.offsets, events.timestamps_us, [None] * 3, [None] * 3, events=events)
    cut = recalled.until(2)
    assert isinstance(cut, Recalled)
    assert (cut.next, len(cut), cut.events.offsets.tolist()) == (2, 2, [0, 1])
