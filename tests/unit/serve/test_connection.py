"""Connections: what is read here, what is left to aiohttp, and how they end."""

from __future__ import annotations

import asyncio
import json

import pytest
from serve_rig import Listening, fed, listening, serving
from structlog.testing import capture_logs

from featureflow.models.store import ModelStore
from featureflow.serve.connection import ARRIVE_S, IDLE_S

BODY = json.dumps({"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}).encode()


def request(body: bytes = BODY, *, target: str = "tip", more: bytes = b"", length: bytes | None = None) -> bytes:
    head = b"POST /v1/score/%b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %b\r\n\r\n"
    return head % (target.encode(), more, b"%d" % len(body) if length is None else length) + body


async def read_one(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The next response: status, headers, body."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["Content-Length"]))


async def turns(n: int = 50) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def aiohttp_has(server: Listening) -> int:
    """Requests that aiohttp read."""
    return server.connections.others.requests_count


def test_plain_scores_are_answered_without_aiohttp_as_it_would_answer_them(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            answers = []
            for more in (b"X-Request-ID: mine\r\n", b"X-Request-ID: mine\r\nTE: trailers\r\n"):
                reader, writer = await asyncio.open_connection(server.host, server.port)
                for _ in range(3):
                    writer.write(request(more=more))
                    status, headers, body = await read_one(reader)
                    said = json.loads(body)
                    assert (status, headers["X-Request-ID"], said["request_id"]) == (200, "mine", "mine")
                answers.append((list(headers), {k: v for k, v in said.items() if k not in ("prediction_ids", "asked_at")}))
                writer.close()
                assert aiohttp_has(server) == (3 if b"TE" in more else 0)
            assert answers[0] == answers[1]
            assert serve.metrics.requests._counts == {("score", 200): 6}

    asyncio.run(go())


def test_refusals_of_plain_scores_are_problem_details(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            for sent, expected in (
                (request(b"{"), 400),
                (request(b"{}"), 422),
                (request(b""), 400),
                (request(target="tips"), 404),
                (request(target="tip@9"), 404),
                (request(), 200),
            ):
                writer.write(sent)
                status, headers, body = await read_one(reader)
                assert status == expected
                if status != 200:
                    assert headers["Content-Type"] == "application/problem+json"
                    assert json.loads(body)["request_id"] == headers["X-Request-ID"]
            writer.close()
            assert aiohttp_has(server) == 0

    asyncio.run(go())


def test_wherever_a_request_is_cut_it_is_answered(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            whole = request()
            reader, writer = await asyncio.open_connection(server.host, server.port)
            for at in range(1, len(whole)):
                writer.write(whole[:at])
                await turns(6)
                writer.write(whole[at:])
                assert (await read_one(reader))[0] == 200
            writer.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)).replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX"), 200),
        (request(more=b"Expect: 100-continue\r\n"), 200),
        (request(more=b"Content-Encoding: gzip\r\n"), 415),
        (request(more=b"Connection: close\r\n"), 200),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
        (request(more=b"Content-Length: 5\r\n"), 400),
        (request(more=b"Transfer-Encoding: chunked\r\n"), 400),
        (request(more=b"X: a\r\n b\r\n"), 400),
        (request(more=b"X : a\r\n"), 400),
        (request(more=b"X: \x00\r\n"), 400),
        (request(length=b"-1"), 400),
        (request(length=b"+5"), 400),
        (request(length=b"99999999"), 413),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v1/score/tip HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"POST /v1/score/a%2fb HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404),
    ],
)
def test_what_is_not_surely_plain_is_left_to_aiohttp(models: ModelStore, sent: bytes, status: int) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(sent)
            line = await asyncio.wait_for(reader.readline(), 30)
            assert int(line.split()[1]) == status
            assert aiohttp_has(server) == 1
            writer.close()

    asyncio.run(go())


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"hello\r\n\r\n", request(more=b"\xff: \xff\r\n")])
def test_what_is_no_http_is_answered_with_problem_details_and_one_line_in_the_log(
    models: ModelStore, capfd: pytest.CaptureFixture[str], sent: bytes
) -> None:
    async def go() -> None:
        async with serving(models) as serve, listening(serve) as server:
            capfd.readouterr()
            reader, writer = await asyncio.open_connection(server.host, server.port)
            with capture_logs() as logged:
                writer.write(sent)
                status, headers, body = await read_one(reader)
                assert await asyncio.wait_for(reader.read(), 30) == b""  # and it is closed
            assert (status, headers["Content-Type"]) == (400, "application/problem+json")
            assert json.loads(body)["status"] == 400
            assert [line["event"] for line in logged] == ["not_http"]
            writer.close()

    asyncio.run(go())
    assert "Traceback" not in "".join(capfd.readouterr())


def test_requests_sent_ahead_of_an_answer_are_answered_in_order(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            serve.reader.hold = asyncio.Event()
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(request(more=b"X-Request-ID: r0\r\n"))
            while not serve.reader.reads[-1:]:
                await asyncio.sleep(0)
            for i in range(1, 4):
                writer.write(request(more=b"X-Request-ID: r%d\r\n" % i))
                await turns()
            serve.reader.hold.set()
            assert [(await read_one(reader))[1]["X-Request-ID"] for _ in range(4)] == ["r0", "r1", "r2", "r3"]
            writer.close()

    asyncio.run(go())


def test_a_client_that_asks_for_scores_and_does_not_read_cannot_fill_the_servers_memory(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port, limit=1_000)
            rows = [{"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}] * 200
            one = request(json.dumps({"rows": rows, "explain": True}).encode())
            counts, asked = serve.metrics.requests._counts, 0
            while not (held := server.connections.others.connections):  # one at a time, each answered, none read
                writer.write(one)
                asked += 1
                while not held and sum(counts.values()) < asked:
                    await asyncio.sleep(0)
                    held = server.connections.others.connections
                assert asked < 200
            transport = held[0].transport
            assert transport is not None
            assert transport.get_write_buffer_size() < 4_000_000
            writer.transport.abort()
            assert reader is not None

    asyncio.run(go())


def test_a_request_under_way_is_answered_before_its_connection_is_closed_and_idle_ones_are_closed_at_once(
    models: ModelStore,
) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            idle, idle_writer = await asyncio.open_connection(server.host, server.port)
            part, part_writer = await asyncio.open_connection(server.host, server.port)
            part_writer.write(request()[:40])
            serve.reader.hold = asyncio.Event()
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(request())
            while not serve.reader.reads[-1:]:
                await asyncio.sleep(0)
            closing = asyncio.ensure_future(server.connections.close(30))
            for one in (idle, part):
                assert await asyncio.wait_for(one.read(), 30) == b""
            assert not closing.done()
            serve.reader.hold.set()
            status, headers, _ = await read_one(reader)
            assert (status, headers["Connection"]) == (200, "close")
            assert await asyncio.wait_for(reader.read(), 30) == b""
            await closing
            for one_writer in (idle_writer, part_writer, writer):
                one_writer.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("sent", "part"),
    [
        (b"P", "header"),
        (request()[:40], "header"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", "header"),
        (request()[:-1], "body"),
        (request(b"", length=b"5"), "body"),
    ],
)
def test_a_request_that_does_not_come_whole_is_told_so_counted_and_closed(models: ModelStore, sent: bytes, part: str) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(sent)
            while not any(one._kept for one in server.connections._open):
                await asyncio.sleep(0)
            now = server.connections.loop.time()
            (one,) = server.connections._open
            one.look(now + ARRIVE_S - 1)
            assert server.connections._open
            one.look(now + ARRIVE_S + 1)
            status, headers, body = await read_one(reader)
            said = json.loads(body)
            assert (status, said["title"], headers["Connection"]) == (408, f"{part.capitalize()} too slow", "close")
            assert await asyncio.wait_for(reader.read(), 30) == b""
            assert serve.metrics.too_slow.labels(part)._value.get() == 1
            assert aiohttp_has(server) == 0
            writer.close()

    asyncio.run(go())


def test_idle_connections_are_closed(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models) as serve, listening(serve) as server:
            idle, idle_writer = await asyncio.open_connection(server.host, server.port)
            while not server.connections._open:
                await asyncio.sleep(0)
            for one in list(server.connections._open):
                one.look(server.connections.loop.time() + IDLE_S + 1)
            assert await asyncio.wait_for(idle.read(), 30) == b""
            idle_writer.close()

    asyncio.run(go())


def test_one_connection_more_than_there_may_be_is_told_so_and_closed(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve, connections=2) as server:
            first, first_writer = await asyncio.open_connection(server.host, server.port)
            _, second_writer = await asyncio.open_connection(server.host, server.port, local_addr=("127.0.0.2", 0))
            second_writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")  # aiohttp has this one, and it counts
            while aiohttp_has(server) < 1:
                await asyncio.sleep(0)
            third, third_writer = await asyncio.open_connection(server.host, server.port)
            status, headers, body = await read_one(third)
            assert (status, headers["Retry-After"], headers["Connection"]) == (503, "1", "close")
            assert "connections" in json.loads(body)["detail"]
            assert await asyncio.wait_for(third.read(), 30) == b""
            first_writer.write(request())
            assert (await read_one(first))[0] == 200
            assert serve.metrics.shed.labels("connections")._value.get() == 1
            for writer in (first_writer, second_writer, third_writer):
                writer.close()

    asyncio.run(go())


def test_while_requests_are_refused_a_body_is_not_read_unless_it_says_something_of_it(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)

            async def ask(body: bytes, more: bytes = b"") -> tuple[int, dict[str, str], dict[str, str]]:
                writer.write(request(body, more=b"X-Deadline-Ms: 0.00001\r\n" + more))
                status, headers, answer = await read_one(reader)
                return status, headers, json.loads(answer)

            assert (await ask(b"no JSON"))[0] == 400  # nobody is being refused yet
            assert (await ask(BODY))[0] == 503
            serve.scorer.lanes.quick.admission.refused_s = float("inf")  # just now, for as long as this takes
            for more, request_id in ((b"", None), (b"X-Request-ID: mine\r\n", "mine"), (b'X-Request-ID: m"ine\r\n', 'm"ine')):
                status, headers, answer = await ask(b"no JSON", more)
                assert (status, answer["status"], headers["Retry-After"]) == (503, 503, "1")
                assert headers["Content-Type"] == "application/problem+json"
                assert headers["X-Request-ID"] == answer["request_id"]
                assert request_id in (None, answer["request_id"])
            assert (await ask(b'no JSON "deadline_ms"'))[0] == 400
            assert (await ask(b'no JSON "priority"'))[0] == 400
            assert (await ask(b"no JSON", b"X-Priority: batch\r\n"))[0] == 503
            assert serve.metrics.shed.labels("predicted_late")._value.get() == 5
            writer.write(request())
            assert (await read_one(reader))[0] == 200
            writer.close()

    asyncio.run(go())


def test_a_caller_who_leaves_is_not_waited_for_and_takes_nobody_along(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            serve.reader.hold = asyncio.Event()
            _, gone = await asyncio.open_connection(server.host, server.port)
            reader, writer = await asyncio.open_connection(server.host, server.port)
            gone.write(request())
            writer.write(request())
            while not serve.reader.reads[-1:]:
                await asyncio.sleep(0)
            gone.transport.abort()
            while len(server.connections._open) > 1:
                await asyncio.sleep(0)
            serve.reader.hold.set()
            assert (await read_one(reader))[0] == 200
            writer.close()
            assert len(serve.logged()) == 1

    asyncio.run(go())
