"""Applying definitions: whole or again, in an order that can be cut short anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from trips import PROJECT, VIEWS, aggregation, view, window

from featureflow.clock import ManualClock
from featureflow.define import spec, system
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import (
    HistoryError,
    LogError,
    OffsetMissingError,
    SettingsError,
    StateError,
    TablesMissingError,
    UnavailableError,
)
from featureflow.kernel.events import Events
from featureflow.store.history.protocol import Extent, Statement
from featureflow.store.history.sql import SqlHistory
from featureflow.store.keys import Bucket, Keys, buckets
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Record, TopicState
from featureflow.store.mirror import buckets_of, mirrored, partitions_document, watched_from
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import DROPPED, Advance, Commit, Committed, OffsetRecord
from featureflow.store.online.redis import RedisOnlineStore
from featureflow.store.online.writes import StateWrite, Writes
from featureflow.store.registry import Registry, beginnings

KEYS = Keys(DEFAULT_PROJECT)
SOURCES = (*PROJECT.sources, *system.system_sources(DEFAULT_PROJECT))
REPLACED = view("origin_now", "airport", "origin", aggregation("worst", "max", "departure", window("2h"), default=-1.0))
CHANGED = msgspec.structs.replace(PROJECT, views=tuple(REPLACED if v.name == "origin_now" else v for v in VIEWS))


class Place:
    """Everything that a registry writes to."""

    def __init__(self, url: str) -> None:
        self.clock = ManualClock(1_700_000_000_000_000)
        self.history, self.online, self.log = SqlHistory(url), MemoryOnlineStore(self.clock), MemoryLog(self.clock)
        self.registry = Registry(self.history, self.online, self.log, self.clock)

    def offsets(self, view: spec.View) -> dict[tuple[str, int], int | None]:
        found: dict[tuple[str, int], int | None] = {}
        for source in view.sources:
            for partition in self.log.topic(f"{source}s").beginning:
                record = self.online.offsets(source, partition, [view.id])[view.id]
                found[source, partition] = None if record is None else record.offset
        return found

    def everything(self) -> list[object]:
        """What apply leaves behind, but for the random ids of topics."""
        positions = [self.history.query("positions", {"view_id": v.id}) for v in VIEWS]
        return [
            mirrored(self.online),
            {v.name: self.offsets(v) for v in VIEWS},
            [[{**row, "topic_id": ""} for row in rows] for rows in positions],
            [{**row, "changed_at_us": 0} for row in self.history.query("view_versions", {})],
            {s.name: self.online.get_meta(partitions_document(s.name)) for s in SOURCES},
            {s.name: self.history.extents(s.name) for s in SOURCES},
            len(self.history.query("newest_definition", {})),
        ]


@pytest.fixture
def place(sqlite_url: str) -> Iterator[Place]:
    place = Place(sqlite_url)
    yield place
    place.history.close()


def test_apply_makes_tables_topics_offsets_and_the_mirror(place: Place) -> None:
    plan = place.registry.apply(PROJECT, partitions={"departure": 3, "arrival": 2})
    assert "+ view carrier_now: version" in str(plan)
    assert place.registry.current() == PROJECT == mirrored(place.online)
    assert place.offsets(VIEWS[0]) == {("departure", 0): 0, ("departure", 1): 0, ("departure", 2): 0, ("arrival", 0): 0, ("arrival", 1): 0}
    assert place.online.get_meta("partitions:departure") == b"3"
    assert place.online.get_meta("partitions:featureflow_predictions") == b"1"
    assert place.log.topic("featureflow.default.dead-letters").partitions == 1
    assert place.history.offsets("arrival") == {0: 0, 1: 0}


ALERT = spec.Alert(
    name="late_now", model="late", source="departure", entity="carrier", field="carrier", ids={}, context={}, average=0.3, above=0.87,
    until=0.8,
)  # fmt: skip


def test_events_are_watched_from_when_the_first_alert_on_them_was_applied(place: Place) -> None:
    place.registry.apply(PROJECT, partitions={"departure": 2})
    assert "featureflow_scores" not in {source.name for source in system.all_sources(PROJECT)}
    with pytest.raises(LogError):
        place.log.topic(system.scores(DEFAULT_PROJECT).topic)
    place.log.append("departures", [Record(b"{}", partition=1)] * 3)
    watched = msgspec.structs.replace(PROJECT, alerts=(ALERT,))
    sizes = {"departure": 2, "featureflow_scores": 3, "featureflow_alerts": 1}
    assert "+ alert late_now: on departure" in str(place.registry.apply(watched, partitions=sizes))
    assert watched_from(place.online, "late", "departure") == {0: 0, 1: 3}
    place.log.append("departures", [Record(b"{}", partition=0)] * 5)
    more = msgspec.structs.replace(watched, alerts=(ALERT, msgspec.structs.replace(ALERT, name="later", above=0.95)))
    assert "+ alert later" in str(place.registry.apply(more, partitions=sizes))
    assert watched_from(place.online, "late", "departure") == {0: 0, 1: 3}
    assert place.log.topic(system.averages_topic(DEFAULT_PROJECT)).partitions == 3
    assert place.history.offsets("featureflow_scores") == {0: 0, 1: 0, 2: 0}
    assert place.history.offsets("featureflow_alerts") == {0: 0}


def test_a_changed_alert_is_told_by_what_changed(place: Place) -> None:
    watched = msgspec.structs.replace(PROJECT, alerts=(ALERT,))
    place.registry.apply(watched)
    changed = msgspec.structs.replace(watched, alerts=(msgspec.structs.replace(ALERT, above=0.9, ids={"carrier": "carrier"}),))
    assert str(place.registry.plan(changed)) == "~ alert late_now: ids changed; above 0.87 -> 0.9"
    assert str(place.registry.plan(PROJECT)) == "- alert late_now: its averages stay"


def test_applying_the_same_again_changes_nothing(place: Place) -> None:
    place.registry.apply(PROJECT, partitions=2)
    before = place.everything()
    plan = place.registry.apply(PROJECT, partitions=2)
    assert not plan
    assert str(plan) == "nothing changes"
    assert place.everything() == before
    assert len({str(row["id"]) for row in place.history.query("newest_definition", {})}) == 1


class CutShortError(Exception):
    pass


class CutShort:
    """Passes calls on until the n-th of them all, which it refuses; ``after``: does it first, and then refuses to say so."""

    def __init__(self, inner: Any, calls: list[int], at: int, after: bool) -> None:
        self._inner, self._calls, self._at, self._after = inner, calls, at, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls[0] += 1
            if self._calls[0] != self._at:
                return method(*args, **kwargs)
            if self._after:
                method(*args, **kwargs)
            raise CutShortError(name)

        return call


def test_apply_cut_short_at_any_call_is_finished_by_the_next(tmp_path_factory: pytest.TempPathFactory) -> None:
    def made(name: str) -> Place:
        return Place(f"sqlite:///{tmp_path_factory.mktemp('cut')}/{name}.db")

    whole = made("whole")
    whole.registry.apply(PROJECT)
    wanted, at, done = whole.everything(), 0, False
    while not done:
        at += 1 if at < 12 else 4                  # the long run of equal calls is sampled
        for after in (False, True):
            place, calls = made(f"{at}{after}"), [0]
            broken = [CutShort(part, calls, at, after) for part in (place.history, place.online, place.log)]
            try:
                Registry(*broken, clock=place.clock).apply(PROJECT)      # type: ignore[arg-type]  # stand in
                done = True
            except CutShortError:
                pass
            place.registry.apply(PROJECT)
            assert place.everything() == wanted, f"cut short at call {at}, {'after' if after else 'before'} it"
            place.history.close()
    whole.history.close()
    assert at > 30


def test_a_changed_view_is_a_new_version_that_begins_at_the_logs_beginning(place: Place) -> None:
    place.registry.apply(PROJECT)
    place.log.append("departures", [Record(b"{}") for _ in range(10)])
    place.log.delete_before("departures", 0, 4)
    plan = place.registry.plan(CHANGED)
    old = PROJECT.view("origin_now")
    assert str(plan) == (
        f"~ view origin_now: version {old.version} -> {REPLACED.version}, folded again from history and the log; "
        "features +worst_2h -worst_1h -best_1h -sum_30m -sum_3h -noted_6h"
    )
    assert mirrored(place.online) == PROJECT, "a plan changes nothing"
    place.registry.apply(CHANGED)
    assert place.offsets(REPLACED) == {("departure", 0): 4}
    assert place.offsets(old) == {("departure", 0): 0, ("arrival", 0): 0}, "the old version serves on until it is dropped"
    assert place.registry.retired() == [old.id]
    assert place.registry.drop_retired() == {old.id: 2}
    assert place.offsets(old) == {("departure", 0): None, ("arrival", 0): None}
    assert place.registry.retired() == []
    place.registry.apply(PROJECT)
    assert place.offsets(old) == {("departure", 0): 4, ("arrival", 0): 0}, "a version that was dropped begins again"


def test_going_back_before_the_old_version_is_dropped_goes_on_where_it_was(place: Place) -> None:
    old = PROJECT.view("origin_now")
    place.registry.apply(PROJECT)
    place.registry.apply(CHANGED)
    assert str(place.registry.plan(PROJECT)).startswith(
        f"~ view origin_now: version {REPLACED.version} -> {old.version}, which goes on where it was left; features +"
    )
    place.registry.apply(PROJECT)
    assert place.registry.retired() == [REPLACED.id]
    assert place.offsets(old) == {("departure", 0): 0, ("arrival", 0): 0}
    place.registry.drop_retired()
    assert f"{old.version} -> {REPLACED.version}, folded again from history and the log" in str(place.registry.plan(CHANGED))


def test_a_view_that_comes_back_before_it_is_dropped_is_said_to_go_on_where_it_was_left(place: Place) -> None:
    without = msgspec.structs.replace(PROJECT, views=tuple(v for v in VIEWS if v.name != "origin_now"))
    version = PROJECT.view("origin_now").version
    added = f"+ view origin_now: version {version}, 5 features of airport from departure, arrival"
    assert added in str(place.registry.plan(PROJECT)).splitlines()
    place.registry.apply(PROJECT)
    place.registry.apply(without)
    assert str(place.registry.plan(PROJECT)) == f"{added}; it goes on where it was left"
    place.registry.drop_retired()
    assert str(place.registry.plan(PROJECT)) == added


def test_names_and_defaults_do_not_make_a_new_version(place: Place) -> None:
    place.registry.apply(PROJECT)
    shown = tuple(
        msgspec.structs.replace(v, aggregations=tuple(msgspec.structs.replace(a, default=0.0) for a in v.aggregations)) for v in VIEWS
    )
    plan = place.registry.apply(msgspec.structs.replace(PROJECT, views=shown))
    assert all("names or defaults only" in str(change) for change in plan.changes)
    assert place.registry.retired() == []


def test_whether_a_view_is_published_is_no_new_version_and_a_plan_says_what_becomes_of_its_values(place: Place) -> None:
    published = tuple(msgspec.structs.replace(v, publish=v.name == "carrier_last") for v in VIEWS)
    place.registry.apply(PROJECT)
    version = PROJECT.view("carrier_last").version
    on = place.registry.apply(msgspec.structs.replace(PROJECT, views=published))
    assert str(on) == f"~ view carrier_last: its values are published from each entity's next event on, version {version} stays"
    assert place.registry.retired() == []
    off = place.registry.apply(PROJECT)
    assert str(off) == f"~ view carrier_last: its values are published no more; apply --prune deletes them, version {version} stays"


def test_state_that_was_lost_is_loud_and_is_never_made_again_in_silence(place: Place) -> None:
    place.registry.apply(PROJECT)
    lost = PROJECT.view("carrier_last")
    place.online.drop_view(lost.id)
    assert list(place.registry.inspection.lost(PROJECT)) == [lost.id]
    with pytest.raises(OffsetMissingError, match=rf"{lost.id}.*featureflow rebuild"):
        place.registry.apply(PROJECT)
    assert place.offsets(lost) == {("arrival", 0): None}
    place.registry.rebuild(PROJECT, [lost.id])
    assert place.offsets(lost) == {("arrival", 0): 0}
    assert place.registry.inspection.lost(PROJECT) == {}


class Died(Exception):
    pass


@pytest.mark.parametrize("step", ["drop_view", "create_offsets"])
@pytest.mark.parametrize("finish", ["rebuild", "apply"])
def test_a_rebuild_that_was_cut_short_is_said_and_is_finished_by_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str, finish: str
) -> None:
    place.registry.apply(PROJECT)
    view = PROJECT.view("carrier_last")

    def dies(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(place.online, step, dies)
        with pytest.raises(Died):
            place.registry.rebuild(PROJECT, [view.id])
    lost = place.registry.inspection.lost(PROJECT)
    assert list(lost) == [view.id]
    assert "cut short" in lost[view.id]
    if finish == "rebuild":
        place.registry.rebuild(PROJECT, list(lost))
    else:
        place.registry.apply(PROJECT)
    assert place.registry.inspection.lost(PROJECT) == {}
    assert place.offsets(view) == {("arrival", 0): 0}


def test_a_rebuild_whose_drop_was_taken_back_is_no_success_and_is_cured_by_the_next(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.registry.apply(PROJECT)
    view = PROJECT.view("carrier_last")
    key, drop = KEYS.offset(view.id, "arrival", 0), place.online.drop_view
    (old,) = place.online.read([key])

    def taken_back(*view_ids: str, **options: Any) -> int:
        """As by a replica that knows nothing of the drop and is a primary now."""
        gone = drop(*view_ids, **options)
        place.online.damage(key, old)
        return gone

    with monkeypatch.context() as patch:
        patch.setattr(place.online, "drop_view", taken_back)
        with pytest.raises(StateError, match="Run again: featureflow rebuild carrier_last"):
            place.registry.rebuild(PROJECT, [view.id])
    place.registry.rebuild(PROJECT, [view.id])
    assert place.registry.inspection.lost(PROJECT) == {}


def test_while_a_view_is_rebuilt_its_offset_records_are_marked_and_not_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.registry.apply(PROJECT)
    view = PROJECT.view("carrier_last")
    made, seen = place.online.create_offsets, list[OffsetRecord | None]()

    def watched(view_id: str, source: str, topic_id: str, offsets: dict[int, int], of: int) -> list[int]:
        seen.append(place.online.offsets(source, 0, [view_id])[view_id])
        return made(view_id, source, topic_id, offsets, of)

    monkeypatch.setattr(place.online, "create_offsets", watched)
    place.registry.rebuild(PROJECT, [view.id])
    assert [stored.dirty for stored in seen if stored is not None] == [DROPPED]


def test_state_of_an_older_format_is_found_and_rebuilt(place: Place) -> None:
    place.registry.apply(PROJECT)
    view = PROJECT.view("carrier_last")
    place.online.damage(KEYS.offset(view.id, "arrival", 0), b"FFo1" + b"0" * 140)
    assert "format" in place.registry.inspection.lost(PROJECT)[view.id]
    with pytest.raises(OffsetMissingError, match="format.*featureflow rebuild carrier_last"):
        place.registry.apply(PROJECT)
    place.registry.rebuild(PROJECT, [view.id])
    assert place.registry.inspection.lost(PROJECT) == {}
    assert place.offsets(view) == {("arrival", 0): 0}


class Grown(MemoryLog):
    """A log whose topic gets a partition more, as an administrator may do."""

    more = 0

    def topic(self, topic: str) -> TopicState:
        state = super().topic(topic)
        if topic != "departures":
            return state
        added = {len(state.beginning) + i: 0 for i in range(self.more)}
        count = state.partitions + self.more
        return replace(state, partitions=count, beginning=state.beginning | added, end=state.end | added)


def test_new_partitions_of_a_topic_get_offsets_and_the_count_is_said(place: Place) -> None:
    log = Grown(place.clock)
    registry = Registry(place.history, place.online, log, place.clock)
    registry.apply(PROJECT)
    assert registry.inspection.strayed(PROJECT) == {}
    log.more, place.log = 1, log
    said = registry.inspection.strayed(PROJECT)["departure"]
    assert said == "source departure is applied with 1 partitions, its topic has 2. Run: featureflow apply"
    assert str(registry.plan(PROJECT)) == "~ event departure: partitions 1 -> 2"
    assert registry.apply(PROJECT)
    assert registry.inspection.strayed(PROJECT) == {}
    assert not registry.plan(PROJECT)
    assert place.offsets(PROJECT.view("aircraft_ever")) == {("departure", 0): 0, ("departure", 1): 0}
    assert place.online.get_meta("partitions:departure") == b"2"
    assert place.history.extents("departure") == {0: Extent(0, 0), 1: Extent(0, 0)}


def test_a_topic_that_was_created_again_is_refused(place: Place) -> None:
    place.registry.apply(PROJECT)
    place.log.delete_topic("departures")
    assert "departures" in place.registry.inspection.strayed(PROJECT)["departure"]
    with pytest.raises(LogError, match="'departures' of event 'departure' was deleted and created again"):
        place.registry.apply(PROJECT)
    (said,) = place.registry.inspection.strayed(PROJECT).values()
    now = place.log.topic("departures").topic_id
    assert said.startswith("the topic of departure/0, which view ")
    assert f" was deleted and created again (id {now}, was " in said
    assert said.endswith("Give the event a new name, and a topic with a new name. Then run: featureflow apply")


def test_a_topic_of_the_systems_own_that_was_created_again_is_said(place: Place) -> None:
    place.registry.apply(PROJECT)
    letters = SOURCES[-1]
    place.log.delete_topic(letters.topic)
    place.log.ensure_topic(letters.topic, 1)
    assert "was deleted and created again" in place.registry.inspection.strayed(PROJECT)[letters.name]


def test_a_store_that_was_emptied_is_told_from_one_that_is_new(place: Place) -> None:
    assert not place.registry.inspection.emptied(place.registry.current())
    place.registry.apply(PROJECT)
    assert not place.registry.inspection.emptied(place.registry.current())
    place.online = MemoryOnlineStore(place.clock)
    registry = Registry(place.history, place.online, place.log, place.clock)
    assert registry.inspection.emptied(registry.current())
    registry.rebuild(PROJECT, [view.id for view in PROJECT.views])
    assert not registry.inspection.emptied(registry.current())


def test_a_plan_refuses_what_apply_would_refuse(place: Place) -> None:
    place.registry.apply(PROJECT)
    departure = PROJECT.source("departure")
    others = tuple(source for source in PROJECT.sources if source is not departure)
    texts = tuple(msgspec.structs.replace(field, type="str") if field.type == "float" else field for field in departure.fields)
    for changed, error, said in (
        (msgspec.structs.replace(departure, topic="departures_2"), LogError, "Give the event a new name as well, or its topic as it was"),
        (msgspec.structs.replace(departure, fields=texts), HistoryError, "give the field a new name"),
    ):
        with pytest.raises(error, match=said):
            place.registry.plan(msgspec.structs.replace(PROJECT, sources=(*others, changed), views=(), models=()))
    assert place.registry.plan(PROJECT).changes == ()


def test_an_event_with_another_topic_is_refused_before_that_topic_is_made_and_as_another_event_it_is_read_whole(place: Place) -> None:
    place.registry.apply(PROJECT)
    place.history.execute([Statement("advance_history_offset", {
        "source": "departure", "partition_id": 0, "from_offset": 0, "to_offset": 10,
    })])
    moved = msgspec.structs.replace(PROJECT.source("departure"), topic="departures_2")
    others = tuple(source for source in PROJECT.sources if source.name != "departure")
    with pytest.raises(LogError, match="'departure' was applied with topic 'departures' and now has 'departures_2'"):
        place.registry.apply(msgspec.structs.replace(PROJECT, sources=(*others, moved)))
    with pytest.raises(LogError):
        place.log.topic("departures_2")
    named = msgspec.structs.replace(moved, name="departure_2")
    place.registry.apply(msgspec.structs.replace(PROJECT, sources=(*PROJECT.sources, named)))
    assert place.history.offsets("departure_2") == {0: 0}


def test_a_rebuild_that_is_refused_has_dropped_nothing(place: Place) -> None:
    place.registry.apply(PROJECT, partitions=2)
    before = place.offsets(VIEWS[0])
    place.log.delete_topic("departures")
    with pytest.raises(LogError, match="was deleted and created again"):
        place.registry.rebuild(PROJECT, [view.id for view in VIEWS])
    assert place.offsets(VIEWS[0]) == before
    assert None not in before.values()
    assert place.log.topic("departures").partitions == 2


def test_more_partitions_of_a_topic_that_is_keyed_by_an_id_are_refused_and_without_keyed_by_they_are_not(place: Place) -> None:
    departure = PROJECT.source("departure")

    def keyed_by(field: str | None) -> spec.Project:
        sources = tuple(
            msgspec.structs.replace(source, keyed_by=field) if source.name == departure.name else source for source in PROJECT.sources
        )
        return msgspec.structs.replace(PROJECT, sources=sources)

    place.registry.apply(keyed_by("origin"))
    topic = place.log._topic(departure.topic)
    topic.partitions += 1
    topic.beginning.append(0)
    topic.records.append([])
    with pytest.raises(LogError, match="has 2 partitions and had 1.*Remove keyed_by="):
        place.registry.apply(keyed_by("origin"))
    assert place.online.get_meta(partitions_document(departure.name)) == b"1"
    place.registry.apply(keyed_by(None))
    assert place.online.get_meta(partitions_document(departure.name)) == b"2"


def test_what_is_applied_is_known_while_the_mirror_is_away(place: Place) -> None:
    place.registry.apply(PROJECT)

    class Away:
        def get_meta(self, name: str) -> bytes | None:
            raise UnavailableError("online.url")

    assert Registry(place.history, Away(), place.log).current() == PROJECT      # type: ignore[arg-type]  # only this is called
    assert Registry(place.history, MemoryOnlineStore(place.clock), place.log).current() == PROJECT


def test_definitions_that_another_version_wrote_are_named_and_apply_puts_them_right(place: Place) -> None:
    place.registry.apply(PROJECT)
    other = '{"views": [], "of a later version": 1}'
    place.history.execute([Statement("record_definition", {"applied_at_us": 0, "project": other})])
    place.online.put_meta("project", other.encode())
    with pytest.raises(StateError, match="featureflow apply"):
        mirrored(place.online)
    with pytest.raises(StateError, match="featureflow apply"):
        place.registry.current()
    place.registry.apply(PROJECT)
    assert place.registry.current() == mirrored(place.online) == PROJECT


def test_every_kind_of_change_is_said(place: Place) -> None:
    place.registry.apply(PROJECT)
    departure = PROJECT.source("departure")
    gate = spec.Field(name="gate", type="str", nullable=True)
    model = msgspec.structs.replace(PROJECT.models[0], deadline_us=5_000, inputs=PROJECT.models[0].inputs[::-1])
    new = msgspec.structs.replace(
        PROJECT,
        sources=(msgspec.structs.replace(departure, fields=(*departure.fields, gate), disorder_us=1), PROJECT.source("arrival")),
        models=(model, msgspec.structs.replace(model, name="later")),
        requests=(),
        entities=(*PROJECT.entities, spec.Entity(name="gate", type="str")),
    )
    assert [str(change) for change in place.registry.plan(new).changes] == [
        "+ entity gate",
        "~ event departure: fields +gate; disorder_us 600000000 -> 1",
        "- request ask",
        "+ model later",
        "~ model late: inputs in another order; deadline_us 20000 -> 5000",
    ]


def test_an_offset_record_under_the_planned_name_is_never_overwritten(place: Place) -> None:
    """A second apply at the same time must not send a view back to the beginning."""
    place.registry.apply(PROJECT)
    v = PROJECT.view("aircraft_ever")
    before = place.online.read([KEYS.offset(v.id, "departure", 0)])
    assert place.online.create_offsets(v.id, "departure", "other", {0: 99}) == []
    place.registry.apply(PROJECT)
    assert place.online.read([KEYS.offset(v.id, "departure", 0)]) == before


def named(name: str) -> spec.Project:
    return msgspec.structs.replace(PROJECT, name=name)


def test_a_history_database_takes_one_project(place: Place) -> None:
    place.registry.apply(PROJECT)
    other = Registry(place.history, MemoryOnlineStore(place.clock, project="other"), place.log, place.clock)
    before = place.everything()
    for do in (other.plan, other.apply):
        with pytest.raises(SettingsError, match="holds the project 'default', and this one is 'other'. Point history.url at"):
            do(named("other"))
    assert place.everything() == before


def test_two_histories_do_not_share_a_project_of_one_name_in_the_online_store(place: Place, tmp_path: Path) -> None:
    place.registry.apply(PROJECT)
    before = place.everything()
    copied = SqlHistory(f"sqlite:///{tmp_path}/copied.db")
    with closing(copied):
        for applied_before in (False, True):
            if applied_before:      # with an online store of its own
                Registry(copied, MemoryOnlineStore(place.clock), MemoryLog(place.clock), place.clock).apply(PROJECT)
            other = Registry(copied, place.online, place.log, place.clock)
            with pytest.raises(SettingsError, match="holds a project 'default' that was applied with another history database"):
                other.apply(PROJECT)
    assert place.everything() == before


def test_an_online_store_that_lost_everything_is_taken_again(place: Place) -> None:
    place.registry.apply(PROJECT)
    empty = Registry(place.history, MemoryOnlineStore(place.clock), place.log, place.clock)
    empty.rebuild(PROJECT, [view.id for view in VIEWS])
    empty.check_owner(PROJECT.name)


@pytest.mark.parametrize(("asked", "wanted", "has"), [(1, None, 1), (4, None, 4), (4, 2, 2), (None, None, 32)])
def test_an_online_store_that_lost_everything_begins_anew_in_as_many_buckets(
    place: Place, asked: int | None, wanted: int | None, has: int
) -> None:
    """Whoever reads published values by their bucket would look elsewhere."""
    Registry(place.history, place.online, place.log, place.clock, buckets=asked, buckets_at_first=32).apply(PROJECT)
    empty = MemoryOnlineStore(place.clock)
    again = Registry(place.history, empty, place.log, place.clock, buckets=wanted, buckets_at_first=32)
    if wanted not in (None, asked):
        with pytest.raises(SettingsError, match=f"online.buckets is {wanted}, and the states .* are in {asked}: .* featureflow rebuild"):
            again.apply(PROJECT)
    again.rebuild(PROJECT, [view.id for view in VIEWS])
    assert buckets_of(empty) == has
    Registry(place.history, MemoryOnlineStore(place.clock), place.log, place.clock, buckets_at_first=32).rebuild(
        PROJECT, [view.id for view in VIEWS]
    )
    assert list(place.history.query("buckets", {})) == [{"buckets": has}]


def test_a_project_of_a_version_that_did_not_record_its_buckets_keeps_them(place: Place) -> None:
    Registry(place.history, place.online, place.log, place.clock, buckets=1).apply(PROJECT)
    place.history.execute([Statement("settle_buckets", {"buckets": None})])
    Registry(place.history, place.online, place.log, place.clock, buckets_at_first=32).apply(PROJECT)
    assert buckets_of(place.online) == 1
    assert list(place.history.query("buckets", {})) == [{"buckets": 1}]


def test_projects_of_two_names_share_an_online_store_and_a_log(tmp_path: Path, embedded_redis_url: str) -> None:
    log, clock = MemoryLog(ManualClock(1_700_000_000_000_000)), ManualClock(1_700_000_000_000_000)
    with ExitStack() as exits:
        places = {}
        for name in ("one", "two"):
            online = exits.enter_context(closing(RedisOnlineStore(embedded_redis_url, project=name)))
            history = exits.enter_context(closing(SqlHistory(f"sqlite:///{tmp_path}/{name}.db")))
            places[name] = Registry(history, online, log, clock), online
            places[name][0].apply(named(name))
        view = VIEWS[0]
        for name, (_, online) in places.items():
            claim = online.claim("departure", 0, [view.id], log.topic("departures").topic_id)
            state = Keys(name).state(view.entity, "UA", view.id, "departure", 0)
            advance = Advance(view.id, 0, len(name) if name == "one" else 9)
            write = StateWrite(state, 0, b"", 0, whole=name.encode())
            assert isinstance(online.commit(Commit("departure", 0, claim.token, (advance,), 5, Writes.of([write]))), Committed)
        stored = {name: online.offsets("departure", 0, [view.id])[view.id] for name, (_, online) in places.items()}
        assert {name: record and record.offset for name, record in stored.items()} == {"one": 3, "two": 9}
        gone = places["one"][1].drop_view(view.id)
        assert gone > 0
        assert places["one"][1].offsets("departure", 0, [view.id]) == {view.id: None}
        assert places["two"][1].offsets("departure", 0, [view.id])[view.id] == stored["two"]
        assert places["two"][1].read([Keys("two").state(view.entity, "UA", view.id, "departure", 0)]) == [b"two"]
        assert mirrored(places["two"][1]) == named("two")
    assert {source.topic for source in system.system_sources("one")}.isdisjoint(s.topic for s in system.system_sources("two"))
    assert system.group("one", "ingest") != system.group("two", "ingest")


@pytest.mark.parametrize("of", [1, 16])
@pytest.mark.parametrize("project", ["default", "a-b_c", "0"])
def test_all_keys_of_a_bucket_share_a_slot_of_a_cluster_and_no_project_shares_a_key_with_another(project: str, of: int) -> None:
    def names(keys: Keys) -> list[bytes]:
        ids = ("a:{b}", "x")
        return [
            *(keys.state("user", entity_id, "v@1", "trip", partition) for entity_id in ids for partition in (None, 3)),
            *(keys.offset("v@1", "trip", 0, keys.buckets[keys.number(entity_id)]) for entity_id in ids),
            *(keys.visibility("v@1", "trip", 0, keys.buckets[keys.number(entity_id)]) for entity_id in ids),
            keys.meta("project"),
        ]

    def tag(name: bytes) -> str:
        return name[name.index(b"{") + 1 : name.index(b"}")].decode()      # what Redis Cluster hashes

    mine, (first, second) = Keys(project, of), (Keys(project, of).number(entity_id) for entity_id in ("a:{b}", "x"))
    tags = [f"{project}:{bucket}" for bucket in (mine.buckets[first], mine.buckets[second])]
    assert list(map(tag, names(mine))) == [tags[0]] * 2 + [tags[1]] * 2 + tags + tags + [f"{project}:meta"]
    assert (first == second) == (of == 1)
    assert not set(names(mine)) & set(names(Keys("other", of)))
    assert not set(names(mine)[:-1]) & set(names(Keys(project, 4))), "what is in another number of buckets is not taken for ours"


def test_every_bucket_has_its_share_of_the_ids_and_an_id_keeps_its_bucket() -> None:
    keys = Keys("default", 16)
    counts = Counter(keys.number(f"user-{i}") for i in range(16_000))
    assert set(counts) == set(range(16))
    assert 800 < min(counts.values()) <= max(counts.values()) < 1_200
    assert [keys.number(i) for i in ("ada", 7, "7", "é*")] == [8, 2, 2, 8], "stored states are found by this"


def test_the_number_of_buckets_is_settled_by_the_first_apply_and_changed_by_rebuilding_everything(place: Place) -> None:
    def registry(of: int | None) -> Registry:
        return Registry(place.history, place.online, place.log, place.clock, buckets=of)

    def made(of: int) -> set[Bucket]:
        stored = place.online.snapshot().offsets()
        keys = Keys(DEFAULT_PROJECT, of)
        return {b for b in keys.buckets if keys.offset(PROJECT.view("carrier_last").id, "arrival", 0, b) in stored}

    registry(4).apply(PROJECT)
    assert buckets_of(place.online) == 4
    assert made(4) == set(buckets(4))
    assert made(1) == set()
    registry(None).apply(PROJECT)
    before = place.everything()
    for refused in (registry(2).apply, lambda project: registry(2).rebuild(project, [project.views[0].id])):
        with pytest.raises(SettingsError, match=r"online\.buckets is 2, and the states .* are in 4: .* featureflow rebuild"):
            refused(PROJECT)
    assert place.everything() == before
    registry(2).rebuild(PROJECT, [view.id for view in PROJECT.views])
    assert buckets_of(place.online) == 2
    assert made(2) == set(buckets(2))
    assert registry(2).inspection.lost(PROJECT) == {}


def test_what_one_bucket_lost_is_found_and_named(place: Place) -> None:
    registry = Registry(place.history, place.online, place.log, place.clock, buckets=4)
    registry.apply(PROJECT)
    view = PROJECT.view("carrier_last")
    key = Keys(DEFAULT_PROJECT, 4).offset(view.id, "arrival", 0, Bucket(3, 4))
    place.online.damage(key, None)
    (problem,) = registry.inspection.lost(PROJECT).values()
    assert "arrival/0, bucket 3/4 was made and is gone" in problem
    with pytest.raises(OffsetMissingError, match=f"bucket 3/4 .*featureflow rebuild {view.name}"):
        registry.apply(PROJECT)
    registry.rebuild(PROJECT, [view.id])
    assert registry.inspection.lost(PROJECT) == {}


def test_before_the_first_apply_nothing_is_applied_rather_than_broken(sqlite_url: str) -> None:
    place = Place(sqlite_url)
    assert place.registry.current() is None
    place.registry.check_owner(PROJECT.name)
    with pytest.raises(TablesMissingError, match="lacks tables. Run: featureflow apply"):
        place.history.extents("departure")
    place.history.close()


@pytest.mark.parametrize(
    ("held", "begins"),
    [
        (Extent(3, 40), 3),                # history reaches back further
        (Extent(3, 10), 3),                # and just as far as the log's beginning
        (Extent(3, 9), 10),                # a gap: what it has would be a part
        (Extent(10, 10), 10),              # it begins where the log does
        (Extent(12, 40), 10),              # it began later
        (None, 10),
    ],
)
def test_a_view_begins_where_history_and_the_log_together_are_whole(held: Extent | None, begins: int) -> None:
    topic = TopicState("id", 1, beginning={0: 10}, end={0: 50})
    assert beginnings(topic, {} if held is None else {0: held}) == {0: begins}


def test_a_new_view_version_begins_with_history_though_the_log_has_deleted_its_events(place: Place) -> None:
    place.registry.apply(PROJECT)
    place.log.append("departures", [Record(b"{}")] * 9)
    empty = Events(0, *[np.zeros(0, np.int64)] * 3, {})
    place.history.append(PROJECT.source("departure"), 0, empty, 0, 9)
    place.log.delete_before("departures", 0, 7)
    place.registry.apply(CHANGED)
    assert place.offsets(CHANGED.view("origin_now"))["departure", 0] == 0
