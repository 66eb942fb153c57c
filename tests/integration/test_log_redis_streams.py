"""What only the embedded log does: one owner per group, nothing let go, and its server going away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from featureflow.errors import LogError, OffsetOutOfRangeError, UnavailableError
from featureflow.store.log.protocol import Assignment, Batch, Consumer, Partition, Polled, Record
from featureflow.store.log.redis_consumer import LEASE_MS, RedisStreamsConsumer
from featureflow.store.log.redis_names import stream_key, topic_key
from featureflow.store.log.redis_streams import RedisStreamsLog
from featureflow.store.online.embedded import EmbeddedServer


@pytest.fixture
def topic(streams_log: RedisStreamsLog, topic_name: Callable[[str], str]) -> str:
    name = topic_name("streams")
    streams_log.ensure_topic(name, 2)
    return name


def poll(consumer: Consumer, timeout_s: float = 0.0, max_records: int = 100_000) -> Polled:
    return consumer.poll(timeout_s=timeout_s, max_records=max_records, max_bytes=1 << 24)


def start(consumer: Consumer) -> None:
    for partition in poll(consumer).assignment.assigned:
        consumer.seek(partition, 0)


def read_all(consumer: Consumer) -> list[Batch]:
    batches: list[Batch] = []
    while got := poll(consumer).batches:
        batches += got
    return batches


def test_the_newest_consumer_of_a_group_owns_it_and_the_older_hears_so(
    streams_log: RedisStreamsLog, topic: str
) -> None:
    streams_log.append(topic, [Record(b"x")] * 4)
    older = streams_log.consumer("ingest", {"orders": topic})
    start(older)
    newer = streams_log.consumer("ingest", {"orders": topic})
    both = (Partition("orders", 0), Partition("orders", 1))
    assert poll(older) == Polled(Assignment(lost=both), ())
    assert poll(older) == Polled(Assignment(), ())
    assert poll(newer).assignment.assigned == both
    older.close()                          # its leaving takes nothing from the newer one
    for partition in both:
        newer.seek(partition, 0)
    assert sum(len(b) for b in read_all(newer)) == 4
    newer.close()


def test_a_consumer_that_leaves_while_another_arrives_takes_nothing_from_it(
    streams_log: RedisStreamsLog, embedded_redis_url: str, topic: str
) -> None:
    class Arriving(redis.Redis):
        """Another consumer takes the group after the first command of each ``close``."""

        leaving = False

        def execute_command(self, *words: Any, **options: Any) -> Any:
            answer = super().execute_command(*words, **options)  # type: ignore[no-untyped-call]  # untyped in redis-py
            if self.leaving:
                self.leaving = False
                self.set("log:{0}:owner:ingest", "another")
            return answer

    streams = {Partition("orders", 0): stream_key(topic, 0)}
    with Arriving.from_url(embedded_redis_url, protocol=2) as client, redis.Redis.from_url(embedded_redis_url) as raw:
        consumer = RedisStreamsConsumer(client, "ingest", {"orders": topic}, streams)
        client.leaving = True
        consumer.close()
        assert raw.get("log:{0}:owner:ingest") == b"another"


def test_an_owner_that_died_without_a_word_is_followed_when_its_lease_has_run_out(
    streams_log: RedisStreamsLog, embedded_redis_url: str, topic: str
) -> None:
    key = "log:{0}:owner:ingest"
    older = streams_log.consumer("ingest", {"orders": topic})
    start(older)
    dead = streams_log.consumer("ingest", {"orders": topic})
    start(dead)
    assert poll(older).assignment.lost
    with redis.Redis.from_url(embedded_redis_url) as raw:
        left_ms = raw.pttl(key)
        assert isinstance(left_ms, int)
        assert 0 < left_ms <= LEASE_MS
        raw.delete(key)                    # as its end does
    assert len(poll(older).assignment.assigned) == 2
    assert len(poll(dead).assignment.lost) == 2      # it was only asleep
    older.close()
    dead.close()


def test_a_consumer_that_lost_its_group_waits_for_its_turn_without_asking_all_the_time(
    streams_log: RedisStreamsLog, embedded_redis_url: str, topic: str
) -> None:
    older = streams_log.consumer("ingest", {"orders": topic})
    start(older)
    newer = streams_log.consumer("ingest", {"orders": topic})
    assert poll(older).assignment.lost

    def asked() -> int:
        with redis.Redis.from_url(embedded_redis_url) as raw:
            stats: dict[str, Any] = raw.info("commandstats")  # type: ignore[assignment]  # not asynchronous
            return sum(int(s["calls"]) for name, s in stats.items() if name.startswith(("cmdstat_eval", "cmdstat_xread")))

    before = asked()
    for _ in range(3):
        assert poll(older, timeout_s=0.5) == Polled(Assignment(), ())
    assert asked() - before <= 3 * 4, "two looks for each half second, and the first and last"
    newer.close()
    older.close()


def test_an_owner_that_polls_keeps_its_lease(
    streams_log: RedisStreamsLog, embedded_redis_url: str, topic: str
) -> None:
    key = "log:{0}:owner:ingest"
    owner = streams_log.consumer("ingest", {"orders": topic})
    start(owner)
    with redis.Redis.from_url(embedded_redis_url) as raw:
        raw.pexpire(key, LEASE_MS // 2)
        poll(owner)
        left_ms = raw.pttl(key)
        assert isinstance(left_ms, int)
        assert left_ms > LEASE_MS // 2
    owner.close()


def delete(url: str, topic: str) -> None:
    """The topic and its records, as an operator would."""
    with redis.Redis.from_url(url) as client:
        client.delete(topic_key(topic), f"{topic_key(topic)}:groups", stream_key(topic, 0), stream_key(topic, 1))


def test_nothing_is_let_go_however_far_all_groups_are(
    streams_log: RedisStreamsLog, embedded_redis_url: str, topic: str
) -> None:
    streams_log.append(topic, [Record(b"x", partition=0)] * 5_000)
    for group in ("ingest", "history"):
        consumer = streams_log.consumer(group, {"orders": topic})
        start(consumer)
        read_all(consumer)
        consumer.commit_advisory({Partition("orders", 0): 5_000})
        consumer.close()
    with redis.Redis.from_url(embedded_redis_url) as client:
        assert client.hgetall(f"{topic_key(topic)}:groups") == {b"ingest:0": b"5000", b"history:0": b"5000"}
        assert client.xlen(stream_key(topic, 0)) == 5_000


def test_a_recreated_topic_has_another_id_and_takes_appends(
    streams_log: RedisStreamsLog, embedded_redis_url: str, topic: str
) -> None:
    streams_log.append(topic, [Record(b"x")])
    before = streams_log.topic(topic)
    delete(embedded_redis_url, topic)
    streams_log.ensure_topic(topic, 1)
    assert streams_log.topic(topic).topic_id != before.topic_id
    assert streams_log.append(topic, [Record(b"y")]) == [(0, 0)]


def test_an_append_that_knows_the_old_topic_writes_nothing_to_the_new_one(
    streams_log: RedisStreamsLog, embedded_redis_url: str, topic: str
) -> None:
    streams_log.append(topic, [Record(b"x", partition=1)])
    other = RedisStreamsLog(embedded_redis_url)
    delete(embedded_redis_url, topic)
    other.ensure_topic(topic, 1)
    with pytest.raises(LogError, match="recreated"):
        streams_log.append(topic, [Record(b"y", partition=1)])
    assert other.topic(topic).end == {0: 0}
    assert streams_log.append(topic, [Record(b"y", partition=0)]) == [(0, 0)]
    other.close()


def test_records_deleted_from_the_middle_are_noticed(
    streams_log: RedisStreamsLog, embedded_redis_url: str, topic: str
) -> None:
    streams_log.append(topic, [Record(b"x", partition=0)] * 5)
    with redis.Redis.from_url(embedded_redis_url) as client:
        identity = client.xrange(stream_key(topic, 0), "2", "2")[0][0]
        client.xdel(stream_key(topic, 0), identity)
    consumer = streams_log.consumer("ingest", {"orders": topic})
    start(consumer)
    with pytest.raises(OffsetOutOfRangeError, match="goes on at 3"):
        read_all(consumer)
    consumer.close()


@pytest.mark.parametrize("wipe", ["trimmed to nothing", "deleted"])
def test_records_that_are_all_gone_are_noticed(
    streams_log: RedisStreamsLog, embedded_redis_url: str, topic: str, wipe: str
) -> None:
    streams_log.append(topic, [Record(b"x", partition=0)] * 5)
    with redis.Redis.from_url(embedded_redis_url) as client:
        client.delete(stream_key(topic, 0)) if wipe == "deleted" else client.xtrim(stream_key(topic, 0), maxlen=0)
    consumer = streams_log.consumer("ingest", {"orders": topic})
    start(consumer)
    with pytest.raises(OffsetOutOfRangeError, match="its records are gone"):
        read_all(consumer)
    consumer.close()


def test_what_was_appended_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        log = RedisStreamsLog(server.url)
        log.ensure_topic("orders", 1)
        log.append("orders", [Record(b"x")] * 3)
        before = log.topic("orders")
        log.close()
    with EmbeddedServer(tmp_path) as server:
        log = RedisStreamsLog(server.url)
        assert log.topic("orders") == before
        assert log.append("orders", [Record(b"y")]) == [(0, 3)]
        log.close()


def test_a_server_that_is_down_is_named_with_its_setting(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        log = RedisStreamsLog(server.url)
        log.ensure_topic("orders", 1)
        consumer = log.consumer("ingest", {"orders": "orders"})
        start(consumer)
        reader = log.reader({"orders": "orders"})
        start(reader)
    with pytest.raises(UnavailableError, match="the log's past cannot be read"):
        poll(reader)
    reader.close()
    for call in (log.ping, lambda: log.append("orders", [Record(b"x")]), lambda: poll(consumer)):
        with pytest.raises(UnavailableError):
            call()
    with pytest.raises(UnavailableError, match=r"log\.url"):
        log.ping()
    consumer.commit_advisory({Partition("orders", 0): 1})  # never raises
    consumer.close()
    log.close()


def test_a_server_that_may_lose_records_is_told_with_the_fix(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        log = RedisStreamsLog(server.url)
        log.ensure_topic("orders", 1)
        assert log.check("orders") == []
        raw.config_set("maxmemory-policy", "allkeys-lru")
        raw.config_set("appendonly", "no")
        evicts, forgets = log.check("orders")
        log.close()
    assert "maxmemory-policy allkeys-lru" in evicts
    assert "noeviction" in evicts
    assert "appendonly yes" in forgets


def test_a_server_that_takes_no_writes_is_waited_for_by_who_reads_and_who_appends(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        log = RedisStreamsLog(server.url)
        log.ensure_topic("orders", 1)
        raw.config_set("maxmemory", 1)     # as where its disk is full: what writes is refused before it has written
        for call in (lambda: log.append("orders", [Record(b"x")]), lambda: poll(log.consumer("ingest", {"orders": "orders"}))):
            with pytest.raises(UnavailableError, match=r"takes no writes now.*log\.url"):
                call()
        raw.config_set("maxmemory", 0)
        assert log.append("orders", [Record(b"x")]) == [(0, 0)]
        consumer = log.consumer("ingest", {"orders": "orders"})
        start(consumer)
        raw.config_set("maxmemory", 1)
        consumer.commit_advisory({Partition("orders", 0): 1})  # never raises
        assert [batch.values for batch in poll(consumer).batches] == [[b"x"]]
        raw.config_set("maxmemory", 0)
        consumer.close()
        log.close()
