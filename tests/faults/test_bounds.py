"""Each bound of ingest, flooded: memory and batches stay within it, and the partition goes on."""

from __future__ import annotations

import json
import os
import resource
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from worker_rig import SECOND_US, Rig, project_on, with_vector

from featureflow import limits
from featureflow.clock import ManualClock
from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.ingest import dead_letter
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.store.log.kafka import KafkaLog
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Consumer, Partition, Record
from featureflow.store.online.redis import RedisOnlineStore

MEBI = 1024 * 1024
PAGE_BYTES = resource.getpagesize()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


class CountedLog(MemoryLog):
    """Notes how much is appended at once."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.appended: list[int] = []

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        if topic == system.dead_letters(DEFAULT_PROJECT).topic:
            self.appended.append(len(records))
        return super().append(topic, records)


@pytest.mark.parametrize("at_once", [limits.DEAD_LETTERS, 10**9])
def test_a_topic_of_nothing_but_poison_is_put_aside_a_bounded_number_at_once(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time without the bound, to see that the first could have failed."""
    bound = limits.DEAD_LETTERS
    monkeypatch.setattr(limits, "DEAD_LETTERS", at_once)
    clock = ManualClock(1_700_000_000 * SECOND_US)
    log = CountedLog(clock)
    rig = Rig(1, clock=clock, log=log)
    flood = 4 * bound + 7
    rig.append([Record(b"{" + b"x" * limits.DEAD_LETTER_VALUE_BYTES, key=b"ada", partition=0) for _ in range(flood)])
    worker = rig.worker()
    worker.open()
    rig.drain(worker)
    worker.close()
    letters = rig.letters()
    assert sorted(int(str(letter["offset"])) for letter in letters) == list(range(flood))       # each is kept, once
    assert sum(log.appended) == flood
    assert (max(log.appended) <= bound) is (at_once == bound)


def test_a_letter_is_bounded_whatever_was_refused() -> None:
    clock = ManualClock(1_700_000_000 * SECOND_US)
    log = MemoryLog(clock)
    topic = system.dead_letters(DEFAULT_PROJECT).topic
    log.ensure_topic(topic, 1)
    huge = dead_letter.DeadLetter("trip", 0, 0, "undecodable", "why " * MEBI, b"\x00" * 8 * MEBI)
    dead_letter.append(log, DEFAULT_PROJECT, [huge], clock)
    reader = log.reader({"read": topic})
    [place] = reader.poll(timeout_s=1, max_records=1, max_bytes=MEBI).assignment.assigned
    reader.seek(place, 0)
    [batch] = reader.poll(timeout_s=1, max_records=1, max_bytes=MEBI).batches
    [value] = batch.values
    assert value is not None
    assert len(value) < 2 * (limits.DEAD_LETTER_VALUE_BYTES + dead_letter.DETAIL_BYTES)


@pytest.mark.parametrize("bounded", [True, False])
def test_more_entities_than_the_slab_holds_leave_its_memory_as_it_is(bounded: bool, embedded_redis_url: str) -> None:
    """The second time with room for all, to see that the first could have failed."""
    slab_bytes, each = 4 * MEBI if bounded else 512 * MEBI, 15_000
    with closing(RedisOnlineStore(embedded_redis_url)) as online:
        rig = Rig(1, project=project_on("trips"), online=online)
        worker = Worker(
            rig.log, rig.online, rig.project, rig.clock, WorkerMetrics(CollectorRegistry()), slab_bytes=slab_bytes, poll_records=1_500
        )
        worker.open()
        _strangers(rig, 0, 3 * each)       # all before: what the log in memory holds of them does not grow then
        seen = []
        for part in range(3):
            while sum(status.offset for status in worker.status().partitions) < (part + 1) * each:
                worker.step(timeout_s=0.0, wait=lambda seconds: None)
                rig.clock.advance(300_000)
            seen.append(resident_bytes())
        worker.close()
    grown = seen[2] - seen[0]              # the first part fills the slab; where it has room, it doubles in one of the others
    assert (grown < 6 * MEBI) is bounded, [round(bytes_ / MEBI) for bytes_ in seen]


def _strangers(rig: Rig, first: int, count: int) -> None:
    """A trip of each of so many riders that were not there before."""
    now_us = rig.clock.now_us()
    rig.log.append("trips", [
        Record(json.dumps({"at": now_us, "rider": f"rider-{n}", "zone": 7, "fare": 1.0}).encode(), key=f"rider-{n}".encode(), partition=0)
        for n in range(first, first + count)
    ])


def _peak_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("bounded", [True, False])
def test_a_batch_of_wide_rows_takes_memory_by_their_bytes(
    embedded_redis_url: str, monkeypatch: pytest.MonkeyPatch, *, bounded: bool
) -> None:
    """Riders that were not there before, each with a row of 8 KiB; an eighth of the bound, and the second time none."""
    monkeypatch.setattr(limits, "BATCH_BYTES", limits.BATCH_BYTES // 8 if bounded else 1 << 60)
    with closing(RedisOnlineStore(embedded_redis_url)) as online:
        rig = Rig(1, project=with_vector(limits.VECTOR_SIZE), online=online)
        worker = Worker(rig.log, rig.online, rig.project, rig.clock, WorkerMetrics(CollectorRegistry()), slab_bytes=4 * MEBI)
        worker.open()
        _strangers(rig, 0, 1_000)
        rig.drain(worker)
        before = resident_bytes()
        Path("/proc/self/clear_refs").write_text("5")          # the peak begins anew
        _strangers(rig, 1_000, 8_000)
        rig.drain(worker)
        grown = _peak_bytes() - before
        worker.close()
    assert (grown < 150 * MEBI) is bounded, f"{grown / MEBI:.0f} MiB"


@pytest.fixture
def kafka_topic(kafka_log: KafkaLog, topic_name: Callable[[str], str]) -> str:
    topic = topic_name("huge")
    kafka_log.ensure_topic(topic, 4)
    return topic


@pytest.mark.parametrize("bounded", [True, False])
def test_a_poll_of_huge_records_is_bounded_and_so_is_what_is_on_the_way(
    kafka_log: KafkaLog, kafka_topic: str, monkeypatch: pytest.MonkeyPatch, *, bounded: bool
) -> None:
    """80 MiB of records that do not compress, in four partitions, read one poll after the other.

    kafka-python holds a fetch up to four times while it takes it in; what was fetched before and the poll's records stand beside that.
    """
    size, number, places = 200 * 1024, 400, 4
    most = 8 * places * limits.FETCH_BYTES
    for start in range(0, number, 20):
        kafka_log.append(kafka_topic, [Record(os.urandom(size), partition=n % places) for n in range(start, start + 20)])
    if not bounded:
        monkeypatch.setattr(limits, "FETCH_BYTES", 64 * MEBI)
        monkeypatch.setattr(limits, "POLL_BYTES", 64 * MEBI)
    consumer = kafka_log.reader({"huge": kafka_topic})
    tracemalloc.start()
    try:
        _read_whole(consumer, size, number, max_bytes=2 * MEBI)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        consumer.close()
    assert (peak < most) is bounded, f"{peak / MEBI:.0f} MiB"


def _read_whole(consumer: Consumer, size: int, number: int, max_bytes: int) -> None:
    """Read so many records of this size, in order, no more than ``max_bytes`` of them with a poll."""
    polled = consumer.poll(timeout_s=30, max_records=1, max_bytes=1)
    at = dict.fromkeys(polled.assignment.assigned, 0)
    for place in at:
        consumer.seek(place, 0)
    while sum(at.values()) < number:
        polled = consumer.poll(timeout_s=5, max_records=limits.POLL_RECORDS, max_bytes=max_bytes)
        for batch in polled.batches:
            place = Partition("huge", batch.partition)
            assert batch.first == at[place]
            at[place] = batch.next
        assert sum(map(len, polled.batches)) * size <= max_bytes


def test_a_record_larger_than_any_bound_still_comes_alone(kafka_log: KafkaLog, kafka_topic: str) -> None:
    kafka_log.append(kafka_topic, [Record(b"x" * 300_000, partition=0), Record(b"y", partition=0)])
    consumer = kafka_log.reader({"huge": kafka_topic})
    for place in consumer.poll(timeout_s=30, max_records=1, max_bytes=1).assignment.assigned:
        consumer.seek(place, 0)
    sizes: list[int] = []
    while len(sizes) < 2:
        for batch in consumer.poll(timeout_s=5, max_records=10, max_bytes=1_000).batches:
            sizes += [len(value or b"") for value in batch.values]
    consumer.close()
    assert sizes == [300_000, 1]
