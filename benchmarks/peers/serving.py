"""Another project's server as a process: started, waited for, and ended with everything that it started itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

STARTS_S, ENDS_S = 180.0, 20.0


class NotServingError(Exception):
    """It did not come up, or does not answer as it should; the text says what it said."""


@contextlib.contextmanager
def running(command: Sequence[str], port: int, path: str, body: bytes) -> Iterator[int]:
    """The server's pid, once it answers ``body`` at ``path`` with 200. Raises NotServingError."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryFile("w+b") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=own, start_new_session=True)
        try:
            until = time.monotonic() + STARTS_S
            while True:
                with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                    ask(port, path, body)
                    break
                if process.poll() is not None or time.monotonic() > until:
                    said.seek(0)
                    raise NotServingError(" ".join(said.read().decode(errors="replace").split())[-500:] or "it said nothing")
                time.sleep(0.2)
            yield process.pid
        finally:
            end(process)


def ask(port: int, path: str, body: bytes) -> Any:
    """The JSON of the answer. Raises OSError or HTTPException where there is none, ValueError for another status than 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"{answer.status}: {text[:200]!r}")
    return json.loads(text)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL to what is left of its descendants: some start daemons that outlive them."""
    started = descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ENDS_S)
    if process.poll() is None:
        process.kill()
        process.wait()
    for pid, born in started.items():
        if _born(pid) == born:                    # not another process that has its number now
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def cpu_s(pid: int) -> float:
    """User and system time of a process and of those that it started, so far."""
    used = 0
    for one in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> dict[int, str]:
    """Its children, theirs, and so on: pid -> when it began."""
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        for tasks in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in map(int, tasks.read_text().split()):
                    found[child] = _born(child)
                    waiting.append(child)
    return found


def _born(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
