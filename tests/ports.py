"""Ports for servers that are started later, and for those that never are."""

from __future__ import annotations

import socket

_held: list[socket.socket] = []            # until this process ends


def free_port() -> int:
    """A port of this machine that is ours from now on.

    It is held by a socket that does not listen. Connecting is refused, the system gives the port to nobody else, and a server that is
    told the number can listen there all the same: both sides set SO_REUSEADDR, as every server here does.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    port: int = holder.getsockname()[1]
    return port
