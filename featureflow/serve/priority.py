"""Who asks, and how much it matters: what a request says of itself beside its rows."""

from __future__ import annotations

import asyncio
from enum import IntEnum

import msgspec

from featureflow.errors import RequestError

DEADLINE_MS = 60_000.0                     # the longest that may be asked for
CLIENT_BYTES = 256


class Priority(IntEnum):
    """The lowest is shed first."""

    CRITICAL = 0
    NORMAL = 1
    BATCH = 2


NAMES = {priority.name.lower(): priority for priority in Priority}


class Caller(msgspec.Struct, frozen=True):
    """What the headers of a request say. ``client``: its API key, or the address that it came from; nobody else's requests count with
    its own. ``deadline_ms`` None: the model's, unless the body has one.
    """

    client: str = ""
    priority: Priority = Priority.NORMAL
    deadline_ms: float | None = None


NOBODY = Caller()


def read(api_key: str, priority: str, deadline_ms: str, peer: str) -> Caller:
    """Of the headers ``x-api-key``, ``x-priority`` and ``x-deadline-ms``, each empty where it was not sent.

    Raises RequestError (422) for one that says nothing known.
    """
    found = NAMES.get(priority.lower()) if priority else Priority.NORMAL
    if found is None:
        raise RequestError("Unknown priority", f"x-priority must be one of {', '.join(NAMES)}", status=422)
    if len(api_key) > CLIENT_BYTES:
        raise RequestError("Key too long", f"x-api-key has more than {CLIENT_BYTES} bytes", status=422)
    left = None
    if deadline_ms:
        try:
            left = float(deadline_ms)
        except ValueError:
            left = -1.0
        if not 0 < left <= DEADLINE_MS:
            raise RequestError("Not a deadline", f"x-deadline-ms must be milliseconds, above 0 and at most {DEADLINE_MS:,.0f}", status=422)
    if not api_key and not priority and left is None and not peer:
        return NOBODY
    return Caller(api_key or peer, found, left)


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """Who sends what comes over a connection without a key; where no address is known, all who do so are one."""
    name = None if transport is None else transport.get_extra_info("peername")
    return peer_at(name[0] if isinstance(name, tuple) else None)


def peer_at(address: str | None) -> str:
    """The caller at an address; its first character is none that an API key may begin with."""
    return f" {address or ''}"
