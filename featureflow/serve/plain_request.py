"""The plain request: ``POST /v1/score/...`` or ``/v1/features/...`` with a Content-Length and nothing that needs an HTTP library.

Whatever is not surely plain is left to one: a header that is given twice or that changes how the body is read, a folded line, a byte
that stands where it should not. Plain requests are nearly all requests, and reading one as HTTP at large cost half a score.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from msgspec import Struct

from featureflow.errors import RequestError
from featureflow.serve import priority
from featureflow.serve.priority import Caller

HEAD_BYTES = 8190
BODY_BYTES = 64 * 1024
REMEMBERED = 256  # heads; a client's requests mostly differ in their bodies alone
TARGET = re.compile(rb"POST /v1/(score|features)/([A-Za-z0-9_.\-]{1,128}(?:@[A-Za-z0-9_.\-]{0,64})?) HTTP/1\.1")
HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*+((?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?)[ \t]*+")
LENGTH = re.compile(rb"[0-9]{1,7}")
METHOD = re.compile(rb"[A-Z]{1,16}(?: |$)")
NOT_PLAIN = frozenset((b"transfer-encoding", b"content-encoding", b"upgrade", b"expect", b"trailer", b"te"))


class Head(Struct, frozen=True):
    """``request_id`` and ``trace`` as they were sent, or empty; ``bytes`` with the empty line that ends it.

    ``caller`` has no client where no API key was sent. ``route`` is score or features; ``model`` is the target's, without version or
    alias, or the view.
    """

    route: str
    target: str
    model: str
    bytes: int
    body_bytes: int
    request_id: str
    trace: str
    caller: Caller


class Unplain(Enum):
    """What else the bytes of a connection can be."""

    PART = auto()  # of a head
    OTHER = auto()  # something else


class RequestHeads:
    """Reads heads, and remembers those that name no single request."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, data: bytes) -> Head | Unplain:
        """The head that ``data`` begins with; the body's bytes may still be to come."""
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES)
        if end < 0:
            return Unplain.PART if len(data) < HEAD_BYTES and METHOD.match(data) is not None else Unplain.OTHER
        raw = data[:end]
        head = self._known.get(raw)
        if head is None:
            read = _read(raw)
            if read is None:
                return Unplain.OTHER
            head = read
            if not head.request_id and not head.trace:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[raw] = head
        return head


def _read(raw: bytes) -> Head | None:
    first, *lines = raw.split(b"\r\n")
    target = TARGET.fullmatch(first)
    if target is None:
        return None
    said: dict[bytes, bytes] = {}
    for line in lines:
        header = HEADER.fullmatch(line)
        if header is None:
            return None
        name = header[1].lower()
        if name in said or name in NOT_PLAIN:
            return None
        said[name] = header[2]
    length = said.get(b"content-length", b"")
    if LENGTH.fullmatch(length) is None or int(length) > BODY_BYTES:
        return None
    if said.get(b"connection", b"keep-alive").lower() != b"keep-alive" or b"host" not in said:
        return None
    key, level, left = (said.get(name, b"").decode() for name in (b"x-api-key", b"x-priority", b"x-deadline-ms"))
    try:
        caller = priority.read(key, level, left, "")
    except RequestError:
        return None
    return Head(
        target[1].decode(),
        target[2].decode(),
        target[2].partition(b"@")[0].decode(),
        len(raw) + 4,
        int(length),
        said.get(b"x-request-id", b"").decode(),
        said.get(b"traceparent", b"").decode(),
        caller,
    )
