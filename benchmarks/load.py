"""A closed-loop HTTP load generator: a fixed number of keep-alive connections, each with one request in flight.

Raw sockets on uvloop and prebuilt request bytes, so that the generator costs as little as possible of the two cores that it shares with
what it measures. Loopback only; bounded in time.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import uvloop


@dataclass(frozen=True)
class Load:
    req_s: float
    p50_ms: float
    p99_ms: float
    stddev_ms: float
    max_ms: float
    requests: int
    not_ok: int


class _Connection(asyncio.Protocol):
    def __init__(self, requests: list[bytes], start: int, until: float, durations: list[float]) -> None:
        self.requests, self.next, self.until, self.durations = requests, start, until, durations
        self.not_ok = 0
        self.buffer = b""
        self.sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._send()  # one at least, however long it took to connect

    def _next(self) -> None:
        if time.perf_counter() >= self.until:
            self.transport.close()
        else:
            self._send()

    def _send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.requests[self.next % len(self.requests)])
        self.next += 1

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.buffer.lower().find(b"content-length:", 0, head)
        if at < 0:  # chunked, as some servers answer: the last of them ends it
            if not self.buffer.endswith(b"\r\n0\r\n\r\n"):
                return
        elif len(self.buffer) < head + 4 + int(self.buffer[at + 15 : self.buffer.find(b"\r\n", at)]):
            return
        self.durations.append(time.perf_counter() - self.sent)
        if not self.buffer.startswith(b"HTTP/1.1 200"):
            self.not_ok += 1
        self.buffer = b""
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def request_bytes(path: str, body: bytes, host: str = "127.0.0.1") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def run(port: int, requests: list[bytes], *, connections: int, seconds: float) -> Load:
    """Drive 127.0.0.1:``port`` for ``seconds``; each connection walks the list of prebuilt requests from its own place."""

    async def drive() -> Load:
        loop = asyncio.get_running_loop()
        durations: list[float] = []
        began = time.perf_counter()
        made = [
            (
                await loop.create_connection(
                    partial(_Connection, requests, i * 7919, began + seconds, durations), "127.0.0.1", port
                )
            )[1]
            for i in range(connections)
        ]
        _, stuck = await asyncio.wait([c.done for c in made], timeout=seconds + 30)
        if stuck:
            raise SystemExit(
                f"{len(stuck)} of {connections} connections got no answer; {len(durations)} requests were answered"
            )
        took = time.perf_counter() - began
        ms = np.array(durations) * 1000
        return Load(
            len(ms) / took,
            float(np.percentile(ms, 50)),
            float(np.percentile(ms, 99)),
            float(ms.std()),
            float(ms.max()),
            len(ms),
            sum(c.not_ok for c in made),
        )

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(drive())
