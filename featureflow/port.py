"""A port to listen on, and who has it where it is taken."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from featureflow.errors import SettingsError

LISTENING = "0A"  # in /proc/net/tcp


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A TCP socket that may listen there; port 0 is any free one. ``shared``: with others that ask for it too (SO_REUSEPORT).

    Raises SettingsError naming who listens there, as far as this user may know.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        taken = holder(port) if error.errno == errno.EADDRINUSE else ""
        raise SettingsError(
            f"cannot listen on {host}:{port} ({error.strerror or error}){taken}: set serve.host and serve.port to what is free"
        ) from None
    return bound


def holder(port: int) -> str:
    """``, process 123 (python) has it``, or nothing where the system does not say."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            if any(os.readlink(handle) in inodes for handle in (process / "fd").iterdir()):
                return f", process {process.name} ({(process / 'comm').read_text().strip()}) has it"
        except OSError:  # another user's, or gone
            continue
    return ""


def _listening(port: int) -> list[str]:
    """Inodes of the sockets that listen on the port."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == LISTENING:
                found.append(fields[9])
    return found
