"""An open-loop HTTP load generator, a process of its own: requests leave when they are due, whatever becomes of those before.

Latency counts from the instant at which a request was due, so a server that stalls cannot make the load wait for it. Due instants are
random (Poisson). Raw sockets, one epoll and prebuilt bytes: about a tenth of what the same costs an event loop with transports, as it
shares two cores with what it measures. One request per connection at a time; where all are busy a request waits, and its latency runs.

    python open_load.py '{"port": ..., "rate": ..., "seconds": ..., "connections": ..., "requests": FILE, "deadline_ms": ...}'

prints one JSON object: see ``Report``.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

SETTLE_S = 2.0  # after the last is due, for the answers that are on their way
READ_BYTES = 65_536
NICE = -10  # what this process makes itself, where it may
WARM_S = 0.5  # at the beginning, of which nothing counts


class Report(msgspec.Struct):
    """``offered_req_s`` is what was sent. Percentiles are of milliseconds since the request was due; null where there was none.

    ``good``: answered 200 within the deadline. ``seen``: (due, answered, 200, degraded) of each, in seconds of the machine's clock, where
    that was asked for.
    """

    seconds: float
    intended_req_s: float
    offered_req_s: float
    goodput_req_s: float
    accepted: int
    shed: int
    other: int
    unanswered: int
    degraded: int
    reconnected: int
    p50_accepted_ms: float | None
    p99_accepted_ms: float | None
    max_accepted_ms: float | None
    p50_shed_ms: float | None
    p99_shed_ms: float | None
    behind_p99_ms: float  # how late the generator sent
    cpu_share: float  # of a core, that the generator took
    nice: int  # of the generator; below 0 where it may go first
    seen: list[tuple[float, float, bool, bool]]


class Generator:
    """One run."""

    def __init__(self, port: int, requests: list[bytes], connections: int) -> None:
        self.port, self.requests = port, requests
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.free: list[int] = []
        self.asked: dict[int, int] = {}  # fd -> number of the request
        self.parts: dict[int, bytes] = {}
        self.reconnected = 0
        for _ in range(connections):
            self._connect()

    def _connect(self) -> None:
        made = socket.create_connection(("127.0.0.1", self.port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        self.sockets[made.fileno()] = made
        self.free.append(made.fileno())
        self.epoll.register(made.fileno(), select.EPOLLIN)

    def run(self, due: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[Any, Any, Any, Any]:
        """due: seconds from now, rising -> when each was sent and answered, its status (0: none), and whether it was degraded."""
        n, at, clock = len(due), 0, time.perf_counter
        times = due.tolist()
        sent, answered, status, degraded = [0.0] * n, [0.0] * n, [0] * n, [False] * n
        late: deque[int] = deque()
        free, asked, requests, sockets, kinds = self.free, self.asked, self.requests, self.sockets, len(self.requests)
        began = clock()
        until = times[-1] + SETTLE_S
        self.began = time.time()
        while True:
            now = clock() - began
            while at < n and times[at] <= now:
                late.append(at)
                at += 1
            while late and free:
                number, fd = late.popleft(), free.pop()
                asked[fd] = number
                sent[number] = clock() - began
                try:
                    sockets[fd].send(requests[number % kinds])
                except OSError:
                    self._lost(fd)
            if (at == n and not late and not asked) or now > until:
                return sent, answered, status, degraded
            wait = max(0.0, times[at] - (clock() - began)) if at < n else 0.05
            if wait > 0.0 and not (late and free):
                select.select([self.epoll], [], [], min(wait, 0.05))  # to the microsecond, which epoll's own time-out is not
            for fd, _ in self.epoll.poll(0):
                try:
                    data = sockets[fd].recv(READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    self._lost(fd)
                    continue
                if fd in self.parts:
                    data = self.parts.pop(fd) + data
                if not _whole(data):
                    self.parts[fd] = data
                    continue
                number = asked.pop(fd)
                answered[number] = clock() - began
                code = int(data[9:12])
                status[number] = code
                degraded[number] = code == 200 and b'"degraded":[]' not in data
                free.append(fd)

    def _lost(self, fd: int) -> None:
        """The server closed it; the request that was under way has no answer."""
        self.epoll.unregister(fd)
        self.sockets.pop(fd).close()
        self.asked.pop(fd, None)
        self.parts.pop(fd, None)
        if fd in self.free:
            self.free.remove(fd)
        self.reconnected += 1
        self._connect()


def _whole(data: bytes) -> bool:
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    at = data.find(b"Content-Length: ", 0, head)
    return len(data) >= head + 4 + int(data[at + 16 : data.find(b"\r\n", at)])


def drive(told: dict[str, Any]) -> Report:
    """One level, as ``told`` says."""
    requests = pickle.loads(Path(told["requests"]).read_bytes())  # our own
    rate, seconds = told["rate"], told["seconds"]
    warm = min(WARM_S, seconds / 4)
    chance = np.random.default_rng(told.get("seed", 1))
    due = np.cumsum(chance.exponential(1 / rate, int(rate * (seconds + warm) * 1.1) + 50))
    due = due[due < seconds + warm]
    generator = Generator(told["port"], requests, told["connections"])
    gc.disable()
    nice = _first()
    cpu = time.process_time()
    listed = generator.run(due)
    cpu = time.process_time() - cpu
    counts = due >= warm
    sent, answered, status, degraded = (np.array(one)[counts] for one in listed)
    due = due[counts]
    took = (answered - due) * 1e3
    ok, shed = status == 200, status == 503
    within = (sent > 0) & (sent <= seconds + warm)
    behind = (sent - due)[sent > 0] * 1e3
    seen = []
    if told.get("seen"):
        shift = generator.began
        seen = [
            (round(shift + d, 4), round(shift + a, 4), True, bool(g))
            for d, a, g in zip(due[ok].tolist(), answered[ok].tolist(), degraded[ok].tolist(), strict=True)
        ]
    return Report(
        seconds=seconds, intended_req_s=round(rate, 1), offered_req_s=round(float(within.sum()) / seconds, 1),
        goodput_req_s=round(float((ok & (took <= told["deadline_ms"])).sum()) / seconds, 1),
        accepted=int(ok.sum()), shed=int(shed.sum()), other=int(((status != 0) & ~ok & ~shed).sum()), unanswered=int((status == 0).sum()),
        degraded=int(degraded.sum()), reconnected=generator.reconnected,
        p50_accepted_ms=_percentile(took[ok], 50), p99_accepted_ms=_percentile(took[ok], 99), max_accepted_ms=_percentile(took[ok], 100),
        p50_shed_ms=_percentile(took[shed], 50), p99_shed_ms=_percentile(took[shed], 99),
        behind_p99_ms=_percentile(behind, 99) or 0.0, cpu_share=round(cpu / (seconds + warm), 3), nice=nice, seen=seen,
    )  # fmt: skip


def _first() -> int:
    """It stands for other machines: where that is allowed, it is given a processor as soon as a request is due. Its niceness."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
    return os.getpriority(os.PRIO_PROCESS, 0)


def _percentile(values: Any, at: float) -> float | None:
    return round(float(np.percentile(values, at)), 3) if len(values) else None


class Run:
    """A run in a process of its own. It writes to a file: what it has seen is more than a pipe holds that nobody reads yet."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  # ``end`` closes it
        self._process = subprocess.Popen([sys.executable, __file__, json.dumps(told)], stdout=self._out)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def end(self, seconds: float) -> Report:
        """What it found, which is waited for, for ``seconds`` and one minute at most."""
        with self._out as out:
            if self._process.wait(seconds + 60):
                raise SystemExit("the load generator failed")
            out.seek(0)
            return msgspec.json.decode(out.read().splitlines()[-1], type=Report)


if __name__ == "__main__":
    print(msgspec.json.encode(drive(json.loads(sys.argv[1]))).decode())
