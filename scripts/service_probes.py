"""Does a server answer, and what does it say it is? By its own protocol, with the standard library only."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable


def receive(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = link.recv(count - len(data))
        if not part:
            raise OSError("closed")
        data += part
    return data


def kafka_answers(port: int) -> str | None:
    """Ask for the API versions (request 18); any error-free reply will do, Kafka does not tell its own version."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
        link.sendall(struct.pack(">ihhih", 10, 18, 0, 1, -1))
        size = struct.unpack(">i", receive(link, 4))[0]
        _, error, _ = struct.unpack(">ihi", receive(link, size)[:10])
    return "" if error == 0 else None


def redis_answers(port: int) -> str | None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
        link.sendall(b"INFO server\r\n")
        reply = b""
        while b"\r\n" not in reply:
            reply += link.recv(4096)
        if not reply.startswith(b"$"):  # still loading its data
            return None
        head, _, body = reply.partition(b"\r\n")
        body += receive(link, int(head[1:]) + 2 - len(body))
    return next(line.split(":")[1] for line in body.decode().splitlines() if line.startswith("redis_version:"))


def mysql_answers(port: int) -> str | None:
    """The greeting carries the version: header of 4 bytes, protocol 10, then a zero-terminated string."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
        size = int.from_bytes(receive(link, 4)[:3], "little")
        greeting = receive(link, size)
    return greeting[1:].split(b"\0")[0].decode() if greeting[0] == 10 else None


ANSWERS: dict[str, Callable[[int], str | None]] = {
    "kafka": kafka_answers,
    "redis": redis_answers,
    "mysql": mysql_answers,
}


def version(name: str, port: int) -> str | None:
    """What the server says of itself ('' where it does not tell), or None while it does not answer."""
    try:
        return ANSWERS[name](port)
    except (OSError, StopIteration, struct.error, ValueError):
        return None
