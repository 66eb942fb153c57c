from __future__ import annotations

import json
from base64 import b64decode

import numpy as np
import pytest

from featureflow import limits
from featureflow.clock import ManualClock
from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.ingest.dead_letter import DeadLetter, append, letters
from featureflow.kernel.decode import Decoder
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Batch

DEAD_LETTERS = system.dead_letters(DEFAULT_PROJECT)


def read(log: MemoryLog) -> list[tuple[bytes | None, bytes | None]]:
    consumer = log.consumer("test", {DEAD_LETTERS.name: DEAD_LETTERS.topic})
    polled = consumer.poll(timeout_s=0, max_records=100, max_bytes=1 << 20)
    for partition in polled.assignment.assigned:
        consumer.seek(partition, 0)
    batches = consumer.poll(timeout_s=0, max_records=100, max_bytes=1 << 20).batches
    return [pair for batch in batches for pair in zip(batch.keys, batch.values, strict=True)]


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.ensure_topic(DEAD_LETTERS.topic, 1)
    return log


def test_a_letter_is_an_event_of_the_dead_letter_source_keyed_by_its_position(log: MemoryLog) -> None:
    dead = [
        DeadLetter("pay", 3, 12, "wrong_type", "field 'amount' should be a number", b"\xff{}"),
        DeadLetter("pay", 3, 13, "late", "too old", None, view="paid@v1"),
    ]
    append(log, DEFAULT_PROJECT, dead, ManualClock(5_000_000))
    (first_key, first), (second_key, second) = read(log)
    decoded = Decoder(DEAD_LETTERS).decode([first, second], [first_key, second_key])
    assert not decoded.refused
    assert (first_key, second_key) == (b"pay/3/12", b"pay/3/13/paid@v1")
    assert decoded.events.times_us.tolist() == [5_000_000] * 2
    assert decoded.events.columns["reason"].tolist() == ["wrong_type", "late"]
    assert decoded.events.columns["view"].tolist() == [None, "paid@v1"]
    assert b64decode(decoded.events.columns["value"][0]) == b"\xff{}"


def test_only_the_first_bytes_of_a_long_value_and_detail_are_kept(log: MemoryLog) -> None:
    append(log, DEFAULT_PROJECT, [DeadLetter("pay", 0, 1, "oversized", "\u20ac" * 5_000, b"x" * 1_000_000)], ManualClock())
    ((_, value),) = read(log)
    kept = json.loads(value or b"")
    assert len(b64decode(kept["value"])) == limits.DEAD_LETTER_VALUE_BYTES
    assert set(kept["detail"]) == {"\u20ac"}
    assert len(kept["detail"].encode()) <= 4_096


def test_no_letters_append_nothing() -> None:
    append(MemoryLog(), DEFAULT_PROJECT, [], ManualClock())


def test_a_verdict_makes_one_letter_for_each_place() -> None:
    batch = Batch("pay", 1, 5, 8, np.array([5, 6, 7]), np.zeros(3, np.int64), [b"a", b"b", b"c"], [None] * 3)
    assert [(letter.position, letter.value) for letter in letters(batch, [0, 2], "late", "too old", "paid@v1")] == [
        ("pay/1/5/paid@v1", b"a"), ("pay/1/7/paid@v1", b"c"),
    ]
