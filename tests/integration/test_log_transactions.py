"""What every log promises of a transaction: in memory, as Redis Streams, and as real Kafka. One suite, three servers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from processes import until

from featureflow.errors import FencedError, LogError
from featureflow.store.log.kafka import KafkaLog
from featureflow.store.log.protocol import Consumer, Log, Partition, Polled, Record, Transaction, Transactions

PARTITIONS = 2
FIRST, SECOND = Partition("read", 0), Partition("read", 1)


@pytest.fixture(params=["memory", "streams", "kafka"])
def log(request: pytest.FixtureRequest) -> Log:
    made: Log = request.getfixturevalue(f"{request.param}_log")
    return made


@dataclass
class Members:
    """Of one group that reads ``read`` and writes ``made`` and ``kept``; ended with the test."""

    log: Log
    read: str
    made: str
    kept: str
    group: str
    ends: list[Callable[[], None]] = field(default_factory=list)

    def join(self) -> Consumer:
        consumer = self.log.consumer(self.group, {"read": self.read})
        self.ends.append(consumer.close)
        return consumer

    def transactions(self, consumer: Consumer, name: str = "") -> Transactions:
        made = self.log.transactions(consumer, name or uuid.uuid4().hex)
        self.ends.append(made.close)
        return made

    def holding(self) -> tuple[Consumer, Transactions]:
        """A member that has all partitions."""
        consumer = self.join()
        held: set[Partition] = set()

        def has_all() -> bool:
            polled = poll(consumer)
            held.update(polled.assignment.assigned)
            held.difference_update((*polled.assignment.revoked, *polled.assignment.lost))
            return held == {FIRST, SECOND}

        until(has_all, "all partitions")
        return consumer, self.transactions(consumer)

    def values(self, topic: str, wanted: int) -> list[bytes]:
        """What readers see of the topic, at least so many and whatever stands beside them."""
        reader, found = self.log.reader({topic: topic}), list[bytes]()
        try:
            until(lambda: any(poll(reader).assignment.assigned for _ in range(3)), "its partitions")
            for partition in range(self.log.topic(topic).partitions):
                reader.seek(Partition(topic, partition), 0)

            def has_all() -> bool:
                found.extend(value for batch in poll(reader).batches for value in batch.values if value is not None)
                return len(found) >= wanted

            until(has_all, f"{wanted} records of {topic}")
            has_all()
            return found
        finally:
            reader.close()


def poll(consumer: Consumer) -> Polled:
    return consumer.poll(timeout_s=0.2, max_records=1000, max_bytes=1 << 20)


@pytest.fixture
def members(log: Log, topic_name: Callable[[str], str]) -> Iterator[Members]:
    made = Members(log, *(topic_name(stem) for stem in ("read", "made", "kept", "group")))
    for topic in (made.read, made.made):
        log.ensure_topic(topic, PARTITIONS)
    log.ensure_topic(made.kept, PARTITIONS, compacted=True)
    yield made
    for end in reversed(made.ends):
        end()


def test_records_of_several_topics_and_offsets_are_committed_together(members: Members) -> None:
    _, transactions = members.holding()
    assert transactions.committed([FIRST, SECOND]) == {}
    made = [Record(b"a", b"key"), Record(b"b", b"key", headers=(("h", b"1"),)), Record(b"c", None, 1)]
    transactions.commit(Transaction({members.made: made, members.kept: [Record(b"state", b"key", 0)]}, {FIRST: (None, 3)}))
    assert transactions.committed([FIRST, SECOND]) == {FIRST: 3}
    transactions.commit(Transaction({members.made: [Record(b"d", b"key")]}, {FIRST: (3, 5), SECOND: (None, 1)}))
    assert transactions.committed([FIRST, SECOND]) == {FIRST: 5, SECOND: 1}
    found = members.values(members.made, 4)
    assert sorted(found) == [b"a", b"b", b"c", b"d"]
    assert [value for value in found if value != b"c"] == [b"a", b"b", b"d"]
    assert members.values(members.kept, 1) == [b"state"]


def test_offsets_alone_and_an_empty_topic_are_a_transaction_too(members: Members) -> None:
    _, transactions = members.holding()
    transactions.commit(Transaction({members.made: []}, {SECOND: (None, 7)}))
    assert transactions.committed([FIRST, SECOND]) == {SECOND: 7}


def test_of_a_transaction_that_cannot_be_committed_nothing_is_there(members: Members) -> None:
    _, transactions = members.holding()
    transactions.commit(Transaction({members.made: [Record(b"one", b"key")]}, {FIRST: (None, 1)}))
    with pytest.raises(LogError):
        transactions.commit(Transaction({members.made: [Record(b"x", b"key")], "absent-topic": [Record(b"y")]}, {FIRST: (1, 2)}))
    assert transactions.committed([FIRST]) == {FIRST: 1}
    transactions.commit(Transaction({members.made: [Record(b"two", b"key")]}, {FIRST: (1, 2)}))
    assert members.values(members.made, 2) == [b"one", b"two"]


def test_a_member_that_lost_its_partitions_is_fenced_also_before_it_hears_of_it(members: Members) -> None:
    old, transactions = members.holding()
    transactions.commit(Transaction({members.made: [Record(b"old", b"key")]}, {FIRST: (None, 1)}))
    new = members.join()
    taken: set[Partition] = set()

    def has_some() -> bool:
        taken.update(poll(new).assignment.assigned)
        if isinstance(members.log, KafkaLog):
            poll(old)                      # else Kafka waits for it until its session runs out
        return bool(taken)

    until(has_some, "the new member's share")
    place = min(taken, key=lambda partition: partition.partition)
    at = 1 if place == FIRST else None
    with pytest.raises(FencedError):
        transactions.commit(Transaction({members.made: [Record(b"zombie", b"key")]}, {place: (at, 9)}))
    fresh = members.transactions(new)
    assert fresh.committed([place]) == ({place: at} if at else {})
    fresh.commit(Transaction({members.made: [Record(b"new", b"key")]}, {place: (at, 2)}))
    assert members.values(members.made, 2) == [b"old", b"new"]


def test_a_group_that_stands_elsewhere_is_left_as_it_is(members: Members) -> None:
    """So that a commit whose reply was lost can be sent again. Kafka itself does not compare: there the process's own name fences."""
    if isinstance(members.log, KafkaLog):
        return
    _, transactions = members.holding()
    transactions.commit(Transaction({members.made: [Record(b"once", b"key")]}, {FIRST: (None, 1)}))
    for moved in ((None, 1), (0, 1), (2, 3)):
        with pytest.raises(FencedError):
            transactions.commit(Transaction({members.made: [Record(b"again", b"key")]}, {FIRST: moved, SECOND: (None, 5)}))
    assert transactions.committed([FIRST, SECOND]) == {FIRST: 1}
    assert members.values(members.made, 1) == [b"once"]


def test_what_kafka_was_told_by_one_that_died_is_undone_when_one_of_its_name_begins(
    kafka_log: KafkaLog, topic_name: Callable[[str], str]
) -> None:
    members = Members(kafka_log, *(topic_name(stem) for stem in ("read", "made", "kept", "group")))
    for topic in (members.read, members.made):
        kafka_log.ensure_topic(topic, PARTITIONS)
    consumer, _ = members.holding()
    dead = kafka_log.transactions(consumer, members.group)
    assert dead.committed([FIRST]) == {}
    producer = dead._begun()
    producer.begin_transaction()
    producer.send(members.made, value=b"dead", partition=0)
    producer.flush()
    heir = members.transactions(consumer, members.group)
    assert heir.committed([FIRST]) == {}
    heir.commit(Transaction({members.made: [Record(b"alive", None, 0)]}, {FIRST: (None, 1)}))
    assert members.values(members.made, 1) == [b"alive"]
    members.transactions(consumer, members.group).committed([FIRST])
    with pytest.raises(FencedError):       # another of its name has begun
        heir.commit(Transaction({members.made: [Record(b"zombie", None, 0)]}, {FIRST: (1, 2)}))
    assert members.values(members.made, 1) == [b"alive"]
    members.ends.append(lambda: producer.close(timeout=0))
    for end in reversed(members.ends):
        end()
