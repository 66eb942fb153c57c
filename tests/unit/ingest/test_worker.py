"""The worker against a log and a store in memory: every value is what the log says, and what is not folded is put aside."""

from __future__ import annotations

import threading

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from worker_rig import ALL_VIEWS, PROJECT, RIDER, RIDERS, SECOND_US, START_US, TRIP, ZONE, Rig, replace_views

from featureflow.clock import ManualClock
from featureflow.errors import UnavailableError
from featureflow.ingest import failpoint, state_writes
from featureflow.ingest.order import Index, in_order
from featureflow.store.log.protocol import TRACE_PARENT, Partition, Record
from featureflow.store.online.memory import MemoryOnlineStore


def test_state_is_what_the_log_says_to_the_bit() -> None:
    rig = Rig()
    worker = rig.started()
    for _ in range(5):
        rig.produce(40, bad=0.1)
        rig.drain(worker)
        assert rig.agrees()
    assert worker.status().ready
    assert worker.status().late > 0


def test_no_commit_changes_more_rows_than_its_bound_and_all_events_are_folded() -> None:
    rig, registry = Rig(), CollectorRegistry()
    worker = rig.started(commit_rows=5, registry=registry)
    rig.produce(200)
    rig.drain(worker)
    commits = {s.labels["le"]: s.value for m in registry.collect() for s in m.samples if s.name.endswith("commit_rows_bucket")}
    assert commits["10.0"] == commits["+Inf"] > 20
    assert rig.agrees()


def test_one_row_a_commit_is_slow_but_right() -> None:
    rig = Rig()
    worker = rig.started(commit_rows=1)
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
    worker = rig.started(commit_rows=1)
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
        worker = rig.started()
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
        rig.drain(rig.started(failpoint=dies))
    again = rig.started()
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
    worker = rig.started()
    rig.drain(worker)
    before = rig.online.offsets("trip", 0, ALL_VIEWS)
    for _ in range(4):
        rig.clock.advance(500_000)
        worker.step(timeout_s=0.0)
    after = rig.online.offsets("trip", 0, ALL_VIEWS)
    for view_id in ALL_VIEWS:
        assert after[view_id].committed_ms >= before[view_id].committed_ms + 1_000  # type: ignore[union-attr]  # they are there
        assert rig.online.visible(view_id, "trip", 0) == []


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
    worker = rig.started(tracer=spans)
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    plain, traced = rig.trip(at=rig.clock.now_us()), rig.trip(at=rig.clock.now_us())
    rig.append([plain, msgspec.structs.replace(traced, headers=((TRACE_PARENT, parent.encode()),)), plain])
    rig.drain(worker)
    ((name, joined, place),) = spans.seen
    assert (name, joined) == ("ingest", parent)
    assert place["source"] == "trip"
    assert spans.took_ns[0] >= 0


# -- records that are not folded ---------------------------------------------------------------------------------------


def test_a_bad_record_is_put_aside_with_its_reason_and_position_and_the_partition_goes_on() -> None:
    rig = Rig(1)
    worker = rig.started()
    rig.append([rig.trip(), Record(b"{", key=b"ada", partition=0), Record(b"[1]", partition=0), rig.trip()])
    rig.drain(worker)
    letters = rig.letters()
    assert {(letter["position"], letter["reason"]) for letter in letters} >= {("trip/0/1", "undecodable"), ("trip/0/2", "undecodable")}
    assert worker.status().dead_letters == len(letters)
    assert rig.agrees()


def test_an_event_from_the_future_moves_nothing_and_is_put_aside() -> None:
    rig = Rig(1)
    worker = rig.started()
    rig.append([rig.trip(at=rig.clock.now_us()), rig.trip(at=rig.clock.now_us() + 3_600 * SECOND_US)])
    rig.drain(worker)
    assert [(letter["position"], letter["reason"]) for letter in rig.letters()] == [("trip/0/1", "future")]
    assert rig.at().max_time_us <= rig.clock.now_us()
    assert rig.agrees()


def test_an_event_too_old_for_one_view_is_late_for_that_view_alone() -> None:
    rig = Rig(1)
    worker = rig.started()
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
    worker = rig.started()
    now = rig.clock.now_us()
    rig.append([rig.trip(at=now), rig.trip(at=now - 2 * 86_400 * SECOND_US, zone=None)])
    rig.drain(worker)
    assert [(letter["position"], letter["reason"]) for letter in rig.letters()] == [(f"trip/0/1/{RIDER.id}", "late")]


@pytest.mark.parametrize(("one_server", "events", "commits"), [(True, 9, 1), (True, 25, 3), (True, 200, 5), (False, 9, 5)])
def test_a_batch_has_a_commit_for_as_many_buckets_as_it_has_rows_for(one_server: bool, events: int, commits: int) -> None:
    rig = Rig(1, online=MemoryOnlineStore(ManualClock(START_US), one_server=one_server), buckets=5, project=replace_views(PROJECT, RIDER))
    registry = CollectorRegistry()
    worker = rig.started(commit_rows=20, registry=registry)
    now = rig.clock.now_us()
    rig.append([rig.trip(at=now, rider=f"rider-{i % 10}") for i in range(events)])
    rig.drain(worker)
    assert registry.get_sample_value("featureflow_ingest_commits_total", {"outcome": "committed"}) == commits
    assert rig.agrees()


def test_a_dead_letter_is_durable_before_anything_is_committed_past_it() -> None:
    rig = Rig(1)
    worker = rig.started()
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
    assert rig.at().offset == 0
    assert "log.url" in worker.status().problems[0]
    assert not worker.status().ready
    broken[0] = False
    rig.drain(worker)
    assert worker.status().ready
    assert [letter["position"] for letter in rig.letters()] == ["trip/0/1"]
    assert rig.agrees()


def test_an_event_in_another_partition_than_its_entity_is_put_aside_and_the_partition_goes_on() -> None:
    rig, registry = Rig(2), CollectorRegistry()
    worker = rig.started(registry=registry)
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
    worker = rig.started()
    rig.drain(worker)
    rig.append([msgspec.structs.replace(rig.trip(rider="ada", at=rig.clock.now_us()), partition=partition) for partition in (0, 1, 0, 1)])
    rig.drain(worker)
    positions = [str(letter["position"]) for letter in rig.letters()]
    assert len({position.split("/")[1] for position in positions}) == 1
    assert len(set(positions)) == 2
    assert rig.actual(RIDER, rig.clock.now_us()).values[RIDERS.index("ada")][0] == 2
