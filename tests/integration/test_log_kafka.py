"""What only a real broker shows: groups, evictions, transactions, retention."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove
from trips import PROJECT

from featureflow.cli.context import Context
from featureflow.cli.doctor import examine
from featureflow.errors import OffsetOutOfRangeError, UnavailableError
from featureflow.store.log.kafka import KafkaLog
from featureflow.store.log.kafka_consumer import KafkaConsumer
from featureflow.store.log.open import open_log
from featureflow.store.log.protocol import Assignment, Batch, Partition, Record
from servers import Services

PATIENCE_S = 90.0
LONGER_THAN_PATIENCE_MS = 300_000          # a session time-out that no test waits for


@pytest.fixture
def admin(kafka_log: KafkaLog, services: Services) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=services.kafka)
    yield client
    client.close()


@pytest.fixture
def topic(kafka_log: KafkaLog, topic_name: Callable[[str], str]) -> str:
    name = topic_name("kafka")
    kafka_log.ensure_topic(name, 4)
    return name


class Member:
    """A consumer that starts every partition it is given where it is told, and keeps count."""

    def __init__(self, log: KafkaLog, topic: str, member: str | None = None) -> None:
        self.consumer: KafkaConsumer = log.consumer(f"group-{topic}", {"orders": topic}, member=member)
        self.owned: set[int] = set()
        self.told: list[Assignment] = []
        self.batches: list[Batch] = []

    def poll(self, timeout_s: float = 0.1) -> None:
        polled = self.consumer.poll(timeout_s=timeout_s, max_records=1000, max_bytes=1 << 20)
        if polled.assignment:
            self.told.append(polled.assignment)
        self.owned -= {p.partition for p in (*polled.assignment.revoked, *polled.assignment.lost)}
        for partition in polled.assignment.assigned:
            self.owned.add(partition.partition)
            self.consumer.seek(partition, 0)
        self.batches += polled.batches

    def values(self, partition: int) -> list[bytes | None]:
        return [v for b in self.batches if b.partition == partition for v in b.values]


def until(done: Callable[[], bool], *members: Member) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end, [(m.owned, m.told) for m in members]
        for member in members:
            member.poll()


def test_two_members_share_and_only_what_moves_is_revoked(kafka_log: KafkaLog, topic: str) -> None:
    first = Member(kafka_log, topic)
    until(lambda: len(first.owned) == 4, first)
    second = Member(kafka_log, topic)
    until(lambda: len(first.owned) == 2 and len(second.owned) == 2, first, second)
    assert not first.owned & second.owned
    revoked = [p.partition for told in first.told for p in told.revoked]
    assert sorted(revoked) == sorted(second.owned)
    second.consumer.close()
    until(lambda: len(first.owned) == 4, first)
    first.consumer.close()


def test_a_member_joins_however_short_its_polls_are(kafka_log: KafkaLog, topic: str) -> None:
    for _ in range(5):
        member = Member(kafka_log, topic)
        end = time.monotonic() + PATIENCE_S
        while len(member.owned) < 4:
            assert time.monotonic() < end, member.told
            member.poll(timeout_s=0.001)
        member.consumer.close()


def test_members_that_do_other_work_while_their_joins_finish_share_too(kafka_log: KafkaLog, topic: str) -> None:
    first = Member(kafka_log, topic)
    until(lambda: len(first.owned) == 4, first)
    second = Member(kafka_log, topic)
    end = time.monotonic() + PATIENCE_S
    while not len(first.owned) == len(second.owned) == 2:
        assert time.monotonic() < end, (first.told, second.told)
        for member in (first, second):
            member.poll(timeout_s=0.01)
            time.sleep(0.2)                # a commit, say: the answer to a join comes in here
    first.consumer.close()
    second.consumer.close()


def test_a_join_that_a_poll_left_under_way_is_taken_up_although_the_next_polls_bring_records(kafka_log: KafkaLog, topic: str) -> None:
    member = Member(kafka_log, topic)
    until(lambda: len(member.owned) == 4, member)
    coordinator = member.consumer._consumer._coordinator
    kafka_log.append(topic, [Record(b"x", partition=0)])
    coordinator.rejoining = True           # as where a JoinGroup was answered between two polls, and its SyncGroup was not
    assert member.consumer._fetch(60_000, 1000)
    assert coordinator.need_rejoin()
    member.consumer.close()


def test_a_member_that_leaves_hands_over_long_before_the_session_time_out(
    services: Services, topic: str
) -> None:
    log = KafkaLog(services.kafka, session_ms=LONGER_THAN_PATIENCE_MS)
    first, second = Member(log, topic), Member(log, topic)
    until(lambda: len(first.owned) + len(second.owned) == 4, first, second)
    first.consumer.close()
    until(lambda: len(second.owned) == 4, second)
    second.consumer.close()
    log.close()


def test_a_durable_member_comes_back_to_its_own_partitions_without_a_rebalance(
    services: Services, topic: str
) -> None:
    log = KafkaLog(services.kafka, session_ms=LONGER_THAN_PATIENCE_MS)
    first, second = Member(log, topic, "worker-1"), Member(log, topic, "worker-2")
    until(lambda: len(first.owned) == len(second.owned) == 2 and generation(first) == generation(second), first, second)
    joined, members = generation(first), {"worker-1": first, "worker-2": second}
    for name in members:                   # the group's leader is one of them
        before, told = set(members[name].owned), {other: len(member.told) for other, member in members.items()}
        members[name].consumer.close()
        members[name] = Member(log, topic, name)
        until(lambda name=name, before=before: members[name].owned == before, members[name])   # whatever the other does meanwhile
        for member in members.values():
            member.poll()
        assert [generation(member) for member in members.values()] == [joined, joined]
        assert {other: len(member.told) for other, member in members.items()} == {**told, name: 1}
    for member in members.values():
        member.consumer.close()
    log.close()


def generation(member: Member) -> int:
    """Of the group, as the member knows it: each rebalance makes another."""
    number: int = member.consumer._consumer._coordinator._generation.generation_id
    return number


def test_an_evicted_member_hears_that_its_partitions_are_lost(
    kafka_log: KafkaLog, admin: KafkaAdminClient, topic: str
) -> None:
    kafka_log.append(topic, [Record(b"x", partition=p) for p in range(4)])
    member = Member(kafka_log, topic)
    until(lambda: len(member.batches) == 4, member)
    group = f"group-{topic}"
    [described] = admin.describe_groups([group]).values()
    admin.remove_group_members(group, [MemberToRemove(member_id=m["member_id"]) for m in described["members"]])
    until(lambda: any(told.lost for told in member.told), member)
    lost = next(told for told in member.told if told.lost)
    assert {p.partition for p in lost.lost} == {0, 1, 2, 3}
    until(lambda: len(member.owned) == 4, member)  # it joins again by itself
    member.consumer.close()


def test_records_that_retention_deleted_are_an_error_and_not_a_jump(
    kafka_log: KafkaLog, admin: KafkaAdminClient, topic: str
) -> None:
    kafka_log.append(topic, [Record(b"x", partition=0)] * 5)
    admin.delete_records({TopicPartition(topic, 0): 3})
    assert kafka_log.topic(topic).beginning[0] == 3
    member = Member(kafka_log, topic)
    with pytest.raises(OffsetOutOfRangeError, match="no longer"):
        until(lambda: False, member)
    member.consumer.close()


def test_a_recreated_topic_has_another_id(kafka_log: KafkaLog, admin: KafkaAdminClient, topic: str) -> None:
    before = kafka_log.topic(topic)
    admin.delete_topics([topic])
    end = time.monotonic() + PATIENCE_S
    while not kafka_log.ensure_topic(topic, 4):
        assert time.monotonic() < end
    assert kafka_log.topic(topic).topic_id != before.topic_id


def test_aborted_transactions_are_never_read(kafka_log: KafkaLog, services: Services, topic: str) -> None:
    producer = KafkaProducer(
        bootstrap_servers=services.kafka,
        transactional_id=topic,
    )
    producer.init_transactions()
    for value, end in ((b"kept", producer.commit_transaction), (b"aborted", producer.abort_transaction)):
        producer.begin_transaction()
        producer.send(topic, value, partition=0).get(timeout=60)
        end()
    producer.close()
    kafka_log.append(topic, [Record(b"after", partition=0)])
    member = Member(kafka_log, topic)
    until(lambda: len(member.values(0)) >= 2, member)
    assert member.values(0) == [b"kept", b"after"]
    assert [b.next for b in member.batches][-1] == kafka_log.topic(topic).end[0]
    member.consumer.close()


@pytest.mark.parametrize("end", ["commit_transaction", "abort_transaction"])
def test_a_partition_that_ends_with_a_transaction_is_read_to_its_end(
    kafka_log: KafkaLog, services: Services, topic: str, end: str
) -> None:
    producer = KafkaProducer(bootstrap_servers=services.kafka, transactional_id=topic)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, b"one", partition=0).get(timeout=60)
    getattr(producer, end)()
    producer.close()
    member = Member(kafka_log, topic)
    until(lambda: any(b.next == kafka_log.topic(topic).end[0] == 2 for b in member.batches if b.partition == 0), member)
    mine = [b for b in member.batches if b.partition == 0]
    assert [b.first for b in mine] == [0, *(b.next for b in mine[:-1])]
    assert member.values(0) == ([b"one"] if end == "commit_transaction" else [])
    member.consumer.close()


def test_a_batch_has_one_kind_of_timestamp(
    kafka_log: KafkaLog, admin: KafkaAdminClient, services: Services, topic: str
) -> None:
    """The topic's setting is changed between two records: how their futures are judged must not depend on the poll."""
    producer = KafkaProducer(bootstrap_servers=services.kafka)
    producer.send(topic, b"append", partition=0, timestamp_ms=1_000).get(timeout=60)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"message.timestamp.type": "CreateTime"})])
    end = time.monotonic() + PATIENCE_S
    stored = -1
    while stored != 1_000:
        assert time.monotonic() < end
        stored = producer.send(topic, b"create", partition=0, timestamp_ms=1_000).get(timeout=60).timestamp
    producer.close()
    many = kafka_log.topic(topic).end[0]
    member = Member(kafka_log, topic)
    until(lambda: len(member.values(0)) == many, member)
    assert [b.timestamp_kind for b in member.batches] == ["append", "create"]
    assert member.batches[0].next == member.batches[1].first
    assert member.batches[1].timestamps_us.tolist() == [1_000_000]
    member.consumer.close()


def test_a_topic_whose_producers_set_the_time_is_warned_of_and_one_of_ours_is_not(
    kafka_log: KafkaLog, admin: KafkaAdminClient, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "featureflow.toml").write_text('[project]\nname = "default"\n')
    source = msgspec.structs.replace(PROJECT.sources[0], topic=topic)

    def warned() -> list[str]:
        with Context(tmp_path, {}) as here:
            here.log, here.written = kafka_log, msgspec.structs.replace(PROJECT, sources=(source,))  # type: ignore[misc]
            return [finding.said for finding in examine(here) if (finding.part, finding.state) == ("log", "warning")]

    assert warned() == []
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"message.timestamp.type": "CreateTime"})])
    end = time.monotonic() + PATIENCE_S
    while not warned():
        assert time.monotonic() < end
    (said,) = warned()
    assert said.startswith(f"topic {topic} has message.timestamp.type=CreateTime")
    command = said.partition("kafka-configs.sh ")[2].split()
    assert command[-1] == "message.timestamp.type=LogAppendTime"


def test_lag_tools_see_the_advisory_offset(kafka_log: KafkaLog, admin: KafkaAdminClient, topic: str) -> None:
    kafka_log.append(topic, [Record(b"x", partition=0)] * 3)
    member = Member(kafka_log, topic)
    until(lambda: bool(member.batches), member)
    member.consumer.commit_advisory({Partition("orders", 0): 3})
    group, place = f"group-{topic}", TopicPartition(topic, 0)
    seen: list[int] = []

    def committed() -> bool:
        offsets = admin.list_group_offsets({group: None})[group]
        seen.append(offsets[place].offset if place in offsets else -1)
        return seen[-1] == 3

    until(committed, member)
    member.consumer.close()


def test_a_broker_that_is_down_is_named_with_its_setting() -> None:
    log = KafkaLog("127.0.0.1:1,localhost:2")
    for call in (log.ping, lambda: log.append("orders", [Record(b"x")]), lambda: log.consumer("g", {"orders": "o"})):
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1: .*localhost:2: .*log\.url"):
            call()
    log.close()


def test_an_option_in_the_url_goes_before_ours_with_all_three_clients(services: Services, topic: str) -> None:
    log = open_log(f"kafka://{services.kafka}?request_timeout_ms=20000&session_ms=7000&ssl_check_hostname=false")
    assert isinstance(log, KafkaLog)
    try:
        log.append(topic, [Record(b"{}")])
        reader = log.reader({"source": topic})
        clients = (log._administrator(), log._appender(), reader._consumer)
        assert [client.config["request_timeout_ms"] for client in clients] == [20_000] * 3
        assert reader._consumer.config["session_timeout_ms"] == 7_000
        reader.close()
    finally:
        log.close()
