"""Duplicates in the worker: each event counts once however often it is written, and whatever happens to workers and stores."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from worker_rig import KEYS, PROJECT, SECOND_US, START_US, Rig

from featureflow import limits
from featureflow.clock import ManualClock
from featureflow.define.spec import Field, Project
from featureflow.define.version import with_version
from featureflow.errors import StateError
from featureflow.ingest import ids
from featureflow.store.keys import Keys
from featureflow.store.log.protocol import Record
from featureflow.store.online.memory import MemoryOnlineStore

HORIZON_US = 600 * SECOND_US


def deduping(within_us: int = HORIZON_US) -> Project:
    (trip,) = PROJECT.sources
    trip = msgspec.structs.replace(
        trip, fields=(*trip.fields, Field(name="event_id", type="str", nullable=True)), dedupe="event_id", within_us=within_us
    )
    views = tuple(with_version(view, {"trip": trip}) for view in PROJECT.views)
    return msgspec.structs.replace(PROJECT, sources=(trip,), views=views)


def rig_of(within_us: int = HORIZON_US, **options: Any) -> Rig:
    return Rig(project=deduping(within_us), **options)


def produce(rig: Rig, count: int, written: list[Record]) -> None:
    """Trips, of which a third is written again: at once, later, or much later; some without an id."""
    for _ in range(count):
        if written and rig.luck.random() < 0.35:
            record = rig.luck.choice(written[-rig.luck.choice((1, 5, 60)) :])
        else:
            record = rig.trip(event_id=rig.luck.choice((None, *[f"e{len(written)}"] * 9)))
            written.append(record)
        rig.append([record])


@pytest.mark.parametrize("commit_rows", [1, 4, 500])
@pytest.mark.parametrize(("poll_records", "buckets"), [(1, 1), (7, 3), (10_000, 1), (10_000, 5)])
def test_state_is_what_the_log_says_however_it_is_cut(
    commit_rows: int, poll_records: int, buckets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "VALUE_ROWS", 5)
    rig = rig_of(60 * SECOND_US, buckets=buckets)
    produce(rig, 300, [])
    worker = rig.started(commit_rows=commit_rows, poll_records=poll_records)
    rig.drain(worker, most_steps=20_000)
    assert rig.agrees()
    produce(rig, 100, [])
    rig.drain(rig.started(commit_rows=commit_rows), most_steps=20_000)
    assert rig.agrees()


def test_a_worker_that_told_no_duplicates_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from featureflow.ingest.source_views import SourceViews

    monkeypatch.setattr(SourceViews, "tell_duplicates", lambda *_: None)
    rig = rig_of()
    produce(rig, 300, [])
    rig.drain(rig.started())
    assert not rig.agrees()


def test_duplicates_are_counted_by_view_and_put_aside_nowhere() -> None:
    rig, registry = rig_of(partitions=1), CollectorRegistry()
    for offset in range(5):
        rig.append([rig.trip(rider="ada", zone=None if offset == 4 else 7, event_id="same", at=START_US)])
    rig.drain(rig.started(registry=registry))
    rider, zone = rig.project.views
    counted = [
        registry.get_sample_value("featureflow_ingest_duplicates_total", {"source": "trip", "view": view.id}) for view in (rider, zone)
    ]
    assert counted == [4.0, 3.0]                              # one has no zone: it is none of that view's
    assert rig.letters() == []
    assert rig.actual(rider, rig.clock.now_us()).values[0][1] == 1


def keys_of(rig: Rig) -> Counter[bytes]:
    """How many values hold ids, by view and partition."""
    store = rig.online
    assert isinstance(store, MemoryOnlineStore)
    return Counter(b":".join(key.split(b":")[3:6]) for key in store._values if key.startswith(b"ids:"))


def test_ids_go_with_their_tile_and_no_more_than_two_tiles_stay() -> None:
    rig = rig_of(10 * SECOND_US)
    worker, most = rig.started(), Counter[bytes]()
    for minute in range(30):
        rig.append([rig.trip(at=START_US + minute * 7 * SECOND_US, event_id=f"e{minute}-{i}") for i in range(5)])
        rig.clock.advance(7 * SECOND_US)
        rig.drain(worker)
        most |= keys_of(rig)
    assert set(most.values()) == {2}
    assert len(most) >= 3
    assert rig.agrees()


def test_a_view_that_is_rebuilt_forgets_its_ids_and_counts_the_same_again() -> None:
    rig = rig_of()
    produce(rig, 200, [])
    rig.drain(rig.started())
    view = rig.project.views[0]
    rig.online.drop_view(view.id, for_good=False)
    assert not any(view.id.encode() in key for key in keys_of(rig))
    topic_id = rig.log.topic("trips").topic_id
    rig.online.create_offsets(view.id, "trip", topic_id, dict.fromkeys(range(rig.partitions), 0))
    rig.drain(rig.started())
    assert rig.agrees()


def storm(seed: int, *, within_us: int, buckets: int) -> bool:
    """Sixty turns in bad weather. Whether every value is then what the log says."""
    luck, written = random.Random(seed), list[Record]()
    rig = rig_of(within_us, seed=seed, online_class=MemoryOnlineStore, luck=luck, buckets=buckets)
    return rig.storm(lambda: produce(rig, luck.randrange(6), written))


@pytest.mark.parametrize("buckets", [1, 4])
@pytest.mark.parametrize("within_s", [20, 600])
@pytest.mark.parametrize("seed", range(12))
def test_lost_replies_rollbacks_crashes_and_rivals_change_no_value(
    seed: int, within_s: int, buckets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "VALUE_ROWS", 6)
    assert storm(seed, within_us=within_s * SECOND_US, buckets=buckets)


def test_a_storm_would_show_that_ids_outlive_their_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids.KeptIds, "drop", lambda self, partition: None)

    def seen(seed: int) -> bool:
        try:
            return not storm(seed, within_us=HORIZON_US, buckets=1)
        except (StateError, ValueError, AssertionError):      # loud: it never comes to its end, or finds what it does not know
            return True

    assert any(map(seen, range(12)))


class OwnAtom(MemoryOnlineStore):
    """Ids stand in an atom of their own, as if in another bucket: when the store loses its last second, they do not."""

    held: dict[bytes, Any] = {}  # noqa: RUF012  # of all copies together, which is the point

    def commit(self, commit: Any) -> Any:
        answer = super().commit(commit)
        OwnAtom.held = {key: value for key, value in self._values.items() if key.startswith(b"ids:")}
        return answer

    def __deepcopy__(self, memo: Any) -> OwnAtom:
        copied = OwnAtom(self._clock)
        copied._values, copied._seen = dict(self._values), copy.deepcopy(self._seen)
        return copied

    def claim(self, *arguments: Any) -> Any:
        self._values = {key: value for key, value in self._values.items() if not key.startswith(b"ids:")} | OwnAtom.held
        return super().claim(*arguments)


def crash_between() -> bool:
    """The store is put back to before a commit whose ids stay. Whether every value is then what the log says."""
    OwnAtom.held = {}
    rig, written = rig_of(86_400 * SECOND_US, online=OwnAtom(ManualClock(START_US))), list[Record]()
    produce(rig, 100, written)
    rig.drain(rig.started())
    earlier = copy.deepcopy(rig.online)
    produce(rig, 100, written)
    rig.drain(rig.started())
    rig.online = earlier
    rig.drain(rig.started())
    return rig.agrees()


def test_an_id_counts_only_for_events_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert crash_between()
    monkeypatch.setattr(ids, "counts", lambda at, offset: True)
    assert not crash_between()                                # events are taken for copies of themselves


@pytest.mark.parametrize("buckets", [1, 30])
def test_more_ids_than_are_kept_stop_the_worker(buckets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all buckets count together."""
    monkeypatch.setattr(limits, "IDS", 50)
    rig = rig_of(buckets=buckets)
    produce(rig, 300, [])
    with pytest.raises(StateError, match="shorten within="):
        rig.drain(rig.started())


def test_values_that_are_no_ids_stop_the_worker() -> None:
    rig = rig_of(partitions=1)
    produce(rig, 50, [])
    rig.drain(rig.started())
    store = rig.online
    assert isinstance(store, MemoryOnlineStore)
    key = next(key for key in store._values if key.startswith(b"ids:"))
    store.damage(key, b"FFi9" + bytes(20))
    produce(rig, 5, [])
    with pytest.raises(StateError, match="featureflow rebuild"):
        rig.drain(rig.started())


def test_the_names_of_ids_run_into_no_others() -> None:
    keys = Keys("default")
    made = {keys.ids(view, "trip", p, tile, n) for view in ("a@1", "b@1") for p in (0, 1, 11) for tile in (-1, 1, 11) for n in (0, 1)}
    assert len(made) == 2 * 3 * 3 * 2
    assert KEYS.ids("a@1", "trip", 0, 5, 0) == b"ids:{default:0}:a@1:trip:0:5:0"
