"""A request's body, bounded in bytes and in time, and all of them together in bytes, of which each caller has a share."""

from __future__ import annotations

import asyncio

from aiohttp import web

from featureflow import limits
from featureflow.errors import BodiesFullError, BodiesShareError, RequestError
from featureflow.serve.dynamic_threshold import ALPHA, DynamicThreshold
from featureflow.serve.priority import CLIENT_BYTES, peer_at

BODY_S = 10.0  # for the whole body: a client that drips bytes is cut off


class Bodies:
    """All bodies that a process reads or has read, of requests that are not answered yet. Belongs to one event loop."""

    def __init__(self, within_s: float = BODY_S, most: int = limits.BODIES_BYTES) -> None:
        self.held = DynamicThreshold(most)  # bytes
        self._within_s = within_s
        self._of: dict[int, tuple[str, int]] = {}  # by a request's id() -> who sent it, and bytes

    async def read(self, request: web.BaseRequest) -> bytes:
        """The whole body, which counts until ``let_go``.

        A caller who waits for leave to send it (``Expect: 100-continue``) gets leave here, once nothing that its head says stands
        against it.

        Raises RequestError: 413 beyond ``limits.REQUEST_BYTES``, 415 when it is compressed, 408 when it takes longer than
        ``within_s``, 400 when it breaks off; BodiesFullError where it is more than may be held, BodiesShareError
        where it is more than this caller may hold.
        """
        content, headers = request.content, request.headers
        if "Content-Encoding" in headers or headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
            raise RequestError("Body is encoded", "send the body as it is, without Content-Encoding", status=415)
        if (request.content_length or 0) > limits.REQUEST_BYTES:
            raise _too_large()
        if content.is_eof():  # it came with the head, as small bodies do; a large one would have paused the connection first
            data = content.read_nowait()
            if data:
                self._hold(request, _caller_of(request), len(data))
            return data
        if headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        caller, chunks, size = _caller_of(request), [], 0
        try:
            async with asyncio.timeout(self._within_s):
                while chunk := await content.readany():
                    size += len(chunk)
                    if size > limits.REQUEST_BYTES:
                        raise _too_large()
                    self._hold(request, caller, len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            raise RequestError("Body too slow", f"send the whole body within {self._within_s:g} s", status=408) from None
        except web.RequestPayloadError as error:
            raise RequestError("Body cannot be read", f"{error}; check Content-Length and chunked encoding") from None
        except ConnectionError:  # nobody hears this answer, but the caller's leaving must not count as a fault of the server
            raise RequestError("Body cannot be read", "the connection was lost before the body was whole") from None
        return b"".join(chunks)

    def let_go(self, request: web.BaseRequest) -> None:
        """It is answered, or nobody waits for it."""
        if (of := self._of.pop(id(request), None)) is not None:
            self.held.give_back(*of)

    def _hold(self, request: web.BaseRequest, caller: str, size: int) -> None:
        held = self.held
        if not held.take(caller, size):
            if held.has_room(size):
                raise BodiesShareError(
                    f"this server holds {held.by_caller[caller]:,} bytes of this caller's requests that are not answered yet, of the "
                    f"{held.most:,} bytes that it may hold of all, and no caller may have more than {ALPHA} times what "
                    f"that leaves free; {held.most - held.taken:,} are free now; send smaller requests, or fewer at a time"
                )
            raise BodiesFullError(
                f"this server holds {held.taken:,} bytes of requests that are not answered yet, and may hold {held.most:,}; "
                "send smaller requests, or fewer at a time"
            )
        before = self._of.get(id(request))
        self._of[id(request)] = (caller, size if before is None else before[1] + size)


def _caller_of(request: web.BaseRequest) -> str:
    key = request.headers.get("X-API-Key")
    return key if key and len(key) <= CLIENT_BYTES else peer_at(request.remote)  # a longer one is nobody's, and may yet be refused


def _too_large() -> RequestError:
    return RequestError(
        "Body too large",
        f"send at most {limits.REQUEST_BYTES:,} bytes; split the rows over several requests",
        status=413,
    )
