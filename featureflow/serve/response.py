"""An answer onto the wire. Its head is made once per status and type; a small answer leaves in one write."""

from __future__ import annotations

from time import time

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from featureflow.serve.answer import Answer

SMALL_BYTES = 64 * 1024  # larger ones, and those to a slow reader, take aiohttp's own way with its flow control


class ResponseHeads:
    """Prebuilt status lines and headers. One per server."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], bytes] = {}
        self._second, self._date = 0, b""

    def date(self) -> bytes:
        """The header's line; another one each second."""
        second = int(time())
        if second != self._second:
            self._second, self._date = second, f"Date: {rfc822_formatted_time()}\r\n".encode()
        return self._date

    def encode(self, answer: Answer, request_id: str, keep_alive: bool) -> bytes:
        """The whole response, as it is sent."""
        known = self._known.get((answer.status, answer.content_type))
        if known is None:
            reason = web.Response(status=answer.status).reason
            known = self._known[(answer.status, answer.content_type)] = (
                f"HTTP/1.1 {answer.status} {reason}\r\nContent-Type: {answer.content_type}\r\nServer: featureflow\r\n"
            ).encode()
        more = b"" if keep_alive else b"Connection: close\r\n"
        if answer.headers:
            more += "".join(f"{name}: {value}\r\n" for name, value in answer.headers).encode()
        return b"%b%bX-Request-ID: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
            known, self.date(), request_id.encode(), len(answer.body), more, answer.body
        )  # fmt: skip


class Written(web.StreamResponse):
    """A whole response as bytes. What aiohttp asks of a response that a handler returns, and no more."""

    def __init__(self, whole: bytes, status: int, keep_alive: bool) -> None:
        # The parent's constructor builds a header map that would never be read.
        self._whole, self._status, self._kept = whole, status, keep_alive

    @property
    def keep_alive(self) -> bool | None:
        return self._kept

    @property
    def status(self) -> int:
        return self._status

    async def prepare(self, request: web.BaseRequest) -> None:
        if (transport := request.transport) is not None:
            transport.write(self._whole)

    async def write_eof(self, data: bytes = b"") -> None:
        return


def respond(request: web.BaseRequest, answer: Answer, request_id: str, heads: ResponseHeads) -> web.StreamResponse:
    """The response to return from a handler."""
    transport = request.transport
    if (
        transport is not None
        and len(answer.body) <= SMALL_BYTES
        and request.method != "HEAD"
        and request.version == (1, 1)
        and not transport.get_write_buffer_size()
    ):
        keep_alive = request.keep_alive
        return Written(heads.encode(answer, request_id, keep_alive), answer.status, keep_alive)
    headers = {
        "Content-Type": answer.content_type,
        "X-Request-ID": request_id,
        "Server": "featureflow",
        **dict(answer.headers),
    }
    return web.Response(status=answer.status, body=answer.body, headers=headers)
