"""An open-loop HTTP load generator in a process of its own: requests leave when they are due, whatever became of those before.

    python steady.py PORT REQUESTS_PER_S SECONDS < REQUESTS > LATENCIES

Latency counts from the instant at which a request was due. A request that is due while every connection is busy waits for one, and its wait
counts. Standard input is JSON, prebuilt requests as base64; standard output one JSON object.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import uvloop
from numpy.typing import NDArray

CONNECTIONS = 64


@dataclass(frozen=True)
class Offered:
    """due_s: seconds after the begin, latency_ms: NaN where no answer came; status: 0 likewise. All (n,)."""

    due_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    status: NDArray[np.int64]
    achieved_per_s: float

    @property
    def failed(self) -> int:
        return int((self.status != 200).sum())

    def p_ms(self, percent: float) -> float:
        return float(np.percentile(self.latency_ms[self.status == 200], percent)) if (self.status == 200).any() else float("nan")


class _Generator:
    def __init__(self, port: int, requests: list[bytes], per_s: float, seconds: float) -> None:
        self.port, self.requests, self.count, self.per_s = port, requests, int(per_s * seconds), per_s
        self.due = np.arange(self.count) / per_s
        self.latency, self.status = np.full(self.count, np.nan), np.zeros(self.count, np.int64)
        self.idle: deque[_Connection] = deque()
        self.waiting: deque[int] = deque()
        self.next = self.answered = 0
        self.ended = asyncio.Event()

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            await self.loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
        self.began = self.loop.time() + 0.05
        self._tick()
        limit_s = self.count / self.per_s + 30
        try:
            async with asyncio.timeout(limit_s):
                await self.ended.wait()
        except TimeoutError:
            pass
        self.took = self.loop.time() - self.began

    def _tick(self) -> None:
        now = self.loop.time() - self.began
        while self.next < self.count and self.due[self.next] <= now:
            self.waiting.append(self.next)
            self.next += 1
        while self.waiting and self.idle:
            self.idle.popleft().send(self.waiting.popleft())
        if self.next < self.count:
            self.loop.call_later(max(0.0, self.due[self.next] - now), self._tick)

    def done(self, connection: _Connection, number: int, status: int) -> None:
        self.latency[number] = (self.loop.time() - self.began - self.due[number]) * 1e3
        self.status[number] = status
        self.answered += 1
        if self.waiting:
            connection.send(self.waiting.popleft())
        else:
            self.idle.append(connection)
        if self.answered >= self.count:
            self.ended.set()


class _Connection(asyncio.Protocol):
    def __init__(self, of: _Generator) -> None:
        self.of, self.number, self.buffer = of, -1, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.of.idle.append(self)

    def send(self, number: int) -> None:
        self.number = number
        self.transport.write(self.of.requests[number % len(self.of.requests)])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.buffer.lower().find(b"content-length:", 0, head)
        if len(self.buffer) < head + 4 + int(self.buffer[at + 15 : self.buffer.find(b"\r\n", at)]):
            return
        status, self.buffer = int(self.buffer[9:12]), b""
        self.of.done(self, self.number, status)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.of.idle:
            self.of.idle.remove(self)


class Offering:
    """A generator at work in its process."""

    def __init__(self, port: int, requests: list[bytes], per_s: float, seconds: float) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(port), str(per_s), str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([base64.b64encode(request).decode() for request in requests]).encode())
        self._child.stdin.close()

    def ended(self) -> Offered:
        """Wait for its end, and say what came of it."""
        assert self._child.stdout is not None
        said = json.loads(self._child.stdout.read())
        if self._child.wait(60) != 0:
            raise SystemExit("the load generator failed")
        return Offered(
            np.array(said["due_s"]), np.array(said["latency_ms"], np.float64), np.array(said["status"]), said["achieved_per_s"]
        )


def main() -> None:
    port, per_s, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    requests = [base64.b64decode(text) for text in json.loads(sys.stdin.buffer.read())]

    async def drive() -> _Generator:
        generator = _Generator(port, requests, per_s, seconds)
        await generator.run()
        return generator

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = runner.run(drive())
    print(json.dumps({
        "due_s": made.due.tolist(), "latency_ms": [None if x != x else x for x in made.latency.tolist()], "status": made.status.tolist(),
        "achieved_per_s": made.answered / made.took,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
