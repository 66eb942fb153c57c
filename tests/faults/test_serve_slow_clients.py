"""Clients that send as slowly as they can: each is cut off however long it goes on, and everybody else is answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator

import pytest
from processes import until
from scorer_process import BODY, Scorer, request, survives

SLOW, EACH_S = 40, 0.05                    # connections of each kind, and the pause between two bytes of one
PATIENCE_S = 60.0
LIMITS = (
    "import functools, socket; connection.IDLE_S, connection.ARRIVE_S, connection.LOOK_S = 1.5, 1.0, 0.1; "
    "app.Routes = functools.partial(app.Routes, body_s=1.0); "
    "app.bind = lambda *of, bind=app.bind, **more: "     # what the kernel takes of an answer that nobody reads is small
    "(made := bind(*of, **more), made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096))[0]"
)
LARGE = request(json.dumps({"rows": [json.loads(BODY)] * 600, "explain": True}).encode())
UNREAD = {
    "one score": LARGE,
    "a score, and a part of another": LARGE + request()[:-1],
    "scores, one after another": LARGE * 10,
    "answers of aiohttp's": b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
    "an answer of aiohttp's, the last": b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}
FIELD = b"X-%d: a\r\n"
MANY = b"".join(FIELD % i for i in range(60))
KINDS = {
    "a score's head": (b"", b"POST /v1/score/tip HTTP/1.1\r\nHost: x\r\n" + MANY),
    "another head": (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + MANY),
    "a head that names no method": (b"", b"A" * 1_000),
    "a second request's head": (request(), b"POST /v1/score/tip HTTP/1.1\r\nHost: x\r\n" + MANY),
    "the second head of a connection that aiohttp has": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.1\r\n" + MANY),
    "a score's body": (request(length=1_000)[: -len(BODY)], b" " * 999),
    "a large body": (request(length=500_000)[: -len(BODY)], b" " * 999),
    "events": (request(path="/v1/events/trip", length=1_000)[: -len(BODY)], b" " * 999),
    "chunks": (b"POST /v1/score/tip HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 200),
}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    with Scorer(tmp_path_factory.mktemp("scorer"), LIMITS) as made:
        yield made


async def _drip(port: int, at_once: bytes, slowly: bytes) -> bytes:
    """What the connection was told until it was closed. It never ends by itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = bytearray()

    async def listen() -> None:            # at once: a reset takes along what nobody has read yet
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65_536):
                said.extend(part)

    told = asyncio.ensure_future(listen())
    try:
        writer.write(at_once)
        number = 0
        with contextlib.suppress(ConnectionError):
            while not told.done():
                writer.write(slowly[number % len(slowly) : number % len(slowly) + 1])
                number += 1
                await asyncio.wait([told], timeout=EACH_S)
                await writer.drain()
        await told
        return bytes(said)
    finally:
        told.cancel()
        writer.transport.abort()


def test_a_slow_client_is_cut_off_and_everybody_else_is_answered(scorer: Scorer) -> None:
    async def go() -> dict[str, list[bytes]]:
        async with asyncio.timeout(PATIENCE_S):
            dripping = {
                name: [asyncio.ensure_future(_drip(scorer.port, *kind)) for _ in range(SLOW)] for name, kind in KINDS.items()
            }
            while not all(one.done() for several in dripping.values() for one in several):
                assert await asyncio.to_thread(scorer.score) == 200
                await asyncio.sleep(0.05)
            return {name: [one.result() for one in several] for name, several in dripping.items()}

    with survives(scorer):
        told = asyncio.run(go())
    for name, several in told.items():
        for said in several:
            statuses = [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]
            assert statuses[-1:] in ([], [200], [400], [408]), (name, said)
            if "body" in name or name in ("events", "chunks"):
                assert statuses == [408], (name, said)


def test_connections_that_send_nothing_are_closed(scorer: Scorer) -> None:
    async def go() -> list[bytes]:
        async with asyncio.timeout(PATIENCE_S):
            made = [await asyncio.open_connection("127.0.0.1", scorer.port) for _ in range(100)]
            for _ in range(100):
                made.append(await asyncio.open_connection("127.0.0.1", scorer.port))
                made[-1][1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")      # at once: the last of them may come late
            said = [await reader.read() for reader, _ in made]
            for _, writer in made:
                writer.close()
            return said

    with survives(scorer):
        said = asyncio.run(go())
    assert said[:100] == [b""] * 100
    assert all(one.count(b"HTTP/1.1 200") == 1 for one in said[100:])


@pytest.mark.parametrize("kind", UNREAD)
def test_a_client_that_reads_no_answer_is_let_go(scorer: Scorer, kind: str) -> None:
    with survives(scorer), contextlib.ExitStack() as exits:
        before = most = scorer.files()
        for _ in range(10):
            sock = exits.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", scorer.port))
            sock.settimeout(0.2)
            with contextlib.suppress(TimeoutError, ConnectionError):
                sock.sendall(UNREAD[kind])
            most = max(most, scorer.files())   # the first may be gone before the last comes
        until(lambda: max(most, scorer.files()) > before, "they are there")
        until(lambda: scorer.files() <= before, "they are let go, and read nothing")
