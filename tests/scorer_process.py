"""A scorer as a process of its own, on an embedded store, and raw connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import resource
import socket
import struct
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import redis
from processes import Process, until
from serve_rig import WITH_MODELS, Rig, models_in

from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.store.mirror import PROJECT_DOCUMENT
from featureflow.store.online.embedded import EmbeddedServer
from featureflow.store.online.redis import RedisOnlineStore

PREDICTIONS = system.predictions(DEFAULT_PROJECT)
BODY = json.dumps({"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}).encode()
SILENCE_S = 0.25                           # after which a connection is taken not to be answered for now
PROGRAM = """
    import sys
    from pathlib import Path
    from featureflow.clock import SystemClock
    from featureflow.define.system import predictions
    from featureflow.models.store import ModelStore
    from featureflow.serve import app, body, connection
    from featureflow.serve.app import ServeOptions
    from featureflow.store.log.memory import MemoryLog

    {before}
    log = MemoryLog()
    log.ensure_topic(predictions("default").topic, 1)
    log.ensure_topic("trips", 1)
    app.run(project="default", online_url=sys.argv[1], log_store=log, models=ModelStore(Path(sys.argv[2]), provider="cpu"),
            clock=SystemClock(), options=ServeOptions(port=0), started=lambda url: print(url, flush=True))
"""


class Scorer:
    """A running scorer. ``before``: statements that shorten its time-outs."""

    def __init__(self, folder: Path, before: str = "") -> None:
        self.process: Process
        self._exits = contextlib.ExitStack()
        server = self._exits.enter_context(EmbeddedServer(folder / "store"))
        fed(server.url)
        models = models_in(folder / "models")
        program = textwrap.dedent(PROGRAM).replace("{before}", before)
        self.process = Process([sys.executable, "-c", program, server.url, models.path], os.environ, folder / "scorer")
        self._exits.callback(self.process.close)
        self.process.wait_for("http://127.0.0.1:")
        self.port = int(self.process.out().strip().rpartition(":")[2])
        until(lambda: self.get("/readyz")[0] == 200, "/readyz")

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def get(self, path: str) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if "json" in answer.headers["Content-Type"] else text.decode()

    def score(self) -> int:
        """The status of a right request."""
        with contextlib.closing(self.open()) as sock:
            sock.sendall(request())
            return answers(sock, 1)[0][0]

    def open(self, address: str = "127.0.0.1") -> socket.socket:
        """A connection that comes from that address."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(address, 0))

    def metric(self, name: str) -> float:
        """The sum over its labels, or of one where they are named."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def faults(self) -> int:
        """Answers with another 5xx than 503, as the scorer counts them."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith("featureflow_requests_total{")]
        return sum(int(float(line.rpartition(" ")[2])) for line in lines if 'status="5' in line and 'status="503"' not in line)

    def files(self) -> int:
        """Open files and sockets."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rss_mb(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def fed(url: str, count: int = 200) -> None:
    """Definitions and events, folded by the real worker into the store at ``url``."""
    online = RedisOnlineStore(url)
    with redis.Redis.from_url(url) as client:
        client.flushall()
    rig = Rig(online=online)
    online.put_meta(PROJECT_DOCUMENT, msgspec.json.encode(WITH_MODELS))
    rig.produce(count)
    worker = rig.worker()
    worker.open()
    rig.drain(worker)
    worker.close()
    online.close()


def request(body: bytes = BODY, *, path: str = "/v1/score/tip", more: bytes = b"", length: int | None = None) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n"
    return head % (path.encode(), more, len(body) if length is None else length) + body


def answers(sock: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """That many responses from one connection: status, headers in lower case, body. Raises ConnectionError where it ends before."""
    found, reader = [], sock.makefile("rb")
    for _ in range(count):
        found.append(one_answer(reader))
    return found


def one_answer(reader: Any) -> tuple[int, dict[str, str], bytes]:
    line = reader.readline()
    if not line:
        raise ConnectionError("closed without an answer")
    status, headers = int(line.split()[1]), {}
    while (header := reader.readline().rstrip(b"\r\n")):
        name, _, value = header.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, b"" if status == 100 else reader.read(int(headers["content-length"]))


def reset(sock: socket.socket) -> None:
    """Close it as a client does that is gone: with a reset, whatever was on its way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def statuses(port: int, sent: bytes, least: int = 0) -> list[int]:
    """What one connection is told until it falls silent or ends, once it was told ``least`` times. Raises AssertionError for bytes that
    are no response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found: list[int] = []
    try:
        writer.write(sent)
        while True:
            line = await asyncio.wait_for(reader.readline(), SILENCE_S if len(found) >= least else 60)
            if not line:
                return found
            assert line.startswith(b"HTTP/"), line
            found.append(int(line.split()[1]))
            length = 0
            while line := (await asyncio.wait_for(reader.readline(), 60)).rstrip(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            await asyncio.wait_for(reader.readexactly(length), 60)
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        return found
    finally:
        writer.transport.abort()


@contextlib.contextmanager
def survives(scorer: Scorer, *, files: int = 8, grows_mb: float = 48.0) -> Iterator[None]:
    """Whatever happens within: the scorer lives, says no 5xx but 503, lets go of every connection, keeps its memory, and answers."""
    assert scorer.score() == 200
    before_files, before_mb = scorer.files(), scorer.rss_mb()
    yield
    assert scorer.process.running(), scorer.process.said()[-3_000:]
    until(lambda: scorer.files() <= before_files + files, "its connections are gone")
    until(lambda: scorer.metric("pending_stream_count") == scorer.metric("model_active_streams") == 0, "nothing is under way")
    assert scorer.faults() == 0
    assert "Traceback" not in scorer.process.err()
    assert scorer.rss_mb() < before_mb + grows_mb
    until(lambda: scorer.score() == 200, "a score")
