"""What names a request: its id, and the trace that it belongs to."""

from __future__ import annotations

import os
import re

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class RequestIds:
    """The caller's own where it sends a good one, otherwise one that nobody else has."""

    def __init__(self) -> None:
        self._prefix, self._count = os.urandom(6).hex(), 0

    def of(self, sent: str) -> str:
        """``sent``: the X-Request-ID header, or empty."""
        if sent and REQUEST_ID.fullmatch(sent) is not None:
            return sent
        self._count += 1
        return f"{self._prefix}{self._count:010x}"


def trace_of(sent: str) -> str:
    """The traceparent header where it is a W3C traceparent, otherwise empty."""
    return sent if sent and TRACEPARENT.fullmatch(sent) is not None else ""
