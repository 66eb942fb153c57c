"""Clients that are wrong, gone or hostile, at a scorer that runs as a process: 4xx or nothing, never 500, and it lets go of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from processes import until
from scorer_process import BODY, SILENCE_S, Scorer, answers, one_answer, request, reset, statuses, survives

from featureflow import limits

AT_ONCE = 64
MOST = 500                                 # connections
MOST_BYTES = 4_000_000                     # of bodies
GREEDY = "127.0.0.2"
MUTATIONS = 400
BODIES = 400
CHUNKED = request(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)).replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX")
EVENT = json.dumps({"at": 1_700_000_000_000_000, "rider": "ada", "zone": 7, "fare": 1.5}).encode()
ASKED = json.dumps({"entities": ["ada", None]}).encode()
GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
RIGHT = (
    request(), request(more=b"X-Request-ID: one\r\ntraceparent: 00-%b-%b-01\r\n" % (b"a" * 32, b"b" * 16)), CHUNKED,
    request(EVENT, path="/v1/events/trip"), request(b"[" + EVENT + b"]", path="/v1/events/trip"),
    request(ASKED, path="/v1/features/rider_now"), GET % b"/v1/features/rider_now/ada",
    GET % b"/v1/features/zone_now/7?at=1700000000000000",
    GET % b"/v1/models", GET % b"/readyz", request(more=b"Expect: 100-continue\r\n"), request(path="/v1/score/tip@1"),
)  # fmt: skip
PUT_IN = (b"\r\n", b"\r", b"\n", b"\0", b": ", b"\r\n ", b"Content-Length: 5\r\n", b'"', b"{" * 300, b"9" * 400)
POSTED = ("/v1/score/tip", "/v1/score/strict", "/v1/events/trip", "/v1/features/rider_now", "/v1/features/zone_now")

UNKNOWN = request(path="/v1/score/tip@nobody")
RARE: list[tuple[bytes, list[int]]] = [
    (request(more=b"Expect: 100-continue\r\n"), [200]),          # it did not wait for leave
    (request(more=b"Expect: 200-ok\r\n"), [200]),
    (CHUNKED, [200]),
    (CHUNKED.replace(b"\r\n0\r\n\r\n", b"\r\n0\r\nTrailer: x\r\n\r\n"), [200]),
    (CHUNKED.replace(b"\r\n\r\n", b"\r\n\r\nzz", 1), [400]),
    (CHUNKED.replace(b"\r\n\r\n", b"\r\n\r\n-", 1), [400]),
    (CHUNKED.replace(b"\r\n\r\n", b"\r\n\r\n" + b"f" * 20, 1), [400]),
    (CHUNKED.replace(b"chunked", b"chunked, chunked"), [400]),
    (CHUNKED.replace(b"chunked", b"gzip, chunked"), [415]),
    (CHUNKED.replace(b"X: ", b"Content-Length: "), [400]),
    (request(more=b"Content-Length: 5\r\n"), [400]),
    (request(more=b"Host: y\r\n"), [400]),
    (request(length=len(BODY) - 1), [400]),                   # the last byte may be a next one's first
    (request() + b"\r\n" + request(), [200, 200]),
    (request() + request(b"{") + GET % b"/healthz" + request(), [200, 400, 200, 200]),
    (request(b" " * (limits.REQUEST_BYTES + 1)), [413]),
    (request(length=10**15), [413]),
    (request(more=b"Content-Encoding: gzip\r\n"), [415]),
    (request(more=b"X: %b\r\n" % (b"a" * 100_000)), [400]),
    (request(more=b"".join(b"X%d: a\r\n" % i for i in range(5_000))), [400]),
    (GET % (b"/" + b"a" * 100_000), [400]),
    (GET % b"/v1/features/rider_now/%00", [200]),
    (GET % b"/v1/features/rider_now/%ff", [400]),
    (GET % b"/v1/features/rider_now/../../healthz", [200]),    # an id as any other
    (GET % b"//healthz", [404]),
    (GET % b"http://x/healthz", [200]),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
    (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
    (b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", [400]),
    (b"GET /healthz\r\n\r\n", [200]),                             # HTTP/0.9
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [400]),
    (request(path="/v1/score/nobody"), [404]),
    (UNKNOWN, [404]),
    (request(path="/v1/score/../tip"), [404]),
    (request(path="/v1/score/"), [404]),
]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    bounds = f"app._connections_most = lambda: {MOST}; import functools; body.Bodies = functools.partial(body.Bodies, most={MOST_BYTES})"
    with Scorer(tmp_path_factory.mktemp("scorer"), bounds) as made:
        yield made


def _said(scorer: Scorer, several: list[bytes], least: Sequence[int] = ()) -> list[list[int]]:
    """The statuses that each connection was told, each at least so many."""

    async def go() -> list[list[int]]:
        free = asyncio.Semaphore(AT_ONCE)

        async def one(sent: bytes, least: int) -> list[int]:
            async with free:
                return await statuses(scorer.port, sent, least)

        return await asyncio.gather(*map(one, several, least or [0] * len(several)))

    return asyncio.run(go())


def _mutated(chance: random.Random) -> bytes:
    """One or two right requests with a few bytes changed, taken out, put in or doubled."""
    sent = bytearray(b"".join(chance.choices(RIGHT, k=chance.choice((1, 1, 2)))))
    for _ in range(chance.choice((1, 1, 2, 8))):
        at, most = chance.randrange(len(sent)), chance.choice((1, 1, 4, 40))
        match chance.randrange(5):
            case 0:
                sent[at] ^= 1 << chance.randrange(8)
            case 1:
                del sent[at : at + most]
            case 2:
                sent[at:at] = chance.randbytes(most)
            case 3:
                sent[at:at] = sent[at : at + most]
            case 4:
                sent[at:at] = chance.choice(PUT_IN)
        if not sent:
            sent += b"\r\n\r\n"
    return bytes(sent)


def test_bytes_that_were_changed_on_their_way_are_answered_4xx_or_not_at_all(scorer: Scorer) -> None:
    chance = random.Random(5)
    several = [_mutated(chance) for _ in range(MUTATIONS)]
    with survives(scorer):
        told = _said(scorer, several)
    wrong = [(sent, said) for sent, said in zip(several, told, strict=True) if any(status >= 500 and status != 503 for status in said)]
    assert not wrong, wrong[:3]
    counted = Counter(status for said in told for status in said)
    assert {200, 400, 404, 422} <= counted.keys(), counted        # it got far enough to be told what is wrong


def _json(chance: random.Random, depth: int = 0) -> str:
    """A JSON value or what is nearly one."""
    kind = chance.randrange(12 if depth < 4 else 8)
    match kind:
        case 0:
            return chance.choice(("null", "true", "false", "NaN", "-Infinity", "Infinity", "1e999", "-0", "01", "1.", "+1"))
        case 1:
            return str(chance.choice((0, 1, 7, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400)))
        case 2:
            return chance.choice(("1.5", "1e308", "-1e-320", "0.1e1", "9007199254740993.0"))
        case 3 | 4 | 5:
            return json.dumps(chance.choice(("ada", "", "a" * 300, "\0", "\ud800", "é" * 200, "2026-03-01T12:00:00Z", "99999-01-01", "{}")))
        case 6:
            return chance.choice(('"', "'ada'", '"\\x"', "[", "{", '{"a"', "\ufeff1", "/*1*/"))
        case 7:
            return chance.choice(("[" * 2_000, '{"a":' * 2_000, "[" * 200 + "]" * 200))
        case 8 | 9:
            return "[" + ",".join(_json(chance, depth + 1) for _ in range(chance.randrange(4))) + "]"
    names = ("entities", "context", "rows", "deadline_ms", "explain", "rider", "zone", "hour", "at", "fare", "entities", "\ud800")
    members = [f"{json.dumps(chance.choice(names))}:{_json(chance, depth + 1)}" for _ in range(chance.randrange(5))]
    return "{" + ",".join(members) + "}"


def test_json_of_any_depth_size_and_type_is_answered_and_never_with_500(scorer: Scorer) -> None:
    chance = random.Random(6)
    several = []
    for _ in range(BODIES):
        right = json.loads(chance.choice((BODY, EVENT, ASKED)))
        text = _json(chance)
        if chance.random() < 0.7:          # in the place of a member of a right one
            text = json.dumps({**right, chance.choice(list(right)): "\x1a"}).replace('"\\u001a"', text)
        several.append(request(text.encode("utf-8", "surrogatepass"), path=chance.choice(POSTED)))
    with survives(scorer):
        told = _said(scorer, several, [1] * len(several))
    assert all(len(said) == 1 for said in told)
    counted = Counter(status for (status,) in told)
    assert counted.keys() <= {200, 400, 422, 503}, counted
    assert counted.keys() >= {400, 422}, counted


def test_http_that_is_wrong_or_rare_is_answered_as_it_should_be(scorer: Scorer) -> None:
    with survives(scorer):
        until(lambda: _said(scorer, [UNKNOWN], [1]) != [[503]], "it has looked for that version")
        told = _said(scorer, [sent for sent, _ in RARE], [len(expected) for _, expected in RARE])
    differing = [(sent[:200], said, expected) for said, (sent, expected) in zip(told, RARE, strict=True) if said != expected]
    assert not differing, "\n".join(map(str, differing))


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it_or_the_refusal_at_once(scorer: Scorer) -> None:
    with survives(scorer):
        for path, length, expected in (("/v1/score/tip", len(BODY), [100, 200]), ("/v1/events/trip", 10**9, [413]), ("/nothing", 5, [404])):
            whole = request(path=path, more=b"Expect: 100-continue\r\n", length=length)
            with contextlib.closing(scorer.open()) as sock:
                sock.sendall(whole[: -len(BODY)])
                told = [answers(sock, 1)[0][0]]
                if told == [100]:
                    sock.sendall(BODY)
                    told += [status for status, _, _ in answers(sock, 1)]
                assert told == expected


def test_clients_that_leave_in_the_middle_of_a_request_are_let_go(scorer: Scorer) -> None:
    with survives(scorer):
        for whole in (request(), CHUNKED, request(EVENT, path="/v1/events/trip")):
            for at in range(1, len(whole), 3):
                sock = scorer.open()
                sock.sendall(whole[:at])
                reset(sock) if at % 2 else sock.close()


def test_clients_that_leave_in_the_middle_of_an_answer_are_let_go_and_nobody_else_notices(scorer: Scorer) -> None:
    row = json.loads(BODY)
    large = request(json.dumps({"rows": [row] * 500, "explain": True}).encode())
    with survives(scorer):
        for read in (0, 1, 100, 20_000) * 10:
            sock, beside = scorer.open(), scorer.open()
            beside.sendall(request())
            sock.sendall(large)
            if read:
                sock.recv(read)
            reset(sock)
            assert answers(beside, 1)[0][0] == 200
            beside.close()


def test_a_client_that_asks_again_and_again_and_reads_nothing_fills_no_memory(scorer: Scorer) -> None:
    row = json.loads(BODY)
    large = request(json.dumps({"rows": [row] * 200, "explain": True}).encode())
    with survives(scorer), contextlib.ExitStack() as exits:
        for _ in range(20):
            sock = exits.enter_context(scorer.open())
            sock.settimeout(0.2)
            with contextlib.suppress(TimeoutError, ConnectionError):
                for _ in range(200):
                    sock.sendall(large)
        assert scorer.score() == 200


def test_many_requests_in_one_write_are_answered_in_their_order(scorer: Scorer) -> None:
    with survives(scorer), contextlib.closing(scorer.open()) as sock:
        sock.sendall(b"".join(request(more=b"X-Request-ID: r%d\r\n" % i) for i in range(100)))
        reader = sock.makefile("rb")
        told = [one_answer(reader) for _ in range(100)]
        assert [headers["x-request-id"] for _, headers, _ in told] == [f"r{i}" for i in range(100)]
        assert {status for status, _, _ in told} <= {200, 503}


def test_one_connection_too_many_is_told_so_and_the_others_stay(scorer: Scorer) -> None:
    with survives(scorer), contextlib.ExitStack() as exits:
        kept: list[socket.socket] = []

        def one_more() -> bool:
            """From an address of its own. Refused where the server has not heard yet that an earlier connection ended, or is too late on a
            busy machine."""
            sock = scorer.open(f"127.1.{len(kept) // 250}.{len(kept) % 250 + 1}")
            sock.sendall(request())
            try:
                accepted = answers(sock, 1)[0][0] == 200
            except ConnectionError:
                accepted = False
            if accepted:
                kept.append(exits.enter_context(sock))
            else:
                sock.close()
            return accepted

        for _ in range(MOST):
            until(one_more, "a connection that is accepted")
        for _ in range(20):
            with scorer.open() as sock:
                status, headers, body = answers(sock, 1)[0]
                assert (status, headers["retry-after"], json.loads(body)["status"]) == (503, "1", 503)
                assert sock.recv(1) == b""
        for sock in kept[1:]:
            reset(sock)
        until(lambda: scorer.score() == 200, "a score on another connection")
        assert scorer.metric('featureflow_shed_total{reason="connections"}') >= 20


def test_one_address_that_takes_all_the_connections_that_it_can_leaves_some_to_every_other(scorer: Scorer) -> None:
    refused, full = 'featureflow_shed_total{reason="connections_share"}', 'featureflow_shed_total{reason="connections"}'
    before = scorer.metric(refused), scorer.metric(full)
    with survives(scorer), contextlib.ExitStack() as exits:
        kept: list[socket.socket] = []
        while scorer.metric(refused) == before[0]:
            sock = exits.enter_context(scorer.open(GREEDY))
            sock.sendall(request() if len(kept) % 2 else GET % b"/healthz")
            with contextlib.suppress(ConnectionError):
                if answers(sock, 1)[0][0] == 200:              # else the server is too late on a busy machine, or it was the last
                    kept.append(sock)
            assert len(kept) <= MOST * 8 // 9
        for number in range(20):
            with scorer.open(f"127.0.1.{number + 1}") as sock:
                sock.sendall(GET % b"/healthz")
                assert answers(sock, 1)[0][0] == 200
        assert scorer.metric(full) == before[1]
        for sock in kept:
            reset(sock)


def test_one_caller_who_sends_all_the_bodies_that_it_can_leaves_room_to_every_other(scorer: Scorer) -> None:
    begun = request(b" " * 999_999, path="/v1/events/trip", length=1_000_000)
    with survives(scorer), contextlib.ExitStack() as exits:

        def beyond_its_share() -> bool:
            sock = exits.enter_context(scorer.open(GREEDY))
            with contextlib.suppress(TimeoutError, ConnectionError):
                sock.sendall(begun)
                sock.settimeout(SILENCE_S)
                answers(sock, 1)
            return scorer.metric('featureflow_shed_total{reason="bodies_share"}') > 0

        until(beyond_its_share, "one body more is refused")
        with scorer.open() as sock:
            sock.sendall(request(BODY + b" " * 100_000))
            assert answers(sock, 1)[0][0] == 200
        assert scorer.metric('featureflow_shed_total{reason="bodies"}') == 0
