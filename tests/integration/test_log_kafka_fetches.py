"""Fetches are sent ahead, and taken with no word to kafka-python's I/O thread that is not needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from featureflow import limits
from featureflow.store.log import kafka_fetches
from featureflow.store.log.kafka import KafkaLog
from featureflow.store.log.kafka_consumer import KafkaConsumer
from featureflow.store.log.protocol import Batch, Partition, Record

PATIENCE_S = 60.0
PLACE = Partition("orders", 0)


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def topic(kafka_log: KafkaLog, topic_name: Callable[[str], str]) -> str:
    name = topic_name("fetches")
    kafka_log.ensure_topic(name, 1)
    return name


@pytest.fixture
def member(kafka_log: KafkaLog, topic: str) -> Iterator[KafkaConsumer]:
    """It has its share, reads it from the start, and has a fetch on its way."""
    consumer = kafka_log.consumer(f"group-{topic}", {"orders": topic})
    until(lambda: PLACE in polled(consumer, timeout_s=0.1)[0])
    consumer.seek(PLACE, 0)
    until(lambda: not polled(consumer)[1] and asked(consumer))
    yield consumer
    consumer.close()


def polled(
    consumer: KafkaConsumer, *, timeout_s: float = 0.0, max_records: int = 10_000, max_bytes: int = limits.POLL_BYTES
) -> tuple[tuple[Partition, ...], list[Batch]]:
    found = consumer.poll(timeout_s=timeout_s, max_records=max_records, max_bytes=max_bytes)
    return found.assignment.assigned, list(found.batches)


def asked(consumer: KafkaConsumer) -> bool:
    """Whether a fetch is on its way."""
    return bool(consumer._consumer._fetcher._nodes_with_pending_fetch_requests)


def arrived(consumer: KafkaConsumer) -> bool:
    return bool(consumer._consumer._fetcher._completed_fetches)


class Words:
    """Counts what is said to the I/O thread."""

    def __init__(self, consumer: KafkaConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        net = consumer._consumer._fetcher._net
        self._wakeup = net.wakeup
        monkeypatch.setattr(net, "wakeup", self._said)

    def _said(self) -> None:
        self.count += 1
        self._wakeup()


def quiet(consumer: KafkaConsumer) -> None:
    """So that the word that each second has is not due."""
    assert consumer._fetches is not None
    consumer._fetches._ask_due = time.monotonic() + PATIENCE_S


def test_a_poll_with_a_fetch_on_its_way_says_nothing_and_one_that_takes_records_says_one_word(
    kafka_log: KafkaLog, topic: str, member: KafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(member)
    words = Words(member, monkeypatch)
    until(lambda: asked(member) or not polled(member)[1])
    words.count, began = 0, time.monotonic()
    for _ in range(10):
        assert not polled(member)[1]
    assert words.count <= 2 + 2 * (time.monotonic() - began), "a fetch that brought nothing in half a second is sent again"
    kafka_log.append(topic, [Record(b"x")])
    batches: list[Batch] = []
    while not batches:                     # the answer to the fetch of before may have nothing in it, and is the first to arrive
        until(lambda: arrived(member))
        words.count = 0
        batches = polled(member)[1]
    [batch] = batches
    assert (list(batch.values), words.count) == ([b"x"], 1), "the next fetch"


def test_the_next_fetch_is_on_its_way_once_a_poll_has_brought_records(kafka_log: KafkaLog, topic: str, member: KafkaConsumer) -> None:
    for number in range(3):
        kafka_log.append(topic, [Record(b"%d" % number)])
        found: list[Batch] = []
        until(lambda found=found: bool(found.extend(polled(member, timeout_s=1)[1]) or found))  # type: ignore[misc]
        assert [value for batch in found for value in batch.values] == [b"%d" % number]
        until(lambda: asked(member))       # nobody polls meanwhile


@pytest.mark.parametrize("each_second", [True, False])
def test_an_io_thread_that_has_ended_is_noticed(member: KafkaConsumer, each_second: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time with no word each second, to see that the first could have failed."""
    if not each_second:
        monkeypatch.setattr(kafka_fetches, "ASK_S", PATIENCE_S)
        quiet(member)
    monkeypatch.setattr(member._fetches, "_lacking", lambda: False)        # its fetch would be on its way for ever
    monkeypatch.setattr(member._consumer._fetcher._net, "_exception", RuntimeError("the loop has ended"))
    seen, late = list[str](), 0
    end = time.monotonic() + 2 * kafka_fetches.ASK_S if each_second else time.monotonic() + 1.5
    while not seen and late < 10:          # polls after the end: the machine may have been busy with something else until then
        late += time.monotonic() >= end
        try:
            polled(member)
        except RuntimeError as error:
            seen.append(str(error))
    monkeypatch.undo()
    assert seen == (["the loop has ended"] if each_second else [])


@pytest.mark.parametrize("more", [True, False])
def test_what_is_held_and_what_has_arrived_come_together(
    kafka_log: KafkaLog, topic: str, more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time without a look at what has arrived, to see that the first could have failed."""
    monkeypatch.setattr(limits, "FETCH_BYTES", 64 * 1024)
    size, number = 1_000, 300
    for start in range(0, number, 10):     # record batches of some 10 KB, about six of which are a fetch
        kafka_log.append(topic, [Record(os.urandom(size), partition=0) for _ in range(start, start + 10)])
    consumer = kafka_log.reader({"orders": topic})
    if not more:
        monkeypatch.setattr(type(consumer._fetches), "more", lambda self: False)
    assert polled(consumer)[0] == (PLACE,)
    consumer.seek(PLACE, 0)
    sizes, at, most, held = [], 0, 25, 0
    while at < number:
        if at:
            until(lambda all_here=at + held == number: all_here or arrived(consumer))  # type: ignore[misc]  # nobody polls meanwhile
        for batch in polled(consumer, timeout_s=0.05, max_records=most)[1]:
            assert batch.first == at
            assert batch.offsets.tolist() == list(range(at, batch.next))
            at = batch.next
            sizes.append(len(batch))
        held = sum(len(part) for parts in consumer._held.values() for part in parts)
        assert held <= most + 70
    consumer.close()
    assert max(sizes) <= most
    assert (sizes == [most] * (number // most)) is more, sizes
