"""``featureflow up``: ingest, history and serve, and an embedded server where one is set, as one process tree."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import typer

from featureflow.cli import consume, port, tether
from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.errors import SettingsError
from featureflow.settings import EMBEDDED

VERBS = ("ingest", "history", "serve")
STOP_S = 10.0
FIRST_WAIT_S, LAST_WAIT_S = 0.5, 10.0
STEADY_S = 30.0  # a child that ran so long starts again without waiting


def register(app: typer.Typer) -> None:
    app.command("up")(up)


class Child:
    """One verb in a process of its own, started again when it ends by itself."""

    def __init__(self, here: Context, verb: str) -> None:
        self._command = [sys.executable, "-m", "featureflow.cli", "--project", str(here.folder), verb]
        self.verb = verb
        self._wait_s = FIRST_WAIT_S
        self._due = 0.0
        self.start()

    def start(self) -> None:
        self._began = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = tether.start(self._command, os.environ)

    def ended(self) -> int | None:
        """The exit code of a child that has just ended; None while it runs or waits to be started again."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._due:
                self.start()
            return None
        code = self._process.poll()
        if code is not None:
            self._signal_group(signal.SIGTERM)  # what it started goes with it: scorers that share its port
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None
            self._wait_s = FIRST_WAIT_S if now - self._began > STEADY_S else min(2 * self._wait_s, LAST_WAIT_S)
            self._due = now + self._wait_s
        return code

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, until: float) -> int:
        """Its exit code; killed if it has not ended by ``until``."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._signal_group(signal.SIGKILL)
            return self._process.wait()

    def _signal_group(self, number: int) -> None:
        """To the child and all that it started; the child leads a session of its own."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def _alone(here: Context) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it however this process ends. Raises SettingsError where another has it."""
    folder = here.settings.path(here.settings.project.data)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SettingsError(
                f"featureflow up already runs in {here.folder.resolve()}, as process {lock.read().strip()}; stop it first, or name another "
                "folder with --project"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def up(context: typer.Context, json: Json = False) -> None:
    """Run everything in one process tree until interrupted."""
    output = Output(json=json)
    here: Context = context.obj
    with here, consume.stopping() as stop, _alone(here):
        settings = here.settings
        port.check_free(settings.serve.host, settings.serve.port)  # a scorer that cannot listen would be started again for ever
        if EMBEDDED in (settings.log.url, settings.online.url):
            _ = here.embedded_url  # ours to hold, so that it outlives every child
        for server in (here.log, here.online, here.history):
            server.ping()  # a clear error now rather than three later; once they run, a server that is down is waited for
        _ = here.applied
        here.registry.check_owner(settings.name)
        children = [Child(here, verb) for verb in VERBS]
        output.say(f"Scoring at http://{settings.serve.host}:{settings.serve.port}; stop with Ctrl-C.")
        while not stop.wait(0.2):
            for child in children:
                if (code := child.ended()) is not None:
                    output.warn(f"{child.verb} ended by itself with exit code {code}; it is started again")
        for child in children:
            child.ask_to_stop()
        until = time.monotonic() + STOP_S
        codes = {child.verb: child.stop(until) for child in children}
    output.result({"stopped": codes})
    if any(code not in (0, -signal.SIGTERM) for code in codes.values()):  # one that was still starting had nothing in hand
        raise typer.Exit(1)
