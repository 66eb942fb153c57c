"""Rows of many kilobytes: what is polled, read and committed at once is bounded by bytes, not by their number alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry
from worker_rig import PROJECT, SECOND_US, WINDOWS, Rig, with_sketches, with_vector

from featureflow import limits
from featureflow.clock import ManualClock
from featureflow.define.spec import Project
from featureflow.ingest.source_views import SourceViews
from featureflow.store.log.protocol import Record
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Commit, Committed, Refused

PATCHED_BYTES = limits.COMMIT_ROWS * limits.ROW_BYTES
MOST_BYTES = PATCHED_BYTES + limits.ROLL_UP_ROWS * limits.ROW_BYTES
BEYOND = 1 << 60
KEY_BYTES = 100                            # of a state's header, and what else is small


class SizedStore(MemoryOnlineStore):
    """Notes the keys and bytes of each commit that changes any, and the keys of each read."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.commits: list[tuple[int, int]] = []
        self.reads: list[int] = []

    def commit(self, commit: Commit) -> Committed | Refused:
        if len(commit.writes):
            self.commits.append((len(commit.writes), len(commit.writes.data)))
        return super().commit(commit)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads.append(len(keys))
        return super().read(keys)

    @property
    def largest(self) -> int:
        """Bytes of the largest commit, but for what is small."""
        return max(data - KEY_BYTES * keys for keys, data in self.commits)


def rig_of(project: Project) -> tuple[Rig, SizedStore]:
    clock = ManualClock(1_700_000_000 * SECOND_US)
    store = SizedStore(clock)
    return Rig(1, project=project, online=store, clock=clock), store


def ride(rig: Rig, riders: int, vector: Sequence[float] | None = None) -> None:
    """A trip of each of so many riders, now."""
    now_us = rig.clock.now_us()
    rig.log.append("trips", [
        Record(json.dumps({"at": now_us, "rider": f"r{n}", "zone": 7, "fare": 1.0, "drift": vector}).encode(), key=b"r%d" % n, partition=0)
        for n in range(riders)
    ])  # fmt: skip


@pytest.mark.parametrize("bounded", [True, False])
def test_a_commit_of_wide_rows_is_bounded_by_their_bytes(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, as all others here, without the bound, to see that the first could have failed."""
    if not bounded:
        monkeypatch.setattr(limits, "ROW_BYTES", BEYOND)
    rig, store = rig_of(with_vector(limits.VECTOR_SIZE))
    with closing(rig.started(commit_rows=limits.COMMIT_ROWS)) as worker:
        ride(rig, 1_500)
        rig.drain(worker)
    assert sum(keys for keys, _ in store.commits) >= 1_500
    assert (store.largest <= PATCHED_BYTES) is bounded, store.commits
    assert max(keys for keys, _ in store.commits) > 100, "it is as long as it may be"


@pytest.mark.parametrize("bounded", [True, False])
def test_what_is_written_whole_is_bounded_by_its_bytes(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Riders with a row for each of many tiles, who are all rolled up by the same batch."""
    if not bounded:
        monkeypatch.setattr(limits, "ROW_BYTES", BEYOND)
    rig, store = rig_of(with_vector(512, WINDOWS[1]))
    with closing(rig.started(commit_rows=limits.COMMIT_ROWS)) as worker:
        for _ in range(40):
            ride(rig, 100)
            worker.step(timeout_s=0.0, wait=lambda seconds: None)
            rig.clock.advance(300 * SECOND_US)
        rig.drain(worker)
    assert (store.largest <= MOST_BYTES) is bounded, f"{store.largest} bytes"


@pytest.mark.parametrize("bounded", [True, False])
def test_what_is_published_counts_in_a_commit(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not bounded:
        monkeypatch.setattr(limits, "ROW_BYTES", BEYOND)
    rig, store = rig_of(with_vector(limits.VECTOR_SIZE, publish=True))
    with closing(rig.started(commit_rows=limits.COMMIT_ROWS)) as worker:
        ride(rig, 100, [-1.234567890123456e-300] * limits.VECTOR_SIZE)
        rig.drain(worker)
    assert (store.largest <= PATCHED_BYTES) is bounded, store.commits


def test_an_entity_that_is_larger_than_a_commit_goes_alone() -> None:
    rig, store = rig_of(with_vector(limits.VECTOR_SIZE))
    with closing(rig.started(commit_rows=8)) as worker:
        ride(rig, 5)
        rig.drain(worker)
    rows = [keys for keys, data in store.commits if data > 8 * limits.ROW_BYTES]
    assert len(rows) == 5
    assert max(rows) <= 2                  # the zone's row with it


@pytest.mark.parametrize("bounded", [True, False])
def test_a_read_of_wide_rows_is_bounded_by_their_bytes(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not bounded:
        monkeypatch.setattr(limits, "ROW_BYTES", BEYOND)
    rig, store = rig_of(with_vector(limits.VECTOR_SIZE))
    with closing(rig.started()) as worker:
        ride(rig, 1_000)
        rig.drain(worker)
    assert (max(store.reads) * 8 * limits.VECTOR_SIZE <= PATCHED_BYTES) is bounded, store.reads


@pytest.mark.parametrize("bounded", [True, False])
def test_the_past_is_read_by_as_few_records_as_the_present(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_BYTES", 0 if bounded else BEYOND)
    registry = CollectorRegistry()
    rig, _ = rig_of(with_vector(limits.VECTOR_SIZE))
    with closing(rig.started()) as worker:
        ride(rig, 250)
        rig.drain(worker)
    rig.rebuild(rig.project.views[0])
    with closing(rig.started(registry=registry)) as worker:
        rig.drain(worker)
    batches = {s.labels["le"]: s.value for m in registry.collect() for s in m.samples if s.name.endswith("batch_events_bucket")}
    assert batches["+Inf"] > 0
    assert (batches["100.0"] == batches["+Inf"]) is bounded


def test_usual_rows_are_polled_as_many_at_once_as_ever() -> None:
    assert records(with_sketches(PROJECT)) >= limits.POLL_RECORDS
    wide = records(with_vector(limits.VECTOR_SIZE))
    assert limits.LEAST_RECORDS < wide < limits.BATCH_BYTES // (8 * limits.VECTOR_SIZE)


def records(project: Project) -> int:
    return SourceViews(project, project.sources[0], slab_bytes=200_000).batch_records
