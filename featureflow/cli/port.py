"""Is a port free, and who has it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from featureflow.errors import SettingsError

LISTENING = "0A"  # in /proc/net/tcp


def check_free(host: str, port: int) -> None:
    """Raises SettingsError naming who listens there, as far as this user may know. Port 0 is any free one."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {host}:{port} ({error.strerror or error}){_holder(port)}: set serve.host and serve.port to what is free"
            ) from None


def _holder(port: int) -> str:
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
