"""A head that is taken for plain means to aiohttp the same; what is in doubt is not taken."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from featureflow.serve.plain_request import HEAD_BYTES, HEADER, Head, RequestHeads, Unplain
from featureflow.serve.priority import NOBODY, Caller, Priority

LINES = st.sampled_from(
    [
        b"Host: a",
        b"Content-Length: 12",
        b"content-length:3",
        b"Content-Length: 012",
        b"Content-Length: 1 2",
        b"Content-Length: 0x3",
        b"Content-Length: 3, 3",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding : chunked",
        b"X-Request-ID: abc",
        b"X-Request-ID:",
        b"x-request-id: \t d e \t",
        b"traceparent: 00-a",
        b"Connection: keep-alive",
        b"Connection: Keep-Alive",
        b"Connection: close",
        b"Connection: keep-alive, upgrade",
        b"Upgrade: h2c",
        b" folded",
        b"X: a\rb",
        b"X: a\nContent-Length: 9",
        b"X: \xc3\xa9",
        b"no colon",
        b": no name",
        b"",
    ]
) | st.binary(max_size=12)
FIRST = st.sampled_from(
    [
        b"POST /v1/score/odd HTTP/1.1",
        b"POST /v1/score/odd@v1 HTTP/1.1",
        b"POST /v1/score/odd HTTP/1.0",
        b"POST  /v1/score/odd HTTP/1.1",
        b"POST /v1/score/odd?x=1 HTTP/1.1",
        b"POST /v1/score/../odd HTTP/1.1",
        b"POST /v1/score/o%64d HTTP/1.1",
        b"POST /v1/score/odd HTTP/1.1 ",
        b"POST /v1/score/odd\tHTTP/1.1",
    ]
)


@settings(max_examples=600, deadline=None, database=None)
@given(FIRST, st.lists(LINES, max_size=5), st.integers(0, 5))
def test_a_head_taken_for_plain_is_read_alike_by_aiohttp(first: bytes, lines: list[bytes], place: int) -> None:
    lines = [*lines[:place], b"Host: x", b"Content-Length: 2", *lines[place:]]
    raw = b"\r\n".join([first, *lines]) + b"\r\n\r\n"
    head = RequestHeads().read(raw)
    if not isinstance(head, Head):
        return

    async def parse() -> None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        try:
            messages, upgraded, _ = parser.feed_data(raw[: head.bytes])
        except HttpProcessingError as error:
            pytest.fail(f"{raw!r} is no HTTP: {error}")
        ((message, _),) = messages
        assert (message.method, message.path, upgraded) == ("POST", f"/v1/score/{head.target}", False)
        assert message.version == (1, 1)
        assert not message.chunked
        assert not message.should_close
        assert int(message.headers["Content-Length"]) == head.body_bytes
        assert message.headers.get("X-Request-ID", "") == head.request_id
        assert message.headers.get("traceparent", "") == head.trace

    asyncio.run(parse())


def test_a_head_is_waited_for_and_nothing_else_is() -> None:
    heads, raw = RequestHeads(), b"POST /v1/score/odd HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    assert all(heads.read(raw[:at]) is Unplain.PART for at in range(1, len(raw)))
    assert isinstance(heads.read(raw), Head)
    assert heads.read(b"GET /heal") is Unplain.PART  # what it is is seen once its head is whole
    for other in (b"get ", b"\x16\x03", raw[:-2] + b"X: " + b"a" * HEAD_BYTES):
        assert heads.read(other) is Unplain.OTHER


def test_a_header_is_read_in_one_pass_whatever_it_is_made_of() -> None:
    """With a pass for each of its blanks this would not end: one head of 8 KB held the event loop up for a third of a second."""
    for fill in (b" ", b"\t ", b"a ", b" a", b"a"):
        long = fill * 500_000
        for end in (b"\x01", b"\x80", b"\n"):
            assert HEADER.fullmatch(b"X:" + long + end) is None
        read = HEADER.fullmatch(b"X:" + long)
        assert read is not None
        assert read[2] == long.strip(b" \t")


def test_heads_are_remembered_only_while_they_name_no_single_request() -> None:
    heads = RequestHeads()
    for i in range(1_000):
        raw = b"POST /v1/score/odd HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n"
        assert isinstance(heads.read(raw % (b"X-Request-ID: %d\r\n" % i, 5)), Head)
        assert heads.read(raw % (b"", i)) == heads.read(raw % (b"", i))
    assert len(heads._known) <= 256


def test_who_asks_is_read_from_the_head_and_what_says_nothing_known_is_left_to_aiohttp() -> None:
    def head(more: bytes) -> Head | Unplain:
        return RequestHeads().read(b"POST /v1/score/odd@3 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n%b\r\n" % more)

    plain = head(b"")
    assert isinstance(plain, Head)
    assert (plain.model, plain.caller) == ("odd", NOBODY)
    found = head(b"X-API-Key: k 1\r\nX-Priority: Critical\r\nX-Deadline-Ms: 12.5\r\n")
    assert isinstance(found, Head)
    assert found.caller == Caller("k 1", Priority.CRITICAL, 12.5)
    for wrong in (b"X-Priority: urgent", b"X-Deadline-Ms: 0", b"X-Deadline-Ms: nan", b"X-Deadline-Ms: 1e9", b"X-API-Key: " + b"k" * 300):
        assert head(wrong + b"\r\n") is Unplain.OTHER
