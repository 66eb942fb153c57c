"""Published values: always those of the state that they stand beside, at the instant that they name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from trips import LIFETIME
from troubled_store import TroubledStore
from worker_rig import PROJECT, RIDER, RIDERS, SECOND_US, START_US, TRIP, ZONE, Rig, with_sketches

from featureflow.clock import to_us
from featureflow.define.spec import Aggregation, Column, Project, View, Window
from featureflow.define.version import with_version
from featureflow.ingest import failpoint
from featureflow.ingest.course import Course
from featureflow.ingest.publish import Publisher
from featureflow.kernel.finalize import Values
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.writes import Writes


def publishing(project: Project = PROJECT) -> Project:
    rider, zone = project.views
    return msgspec.structs.replace(project, views=(msgspec.structs.replace(rider, publish=True), zone))


PUBLISHED = publishing()


def published(rig: Rig, entity_id: str, view: View = RIDER) -> dict[str, Any] | None:
    (value,) = rig.online.read([rig.keys.published("rider", entity_id, view.name)])
    return None if value is None else json.loads(value)


def as_json(view: View, values: Values, row: int) -> dict[str, Any]:
    """The features as a reader of JSON has them, spelled out anew here."""
    out: dict[str, Any] = {}
    for number, (feature, span) in enumerate(zip(view.features, view.spans, strict=True)):
        found = values.texts[number][row].tolist() if feature.is_text else values.values[row, span].tolist()
        plain = [None if value is None or value != value else value for value in found]
        out[feature.name] = plain if feature.is_sequence else plain[0]
    return out


def check(rig: Rig, view: View = RIDER) -> int:
    """Every published value is that of the state in the store, and of the log, at its instant. How many entities have one."""
    found = 0
    for entity_id in RIDERS:
        said = published(rig, entity_id, view)
        if said is None:
            continue
        found += 1
        assert said.pop("view") == view.id
        q_us = to_us(datetime.fromisoformat(said.pop("as_of")))
        assert said == as_json(view, rig.actual(view, q_us, [entity_id]), 0), (entity_id, q_us)   # others may be rolled up past it
    return found


def check_with_log(rig: Rig, view: View = RIDER) -> None:
    """As ``check``, and against the log up to where the store says it is; each entity that has state has a value."""
    check(rig, view)
    records = {p: rig.online.offsets("trip", p, [view.id])[view.id] for p in range(rig.partitions)}
    applied = {p: record.offset for p, record in records.items() if record is not None}
    for row, entity_id in enumerate(RIDERS):
        said = published(rig, entity_id, view)
        (state,) = rig.online.read([rig.keys.state("rider", entity_id, view.id, "trip", None)])
        assert (said is None) == (state is None)
        if said is not None:
            q_us = to_us(datetime.fromisoformat(said["as_of"]))
            assert {k: v for k, v in said.items() if k not in ("view", "as_of")} == as_json(view, rig.expected(view, q_us, applied), row)


def at_each(name: str, what: Callable[[], object]) -> failpoint.Failpoint:
    return lambda passed: what() if passed == name else None  # type: ignore[func-returns-value,return-value]  # a failpoint returns nothing


@pytest.mark.parametrize("buckets", [1, 3])
@pytest.mark.parametrize("sketched", [False, True])
def test_after_each_commit_of_a_batch_what_is_published_is_what_the_state_says_then(buckets: int, sketched: bool) -> None:
    project = publishing(with_sketches(PROJECT)) if sketched else PUBLISHED
    rig, view = Rig(1, project=project, buckets=buckets), project.views[0]
    looks: list[int] = []
    worker = rig.started(commit_rows=5, failpoint=at_each("before_commit", lambda: looks.append(check(rig, view))))
    for _ in range(1 if sketched else 3):
        rig.produce(60, bad=0.1)
        rig.drain(worker)
        check_with_log(rig, view)
    assert sum(number == len(RIDERS) for number in looks) > 8, "the batches were cut into many commits"
    assert rig.agrees()


def test_cells_of_a_state_that_expired_are_not_in_what_is_published_of_the_next() -> None:
    """Though the event that begins it changes no cell."""
    project = publishing(with_sketches(PROJECT))
    rig, view = Rig(1, project=project), project.views[0]
    worker, at = rig.started(), rig.clock.now_us()
    rig.append([rig.trip(rider="ada", at=at, fare=fare) for fare in (1.0, 2.0, 3.0)])
    rig.drain(worker)
    check(rig, view)
    rig.append([rig.trip(rider="ada", at=at, fare=None)])
    rig.clock.advance(7_200 * SECOND_US)
    rig.drain(worker)
    rig.append([rig.trip(rider="ada", at=at, fare=4.0)])
    rig.drain(worker)
    check(rig, view)


def test_values_of_the_whole_batch_in_its_first_commit_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Course, "rewind", lambda self, commit, slots, counts, table: np.ones(len(table), np.bool_))
    rig = Rig(1, project=PUBLISHED)
    worker = rig.started(commit_rows=5, failpoint=at_each("before_commit", lambda: check(rig)))
    rig.produce(60)
    with pytest.raises(AssertionError):
        rig.drain(worker)


def test_a_commit_without_its_published_values_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(self: Publisher, partition: int, instants_us: list[int]) -> Iterator[Writes]:
        yield from (Writes() if number % 2 else writes for number, writes in enumerate(original(self, partition, instants_us)))

    original = Publisher.writes
    monkeypatch.setattr(Publisher, "writes", some)
    rig = Rig(1, project=PUBLISHED)
    worker = rig.started(commit_rows=5, failpoint=at_each("before_commit", lambda: check(rig)))
    rig.produce(60)
    with pytest.raises(AssertionError):
        rig.drain(worker)


def test_its_instant_is_the_running_maximum_of_event_times_and_never_the_wall_clock() -> None:
    rig = Rig(1, project=PUBLISHED)
    worker = rig.started()
    now_us = rig.clock.now_us()
    rig.append([rig.trip(rider="ada", at=now_us), rig.trip(rider=RIDERS[1], at=now_us - 20 * SECOND_US)])
    rig.clock.advance(3_600 * SECOND_US)
    rig.drain(worker)
    for entity_id in RIDERS[:2]:
        said = published(rig, entity_id)
        assert said is not None
        assert to_us(datetime.fromisoformat(said["as_of"])) == now_us
        assert said["count_1m"] == 1.0


def test_an_entity_without_a_new_event_keeps_its_value_and_its_instant() -> None:
    rig = Rig(1, project=PUBLISHED)
    worker = rig.started()
    rig.append([rig.trip(rider="ada", at=rig.clock.now_us())])
    rig.drain(worker)
    before = published(rig, "ada")
    rig.clock.advance(90 * SECOND_US)
    rig.append([rig.trip(rider=RIDERS[1], at=rig.clock.now_us())])
    rig.drain(worker)
    assert published(rig, "ada") == before
    check_with_log(rig)


# -- crashes, replays and rollbacks ------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", failpoint.NAMES)
def test_killed_anywhere_published_values_are_those_of_the_state_before_and_after_the_replay(name: failpoint.Name) -> None:
    rig = Rig(2, project=PUBLISHED)
    for nth in (1, 2, 5):
        rig.produce(40)
        left = nth

        def kill(passed: failpoint.Name) -> None:
            nonlocal left
            left -= passed == name
            if passed == name and left == 0:
                raise Killed

        worker = rig.started(failpoint=kill)
        with suppress(Killed):
            rig.drain(worker)
            worker.close()
        check(rig)
        rig.drain(worker := rig.started())
        check_with_log(rig)
        worker.close()
    assert rig.agrees()


def test_a_store_that_loses_its_last_second_loses_state_and_published_values_together_and_the_replay_writes_the_same() -> None:
    rig = Rig(1, project=PUBLISHED)
    store = rig.online
    assert isinstance(store, MemoryOnlineStore)
    worker = rig.started()
    rig.produce(50)
    rig.drain(worker)
    earlier = store.snapshot()
    rig.produce(50)
    rig.drain(worker)
    values = {entity_id: published(rig, entity_id) for entity_id in RIDERS}
    store.roll_back(earlier)
    check_with_log(rig)
    assert {entity_id: published(rig, entity_id) for entity_id in RIDERS} != values
    worker.close()
    rig.drain(rig.started())
    check_with_log(rig)
    assert {entity_id: published(rig, entity_id) for entity_id in RIDERS} == values


@pytest.mark.parametrize("seed", range(6))
def test_in_trouble_of_every_kind_published_values_are_those_of_the_state(seed: int) -> None:
    rig = Rig(2, project=PUBLISHED, online_class=MemoryOnlineStore, seed=seed)
    assert isinstance(rig.online, TroubledStore)
    for _ in range(4):
        worker = rig.started()
        rig.produce(60, bad=0.05)
        rig.online.rate = 0.08
        for _ in range(40):
            worker.step(timeout_s=0.0, wait=lambda seconds: None)
            rig.clock.advance(300_000)
            rate, rig.online.rate = rig.online.rate, 0.0
            check(rig)
            rig.online.rate = rate
        rig.online.rate = 0.0
        rig.online.flying.clear()
        rig.drain(worker)
        check_with_log(rig)
        worker.close()
    assert rig.online.troubles > 20
    assert rig.agrees()


# -- rolled up ---------------------------------------------------------------------------------------------------------


def past_and_present(rig: Rig) -> None:
    """One batch that begins hours before it ends: what is new to it must not be rolled up beyond its first instants."""
    start_us = rig.clock.now_us()
    trips = [rig.trip(at=start_us + i * 600 * SECOND_US, rider=RIDERS[i % 4], fare=float(i)) for i in range(60)]
    rig.clock.advance(60 * 600 * SECOND_US)
    rig.log.append(rig.source.topic, trips)


@pytest.mark.parametrize("sketched", [False, True])
def test_a_batch_of_hours_publishes_the_value_of_each_commit(sketched: bool) -> None:
    project = publishing(with_sketches(PROJECT)) if sketched else PUBLISHED
    rig, view = Rig(1, project=project), project.views[0]
    looks: list[int] = []
    worker = rig.started(failpoint=at_each("before_commit", lambda: looks.append(check(rig, view))))
    past_and_present(rig)
    rig.drain(worker)
    check_with_log(rig, view)
    assert looks.count(len(RIDERS)) > 10


@pytest.mark.parametrize("commit_rows", [1, 5, 8])
def test_state_that_was_rolled_up_before_it_was_published_takes_the_value_away_until_it_can_be_exact(commit_rows: int) -> None:
    rig = Rig(1)                                                  # nothing is published, and one commit carries some of the batch
    past_and_present(rig)

    passes: list[failpoint.Name] = []

    def kill(passed: failpoint.Name) -> None:
        passes.append(passed)
        if passed == "before_commit" and passes.count(passed) == 2:
            raise Killed

    worker = rig.worker(failpoint=kill, commit_rows=commit_rows)
    worker.open()
    with pytest.raises(Killed):
        rig.drain(worker)
    worker.close()
    rig.project = PUBLISHED
    found: list[int] = []
    worker = rig.started(failpoint=at_each("before_commit", lambda: found.append(check(rig))))
    rig.drain(worker)
    assert 0 in found, "nothing is published of an instant that the state has no exact answer at"
    rig.append([rig.trip(rider=entity_id, at=rig.clock.now_us()) for entity_id in RIDERS])
    rig.drain(worker)
    assert found[-1] == len(RIDERS)
    check_with_log(rig)


# -- turning it on and off ---------------------------------------------------------------------------------------------


def test_turned_on_values_come_with_events_and_turned_off_they_stay_as_they_are_until_withdrawn() -> None:
    assert PUBLISHED.views[0].id == RIDER.id, "whether it is published is no part of what a view means"
    rig = Rig(1)
    worker = rig.started()
    rig.append([rig.trip(rider=entity_id, at=rig.clock.now_us()) for entity_id in RIDERS])
    rig.drain(worker)
    worker.close()
    assert check(rig) == 0
    rig.project = PUBLISHED
    worker = rig.started()
    rig.append([rig.trip(rider="ada", at=rig.clock.now_us())])
    rig.drain(worker)
    worker.close()
    assert check(rig) == 1
    rig.project = PROJECT
    before = published(rig, "ada")
    worker = rig.started()
    rig.append([rig.trip(rider="ada", at=rig.clock.now_us())])
    rig.drain(worker)
    assert published(rig, "ada") == before
    assert rig.online.withdraw([RIDER.id]) == 0
    assert rig.online.withdraw([ZONE.id, f"{RIDER.name}@0123456789"]) == 1
    assert published(rig, "ada") is None
    assert rig.agrees()


def test_a_rebuild_takes_the_values_away_and_publishes_all_of_them_anew() -> None:
    rig = Rig(1, project=PUBLISHED)
    worker = rig.started()
    rig.produce(60)
    rig.drain(worker)
    before = {entity_id: published(rig, entity_id) for entity_id in RIDERS}
    rig.online.drop_view(RIDER.id, for_good=False)
    assert check(rig) == 0
    rig.online.create_offsets(RIDER.id, "trip", rig.log.topic(TRIP.topic).topic_id, {0: 0})
    for _ in range(40):
        worker.step(timeout_s=0.0, wait=lambda seconds: None)
        rig.clock.advance(300_000)
        check(rig)
    check_with_log(rig)
    assert {entity_id: published(rig, entity_id) for entity_id in RIDERS} == before


def test_a_published_value_lives_as_long_as_the_state_beside_it() -> None:
    rig = Rig(1, project=PUBLISHED)
    store = rig.online
    assert isinstance(store, MemoryOnlineStore)
    worker = rig.started()
    rig.append([rig.trip(rider="ada", at=rig.clock.now_us())])
    rig.drain(worker)
    values = store.snapshot().values
    state, plain = values[rig.keys.state("rider", "ada", RIDER.id, "trip", None)], values[rig.keys.published("rider", "ada", RIDER.name)]
    assert state.dies_ms == plain.dies_ms > 0


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_published_values_count_among_the_rows_of_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, sizes = Rig(1, project=PUBLISHED), []
    original = MemoryOnlineStore.commit

    def measured(self: MemoryOnlineStore, commit: Any) -> Any:
        sizes.append(sum(max(1, len(write.patches)) for write in commit.writes))
        return original(self, commit)

    monkeypatch.setattr(MemoryOnlineStore, "commit", measured)
    rig.log.append(TRIP.topic, [rig.trip(rider=f"r{i}", at=START_US, zone=None) for i in range(100)])
    rig.drain(rig.started(commit_rows=10))
    assert max(sizes) == 10, "five states, and what is published of each"
    assert sum(sizes) == 200


def test_strings_lists_defaults_and_what_is_undefined_are_json() -> None:
    hour = Window(kind="sliding", length_us=3_600 * SECOND_US, text="1h")
    aggregations = (
        Aggregation(name="mean", op="mean", source="trip", value=Column("fare"), where=None, windows=(hour,)),
        Aggregation(name="low", op="min", source="trip", value=Column("fare"), where=None, windows=(hour,), default=-1.0),
        Aggregation(name="fares", op="last_n", source="trip", value=Column("fare"), where=None, windows=(LIFETIME,), size=3, bare=True),
    )
    view = with_version(
        View(
            name="rider_now", entity="rider", join_key="rider", keys={"trip": "rider"}, aggregations=aggregations, publish=True,
            ttl_us=86_400 * SECOND_US,
        ),
        {"trip": TRIP},
    )  # fmt: skip
    rig = Rig(1, project=msgspec.structs.replace(PROJECT, views=(view,)))
    rig.log.append(TRIP.topic, [rig.trip(rider="ada", at=START_US, fare=None)])
    rig.drain(rig.started())
    said = published(rig, "ada", view)
    assert said == {"view": view.id, "as_of": "2023-11-14T22:13:20Z", "mean_1h": None, "low_1h": -1.0, "fares": [None, None, None]}
    rig.log.append(TRIP.topic, [rig.trip(rider="ada", at=START_US + 1, fare=2.5)])
    rig.drain(rig.started())
    said = published(rig, "ada", view)
    assert said == {"view": view.id, "as_of": "2023-11-14T22:13:20.000001Z", "mean_1h": 2.5, "low_1h": 2.5, "fares": [2.5, None, None]}
