"""What every event log promises: in memory, as Redis Streams, and as real Kafka. One suite, three servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from featureflow.errors import LogError, OffsetOutOfRangeError
from featureflow.store.log.protocol import TRACE_PARENT, Assignment, Batch, Consumer, Log, Partition, Polled, Record

TOPIC_PARTITIONS = 3
PATIENCE_S = 90.0                          # an upper bound, never waited for where things work


@pytest.fixture
def topic(log: Log, topic_name: Callable[[str], str]) -> str:
    name = topic_name("contract")
    assert log.ensure_topic(name, TOPIC_PARTITIONS)
    return name


@pytest.fixture
def join(log: Log, topic: str) -> Iterator[Callable[..., Consumer]]:
    """Joins a group of this topic's own; every consumer is closed at the end."""
    joined: list[Consumer] = []

    def start(group: str = "group") -> Consumer:
        joined.append(log.consumer(f"{group}-{topic}", {"orders": topic}))
        return joined[-1]

    yield start
    for consumer in joined:
        consumer.close()


def poll(consumer: Consumer, timeout_s: float = 0.2, max_records: int = 1000, max_bytes: int = 1 << 20) -> Polled:
    return consumer.poll(timeout_s=timeout_s, max_records=max_records, max_bytes=max_bytes)


def poll_until(consumer: Consumer, enough: Callable[[list[Polled]], bool], **bounds: int) -> list[Polled]:
    until = time.monotonic() + PATIENCE_S
    polled: list[Polled] = []
    while not enough(polled):
        assert time.monotonic() < until, f"not in time: {polled[-3:]}"
        polled.append(poll(consumer, **bounds))
    return polled


def count(polled: list[Polled]) -> int:
    return sum(len(batch) for p in polled for batch in p.batches)


def assigned(consumer: Consumer, wanted: int = TOPIC_PARTITIONS) -> list[Partition]:
    polled = poll_until(consumer, lambda seen: sum(len(p.assignment.assigned) for p in seen) >= wanted)
    return [partition for p in polled for partition in p.assignment.assigned]


def start_all(consumer: Consumer, offset: int = 0) -> None:
    for partition in assigned(consumer):
        consumer.seek(partition, offset)


def read(consumer: Consumer, wanted: int, **bounds: int) -> list[Batch]:
    polled = poll_until(consumer, lambda seen: count(seen) >= wanted, **bounds)
    return [batch for p in polled for batch in p.batches]


def offsets(batches: list[Batch], partition: int) -> list[int]:
    return [int(o) for b in batches if b.partition == partition for o in b.offsets]


def numbered(many: int, partition: int = 0) -> list[Record]:
    return [Record(b"value %d" % n, b"key %d" % n, partition) for n in range(many)]


def test_a_topic_is_created_once(log: Log, topic: str) -> None:
    assert not log.ensure_topic(topic, 7)
    assert log.topic(topic).partitions == TOPIC_PARTITIONS


def test_an_absent_topic_is_named_in_the_error(log: Log, topic_name: Callable[[str], str]) -> None:
    absent = topic_name("absent")
    for call in (
        lambda: log.topic(absent),
        lambda: log.append(absent, [Record(b"x")]),
        lambda: log.consumer("g", {"orders": absent}),
    ):
        with pytest.raises(LogError, match=absent):
            call()


def test_append_tells_where_each_record_went(log: Log, topic: str) -> None:
    assert log.append(topic, numbered(3, partition=1)) == [(1, 0), (1, 1), (1, 2)]
    assert log.append(topic, [Record(b"x", partition=0), Record(b"y", partition=1)]) == [(0, 0), (1, 3)]
    state = log.topic(topic)
    assert state.beginning == {0: 0, 1: 0, 2: 0}
    assert state.end == {0: 1, 1: 4, 2: 0}


def test_records_of_one_key_share_a_partition_and_records_without_one_take_turns(log: Log, topic: str) -> None:
    places = log.append(topic, [Record(b"x", b"key %d" % (n % 5)) for n in range(50)])
    assert all(len({p for p, _ in places[n::5]}) == 1 for n in range(5))
    turns = [p for p, _ in log.append(topic, [Record(b"x") for _ in range(6)])]
    assert sorted(turns) == [0, 0, 1, 1, 2, 2]


def test_the_only_member_is_assigned_every_partition(join: Callable[..., Consumer]) -> None:
    assert assigned(join()) == [Partition("orders", n) for n in range(TOPIC_PARTITIONS)]


def test_nothing_is_read_from_a_partition_before_its_first_seek(
    log: Log, topic: str, join: Callable[..., Consumer]
) -> None:
    log.append(topic, [r for p in range(TOPIC_PARTITIONS) for r in numbered(5, p)])
    consumer = join()
    assigned(consumer)
    consumer.seek(Partition("orders", 1), 2)
    batches = read(consumer, 3)
    assert not poll(consumer).batches
    assert offsets(batches, 1) == [2, 3, 4]
    assert {b.partition for b in batches} == {1}


def test_what_was_appended_is_read_whole_and_in_order(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    sent = [
        Record(b"", b"key", 0),
        Record(b"\x00\xff:{}\r\n", b"", 0),
        Record(b"no key", None, 0),
        Record(b"traced", b"key", 0, ((TRACE_PARENT, b"00-abc-def-01"), ("other", b"1"))),
    ]
    log.append(topic, sent)
    consumer = join()
    start_all(consumer)
    batches = read(consumer, len(sent))
    assert [value for b in batches for value in b.values] == [r.value for r in sent]
    assert [key for b in batches for key in b.keys] == [r.key for r in sent]
    assert {o: t for b in batches for o, t in b.trace_parents.items()} == {3: "00-abc-def-01"}
    assert {b.source for b in batches} == {"orders"}


def test_timestamps_are_set_by_the_log(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    before = time.time_ns() // 1000 - 1000
    log.append(topic, numbered(2))
    consumer = join()
    start_all(consumer)
    [batch] = read(consumer, 2)
    assert batch.timestamp_kind == "append"
    assert all(before <= t <= time.time_ns() // 1000 for t in batch.timestamps_us)


def test_batches_join_without_a_gap_whatever_the_bounds(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    log.append(topic, [r for p in range(TOPIC_PARTITIONS) for r in numbered(40, p)])
    consumer = join()
    start_all(consumer)
    for bounds in ({"max_records": 7}, {"max_bytes": 100}, {"max_bytes": 1}, {}):
        for partition in range(TOPIC_PARTITIONS):
            consumer.seek(Partition("orders", partition), 0)
        batches = read(consumer, 120, **bounds)
        for partition in range(TOPIC_PARTITIONS):
            position = 0
            for batch in (b for b in batches if b.partition == partition):
                assert (batch.first, batch.next) == (position, int(batch.offsets[-1]) + 1)
                position = batch.next
            assert offsets(batches, partition) == list(range(40))


def test_a_poll_stays_inside_its_bounds(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    log.append(topic, [Record(b"x" * 100, partition=n % 3) for n in range(60)])
    consumer = join()
    start_all(consumer)
    few = poll_until(consumer, lambda seen: count(seen) >= 30, max_records=10)
    assert all(count([p]) <= 10 for p in few)
    small = poll_until(consumer, lambda seen: count(seen) >= 60 - count(few), max_bytes=450)
    assert all(sum(len(v or b"") for b in p.batches for v in b.values) <= 450 for p in small)


def test_one_record_above_the_byte_bound_still_comes(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    log.append(topic, [Record(b"x" * 1000, partition=0)] * 2)
    consumer = join()
    start_all(consumer)
    assert [len(b) for b in read(consumer, 2, max_bytes=10)] == [1, 1]


def test_a_paused_partition_keeps_its_place(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    log.append(topic, [r for p in range(TOPIC_PARTITIONS) for r in numbered(10, p)])
    consumer = join()
    start_all(consumer)
    paused = Partition("orders", 2)
    consumer.pause(paused)
    batches = read(consumer, 20)
    assert not poll(consumer).batches
    assert offsets(batches, 2) == []
    consumer.resume(paused)
    assert offsets(read(consumer, 10), 2) == list(range(10))


def test_seeking_back_reads_the_same_again(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    log.append(topic, numbered(10))
    consumer = join()
    start_all(consumer)
    first = read(consumer, 10, max_records=4)
    consumer.seek(Partition("orders", 0), 0)
    again = read(consumer, 10, max_records=4)
    assert [v for b in again for v in b.values] == [v for b in first for v in b.values]
    assert [t for b in again for t in b.timestamps_us] == [t for b in first for t in b.timestamps_us]


def test_an_offset_beyond_the_end_is_refused_and_never_reset(
    log: Log, topic: str, join: Callable[..., Consumer]
) -> None:
    log.append(topic, numbered(3))
    consumer = join()
    start_all(consumer)
    read(consumer, 3)
    consumer.seek(Partition("orders", 0), 4)
    with pytest.raises(OffsetOutOfRangeError, match=topic):
        poll_until(consumer, lambda seen: False)


def test_the_end_itself_is_a_place_to_wait_at(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    log.append(topic, numbered(3))
    consumer = join()
    start_all(consumer)
    consumer.seek(Partition("orders", 0), 3)
    assert not poll(consumer).batches
    log.append(topic, numbered(1))
    assert offsets(read(consumer, 1), 0) == [3]


def test_the_advisory_offset_is_not_where_reading_starts(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    log.append(topic, numbered(5))
    first = join()
    start_all(first)
    read(first, 5)
    first.commit_advisory({Partition("orders", 0): 5})
    first.close()
    second = join()
    assigned(second)
    assert not poll(second).batches
    second.seek(Partition("orders", 0), 1)
    assert offsets(read(second, 4), 0) == [1, 2, 3, 4]


def test_a_closed_member_hands_over(join: Callable[..., Consumer]) -> None:
    first = join()
    assigned(first)
    first.close()
    assert len(assigned(join())) == TOPIC_PARTITIONS


def test_a_member_that_was_there_before_has_everything_again_when_the_newer_one_leaves(
    join: Callable[..., Consumer],
) -> None:
    first = join()
    assigned(first)
    second = join()
    mine: set[Partition] = {Partition("orders", n) for n in range(TOPIC_PARTITIONS)}
    taken: set[Partition] = set()

    def go_on(consumer: Consumer, owned: set[Partition]) -> None:
        told = poll(consumer).assignment
        owned.difference_update(told.revoked, told.lost)
        owned.update(told.assigned)

    until = time.monotonic() + PATIENCE_S
    while not taken or len(mine) == TOPIC_PARTITIONS:
        go_on(first, mine)
        go_on(second, taken)
        assert time.monotonic() < until, "the second member has nothing"
    second.close()
    while len(mine) < TOPIC_PARTITIONS:
        go_on(first, mine)
        assert time.monotonic() < until, f"the first member has only {mine}"


def test_groups_read_independently(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    log.append(topic, numbered(5))
    for group in ("ingest", "history"):
        consumer = join(group)
        start_all(consumer)
        assert offsets(read(consumer, 5), 0) == list(range(5))


def test_one_consumer_reads_several_sources(log: Log, topic: str, topic_name: Callable[[str], str]) -> None:
    other = topic_name("other")
    log.ensure_topic(other, 1)
    log.append(topic, numbered(2))
    log.append(other, numbered(2))
    consumer = log.consumer(f"group-{topic}", {"orders": topic, "clicks": other})
    try:
        for partition in assigned(consumer, TOPIC_PARTITIONS + 1):
            consumer.seek(partition, 0)
        assert {b.source for b in read(consumer, 4)} == {"orders", "clicks"}
    finally:
        consumer.close()


def test_a_seek_in_a_partition_that_is_not_owned_does_nothing(join: Callable[..., Consumer]) -> None:
    consumer = join()
    consumer.seek(Partition("orders", 0), 0)
    assert len(assigned(consumer)) == TOPIC_PARTITIONS


def test_the_server_says_what_it_is(log: Log) -> None:
    assert log.ping()


def test_a_reader_outside_of_any_group_has_all_partitions_whoever_else_reads(
    log: Log, topic: str, join: Callable[..., Consumer]
) -> None:
    log.append(topic, [r for p in range(TOPIC_PARTITIONS) for r in numbered(20, p)])
    member = join()
    start_all(member)
    readers = [log.reader({"orders": topic}) for _ in range(2)]
    try:
        for reader in readers:
            assert sorted(assigned(reader), key=lambda p: p.partition) == [Partition("orders", n) for n in range(TOPIC_PARTITIONS)]
            reader.seek(Partition("orders", 1), 5)
        for reader in readers:
            batches = read(reader, 15, max_records=4)
            assert offsets(batches, 1) == list(range(5, 20))
            reader.pause(Partition("orders", 1))
            reader.seek(Partition("orders", 2), 18)
            assert offsets(read(reader, 2), 2) == [18, 19]
            reader.seek(Partition("orders", 1), 3)
            reader.resume(Partition("orders", 1))
            assert offsets(read(reader, 17), 1) == list(range(3, 20))
            reader.commit_advisory({Partition("orders", 1): 20})
        assert count([Polled(Assignment(), tuple(read(member, 20 * TOPIC_PARTITIONS)))]) == 20 * TOPIC_PARTITIONS
    finally:
        for reader in readers:
            reader.close()


def test_a_batch_can_be_cut_at_an_offset_as_if_reading_had_stopped_there(log: Log, topic: str, join: Callable[..., Consumer]) -> None:
    log.append(topic, numbered(6))
    consumer = join()
    start_all(consumer)
    batch = read(consumer, 6)[0]
    cut = batch.until(4)
    assert (cut.first, cut.next, cut.offsets.tolist(), len(cut.keys), len(cut.timestamps_us)) == (0, 4, [0, 1, 2, 3], 4, 4)
    assert list(cut.values) == list(batch.values)[:4]
    assert batch.until(6) is batch
    assert len(batch.until(0)) == 0
