"""Events posted over HTTP: validated by the decoder that ingest uses, appended off the loop, answered once they are durable.

Posts that arrive while an append is under way leave together in the next one, so that many small posts cost few appends.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from featureflow.errors import UnavailableError
from featureflow.store.log.protocol import Appender, Record

QUEUE_RECORDS, QUEUE_BYTES = 50_000, 64 * 1024 * 1024  # of records that may have 64 KB each
BATCH_RECORDS, BATCH_BYTES = 5_000, 4 * 1024 * 1024
Positions = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Post:
    topic: str
    records: Sequence[Record]
    bytes: int  # of their values
    done: asyncio.Future[Positions]


class Producer:
    """Belongs to one event loop; one thread appends."""

    def __init__(self, log: Appender) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Post] = deque()
        self._waiting = self._waiting_bytes = 0
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._drain, name="producer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def append(self, topic: str, records: Sequence[Record]) -> Positions:
        """(partition, offset) of each record, durable. Raises UnavailableError (also when too much is queued), LogError."""
        size = sum(len(record.value) for record in records)
        if self._waiting + len(records) > QUEUE_RECORDS or self._waiting_bytes + size > QUEUE_BYTES:
            raise UnavailableError(
                f"{self._waiting} events wait to be appended already; the log is slower than the producers"
            )
        post = _Post(topic, records, size, self._loop.create_future())
        self._waiting += len(records)
        self._waiting_bytes += size
        self._queue.append(post)
        self._wake.set()
        try:
            return await post.done
        finally:
            self._waiting -= len(records)
            self._waiting_bytes -= size

    def close(self, timeout_s: float) -> None:
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _drain(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._wake.wait()
                self._wake.clear()
                continue
            posts = [self._queue.popleft()]
            count, size = len(posts[0].records), posts[0].bytes
            while (
                self._queue
                and self._queue[0].topic == posts[0].topic
                and count + len(self._queue[0].records) <= BATCH_RECORDS
                and size + self._queue[0].bytes <= BATCH_BYTES
            ):
                posts.append(self._queue.popleft())
                count += len(posts[-1].records)
                size += posts[-1].bytes
            try:
                positions = self._log.append(posts[0].topic, [record for post in posts for record in post.records])
            except Exception as error:  # whatever it is, the thread goes on: nobody would start another
                for post in posts:
                    self._tell(post, error)
                continue
            at = 0
            for post in posts:
                self._tell(post, positions[at : at + len(post.records)])
                at += len(post.records)

    def _tell(self, post: _Post, outcome: Positions | Exception) -> None:
        def resolve() -> None:
            if post.done.done():
                return
            if isinstance(outcome, Exception):
                post.done.set_exception(outcome)
            else:
                post.done.set_result(outcome)

        self._loop.call_soon_threadsafe(resolve)
