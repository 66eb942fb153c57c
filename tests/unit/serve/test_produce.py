"""Posted events: durable when answered, few appends for many posts, and a slow log is told to the caller."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from featureflow.clock import ManualClock
from featureflow.errors import LogError, UnavailableError
from featureflow.serve import produce
from featureflow.serve.produce import Producer
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Record


class WatchedLog(MemoryLog):
    def __init__(self) -> None:
        super().__init__(ManualClock(0))
        self.ensure_topic("a", 1)
        self.ensure_topic("b", 1)
        self.calls: list[tuple[str, int]] = []
        self.entered, self.door = threading.Event(), threading.Event()

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        self.entered.set()
        self.door.wait(60)
        self.calls.append((topic, len(records)))
        return super().append(topic, records)


def test_posts_that_wait_leave_together_and_each_is_told_its_own_positions() -> None:
    async def go() -> None:
        log = WatchedLog()
        producer = Producer(log)
        producer.start()
        first = asyncio.create_task(producer.append("a", [Record(b"0")]))
        await asyncio.to_thread(log.entered.wait, 60)
        posts = [asyncio.create_task(producer.append("a", [Record(b"%d" % i), Record(b"x")])) for i in range(3)]
        other = asyncio.create_task(producer.append("b", [Record(b"b")]))
        await asyncio.sleep(0)
        log.door.set()
        assert await first == [(0, 0)]
        assert await asyncio.gather(*posts) == [[(0, 1), (0, 2)], [(0, 3), (0, 4)], [(0, 5), (0, 6)]]
        assert await other == [(0, 0)]
        assert log.calls == [("a", 1), ("a", 6), ("b", 1)]
        producer.close(60)

    asyncio.run(go())


def test_what_leaves_together_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        monkeypatch.setattr(produce, "BATCH_BYTES", 12)
        log = WatchedLog()
        producer = Producer(log)
        producer.start()
        first = asyncio.create_task(producer.append("a", [Record(b"0")]))
        await asyncio.to_thread(log.entered.wait, 60)
        posts = [asyncio.create_task(producer.append("a", [Record(b"five5")] * n)) for n in (1, 1, 3, 1)]
        await asyncio.sleep(0)
        log.door.set()
        await asyncio.gather(first, *posts)
        assert log.calls == [("a", 1), ("a", 2), ("a", 3), ("a", 1)]
        producer.close(60)

    asyncio.run(go())


def test_a_refusal_reaches_the_posts_it_belongs_to_and_the_next_post_is_tried() -> None:
    async def go() -> None:
        log = WatchedLog()
        log.door.set()
        producer = Producer(log)
        producer.start()
        with pytest.raises(LogError):
            await producer.append("no such topic", [Record(b"0")])
        assert await producer.append("a", [Record(b"0")]) == [(0, 0)]
        producer.close(60)

    asyncio.run(go())


@pytest.mark.parametrize(("limit", "most"), [("QUEUE_RECORDS", 3), ("QUEUE_BYTES", 15)])
def test_more_than_the_queue_holds_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    async def go() -> None:
        monkeypatch.setattr(produce, limit, most)
        log = WatchedLog()
        producer = Producer(log)
        producer.start()
        held = asyncio.create_task(producer.append("a", [Record(b"value")] * 3))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="slower than the producers"):
            await producer.append("a", [Record(b"0")])
        log.door.set()
        await held
        assert await producer.append("a", [Record(b"0")]) == [(0, 3)]
        producer.close(60)

    asyncio.run(go())
