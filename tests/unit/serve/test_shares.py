"""One caller's share of what a scorer holds: of bodies by API key or address, of connections by address. What is taken is given back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product

import pytest
from serve_rig import Listening, fed, listening, serving

from featureflow import limits
from featureflow.models.store import ModelStore
from featureflow.serve.connection import ARRIVE_S, IDLE_S

BODY = json.dumps({"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}).encode()
GREEDY, OTHER = "127.0.0.2", "127.0.0.3"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def post(body: bytes, *, path: str = "/v1/score/tip", more: bytes = b"", length: int | None = None) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n"
    return head % (path.encode(), more, len(body) if length is None else length) + body


class Clients:
    """Of one server. They close what they have opened."""

    def __init__(self, server: Listening) -> None:
        self._server = server
        self._open: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *error: object) -> None:
        for writer in self._open:
            writer.close()

    async def connect(self, address: str, sent: bytes = b"") -> Streams:
        reader, writer = await asyncio.open_connection(self._server.host, self._server.port, local_addr=(address, 0))
        self._open.append(writer)
        writer.write(sent)
        return reader, writer

    async def ask(self, address: str, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """What one connection is told, and then closed."""
        streams = await self.connect(address, sent)
        answer = await told(streams)
        streams[1].close()
        return answer


async def told(streams: Streams) -> tuple[int, dict[str, str], bytes]:
    """The next response: status, headers, body."""
    head = (await asyncio.wait_for(streams[0].readuntil(b"\r\n\r\n"), 30)).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await streams[0].readexactly(int(headers["Content-Length"]))


def shed(server: Listening, reason: str) -> float:
    return float(server.rig.metrics.shed.labels(reason)._value.get())


async def ended(server: Listening) -> None:
    """Until every connection is."""
    while server.connections._open or server.connections.others.connections:
        await asyncio.sleep(0)


@pytest.mark.parametrize("by", ["key", "address"])
def test_a_caller_who_holds_all_the_bodies_that_it_can_keeps_nobody_else_from_being_answered(models: ModelStore, by: str) -> None:
    most, each = 900_000, 150_000

    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve, bodies_bytes=most) as server, Clients(server) as clients:
            bodies, slow, refused = server.connections.routes.bodies, [], None
            address, whose = (GREEDY, b"") if by == "address" else (OTHER, b"X-API-Key: greedy\r\n")
            while refused is None:
                slow.append(await clients.connect(address, post(b" " * each, path="/v1/events/trip", more=whose, length=each + 1)))
                answer = asyncio.ensure_future(told(slow[-1]))
                while bodies.held.taken < len(slow) * each and not answer.done():
                    await asyncio.sleep(0)
                if answer.done():
                    refused = answer.result()
                    slow.pop()[1].close()
                else:
                    answer.cancel()
            large = BODY + b" " * 90_000
            assert (await clients.ask(OTHER, post(large)))[0] == 200
            assert (await clients.ask(OTHER, post(large, more=b"X-API-Key: modest\r\n")))[0] == 200
            status, headers, problem = refused
            assert (status, headers["Retry-After"]) == (503, "1")
            assert f"of the {most:,} bytes" in json.loads(problem)["detail"]
            assert (shed(server, "bodies_share"), shed(server, "bodies")) == (1, 0)
            assert bodies.held.taken == len(slow) * each == 5 * each
            for _, writer in slow:
                writer.write(b" ")
            for one in slow:
                assert (await told(one))[0] == 422
                one[1].close()
            await ended(server)
            assert (bodies.held.taken, bodies.held.by_caller) == (0, {})

    asyncio.run(go())


def test_an_address_that_holds_all_the_connections_that_it_can_keeps_no_other_from_being_answered(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve, connections=18) as server, Clients(server) as clients:
            held, status = [], 200
            while status == 200:                               # aiohttp has every other one
                held.append(await clients.connect(GREEDY, HEALTH if len(held) % 2 else post(BODY)))
                status, headers, problem = await told(held[-1])
            assert await asyncio.wait_for(held[-1][0].read(), 30) == b""
            held.pop()[1].close()
            for sent in (post(BODY), HEALTH):
                assert (await clients.ask(OTHER, sent))[0] == 200
                while server.connections.held.taken > len(held):
                    await asyncio.sleep(0)
            assert (status, headers["Retry-After"], headers["Connection"]) == (503, "1", "close")
            assert "share" in json.loads(problem)["detail"]
            assert (shed(server, "connections_share"), shed(server, "connections")) == (1, 0)
            assert len(held) == 16
            held.pop()[1].close()
            while server.connections.held.taken > 15:
                await asyncio.sleep(0)
            assert (await clients.ask(GREEDY, HEALTH))[0] == 200
            for _, writer in held:
                writer.close()
            await ended(server)
            assert (server.connections.held.taken, server.connections.held.by_caller) == (0, {})

    asyncio.run(go())


@asynccontextmanager
async def leaking_nothing(models: ModelStore, *, body_s: float = 10.0, connections: int = 8) -> AsyncIterator[tuple[Listening, Clients]]:
    """A scorer that holds nothing of anybody once its connections have ended."""
    async with (
        serving(models, rig=fed(200)) as serve,
        listening(serve, body_s=body_s, connections=connections, bodies_bytes=1_200_000) as server,
    ):
        async with Clients(server) as clients:
            yield server, clients
        await ended(server)
        for held in (server.connections.held, server.connections.routes.bodies.held):
            assert (held.taken, held.by_caller) == (0, {})


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b"", more=b"TE: x\r\n"), 400),
        (post(BODY, more=b"TE: x\r\n") * 2, 200),
        (post(BODY, more=b"Content-Encoding: gzip\r\n"), 415),
        (post(b" " * 100_000, path="/v1/score/nobody"), 404),
        (post(b" " * 100_000, more=b"X-API-Key: %b\r\n" % (b"k" * 300)), 422),
        (post(b"", length=limits.REQUEST_BYTES + 1), 413),
        (b"POST /v1/score/tip HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n%b\r\n" % (b" " * 65_535) * 17, 413),
        (b"POST /v1/score/tip HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\nzz\r\n", 400),
        (post(b" ", length=100_000), 408),
    ],
)
def test_a_body_is_given_back_however_its_request_ends(models: ModelStore, sent: bytes, status: int) -> None:
    async def go() -> None:
        async with leaking_nothing(models, body_s=0.05 if status == 408 else 10.0) as (_, clients):
            assert (await clients.ask(OTHER, sent))[0] == status

    asyncio.run(go())


def test_bodies_of_callers_who_leave_and_of_those_who_are_refused_are_given_back(models: ModelStore) -> None:
    async def go() -> None:
        async with leaking_nothing(models) as (server, clients):
            bodies, slow = server.connections.routes.bodies, []
            for each in (500_000, 400_000):
                slow.append(await clients.connect(GREEDY, post(b" " * each, path="/v1/events/trip", length=each + 1)))
            while bodies.held.taken < 900_000:
                await asyncio.sleep(0)
            for address, size, reason in ((GREEDY, 300_000, "bodies_share"), (OTHER, 400_000, "bodies")):
                before = shed(server, reason)
                assert (await clients.ask(address, post(b" " * size)))[0] == 503
                assert shed(server, reason) == before + 1
            for _, writer in slow:
                writer.transport.abort()

    asyncio.run(go())


def test_a_connection_is_given_back_however_it_ends(models: ModelStore) -> None:
    async def go() -> None:
        async with leaking_nothing(models, connections=9) as (server, clients):
            held, reader = server.connections.held, server.rig.reader
            for sent in (b"", post(BODY)[:-1], HEALTH[:-1], post(BODY), HEALTH, post(BODY) * 3, b"\x16\x03\x01 no HTTP\r\n\r\n"):
                for rounds, abort in product((0, 1, 2, 3, 5, 50), (True, False)):
                    streams = await clients.connect(OTHER, sent)
                    while held.taken < 1:
                        await asyncio.sleep(0)
                    for _ in range(rounds):                    # of the event loop: it ends here and there on its way
                        await asyncio.sleep(0)
                    streams[1].transport.abort() if abort else streams[1].close()
                    await ended(server)
                    assert held.by_caller == {}
            assert (await clients.ask(OTHER, HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))[0] == 200
            await ended(server)
            reader.hold = asyncio.Event()                      # gone while its request is under way
            streams = await clients.connect(OTHER, post(BODY))
            while not reader.reads[-1:]:
                await asyncio.sleep(0)
            streams[1].transport.abort()
            await ended(server)
            reader.hold.set()
            kept = [await clients.connect(OTHER, HEALTH) for _ in range(8)]
            assert [(await told(one))[0] for one in kept] == [200] * 8
            away = await clients.connect(OTHER)
            assert (await told(away))[0] == 503
            assert await asyncio.wait_for(away[0].read(), 30) == b""
            for _ in range(50):
                await asyncio.sleep(0)
            assert held.taken == 8                             # who was turned away had taken nothing
            for _, writer in kept:
                writer.close()
            await ended(server)
            streams, late = await clients.connect(OTHER), await clients.connect(OTHER, post(BODY)[:-1])
            while len(server.connections._open) < 2 or not any(one._kept for one in server.connections._open):
                await asyncio.sleep(0)
            for one in list(server.connections._open):
                one.look(server.connections.loop.time() + max(IDLE_S, ARRIVE_S) + 1)
            assert await asyncio.wait_for(streams[0].read(), 30) == b""
            assert (await told(late))[0] == 408

    asyncio.run(go())


def test_a_connection_counts_once_when_it_is_handed_over_and_until_its_request_has_ended(models: ModelStore) -> None:
    async def go() -> None:
        async with leaking_nothing(models) as (server, clients):
            held, reader = server.connections.held, server.rig.reader
            streams = await clients.connect(OTHER, post(BODY))
            assert (await told(streams))[0] == 200
            assert list(held.by_caller.values()) == [1]
            streams[1].write(HEALTH)
            assert (await told(streams))[0] == 200
            assert (list(held.by_caller.values()), len(server.connections.others.connections)) == ([1], 1)
            reader.hold = asyncio.Event()
            before = len(reader.reads)
            streams[1].write(post(BODY, more=b"TE: x\r\n"))
            while len(reader.reads) == before:
                await asyncio.sleep(0)
            streams[1].transport.abort()
            (other,) = server.connections.others.connections
            while other.transport is not None:
                await asyncio.sleep(0)
            assert held.taken == 1                             # who leaves and comes again has no more requests under way than others
            reader.hold.set()

    asyncio.run(go())


def test_a_server_that_ends_gives_back_what_it_holds(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server, Clients(server) as clients:
            reader, connections, bodies = serve.reader, server.connections, server.connections.routes.bodies.held
            plain, other = await clients.connect(OTHER, post(BODY)), await clients.connect(OTHER, HEALTH)  # both wait for a next request
            assert ((await told(plain))[0], (await told(other))[0]) == (200, 200)
            await clients.connect(GREEDY)
            await clients.connect(GREEDY, post(b" " * 100_000, path="/v1/events/trip", length=100_001))
            reader.hold = asyncio.Event()
            before = len(reader.reads)
            await clients.connect(OTHER, post(BODY))
            await clients.connect(OTHER, post(BODY + b" " * 100_000))
            while len(reader.reads) == before or bodies.taken < 200_000 or connections.held.taken < 6:
                await asyncio.sleep(0)
            await connections.close(0.05)
            for held in (connections.held, bodies):
                while held.taken:
                    await asyncio.sleep(0)
                assert held.by_caller == {}
            reader.hold.set()

    asyncio.run(go())
