"""``featureflow up`` as one process tree: ingest, history and serve; watch where an alert is applied, accuracy where a label is; and an
embedded server where one is set."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator

import typer

from featureflow.cli import consume
from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.cli.restart import Restarted
from featureflow.cli.tended import Tended
from featureflow.errors import SettingsError, StateError, UnavailableError
from featureflow.port import bind
from featureflow.settings import EMBEDDED
from featureflow.store.mirror import NOTHING_APPLIED, mirrored

VERBS = ("ingest", "history", "serve")
LOOK_S = 0.2
STOP_S = 9.5  # then a child is killed


def register(app: typer.Typer) -> None:
    app.command("up")(up)


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


def _child(here: Context, verb: str) -> Restarted:
    return Restarted([sys.executable, "-m", "featureflow.cli", "--project", str(here.folder), verb], os.environ)


def _wanted(here: Context) -> tuple[str, ...]:
    """The verbs beside VERBS that there is something for, as far as the online store says what is applied."""
    try:
        project = mirrored(here.online)
    except (UnavailableError, StateError):
        return ()
    declared = {} if project is None else {"watch": project.alerts, "accuracy": project.labels}
    return tuple(verb for verb, found in declared.items() if found)


def up(context: typer.Context, json: Json = False) -> None:
    """Run everything in one process tree until interrupted."""
    output = Output(json=json)
    here: Context = context.obj
    with here, consume.stopping() as stop, _alone(here):
        settings = here.settings
        bind(settings.serve.host, settings.serve.port).close()  # a scorer that cannot listen would be started again for ever
        embedded = EMBEDDED in (settings.log.url, settings.online.url)
        tended = Tended(here.embedded, output) if embedded else None  # ours to hold, so that it outlives every child
        for server in (here.log, here.online, here.history):
            server.ping()  # a clear error now rather than three later; once they run, a server that is down is waited for
        if here.registry.current() is None:
            raise StateError(NOTHING_APPLIED)
        here.registry.check_owner(settings.name)
        children = {verb: _child(here, verb) for verb in VERBS}
        look_due = 0.0
        output.say("Starting; stop with Ctrl-C.")  # the scorer says where it is, once it is there
        while not stop.is_set():
            if tended is not None:
                tended.look()
            if time.monotonic() >= look_due:
                look_due = time.monotonic() + consume.LOOK_S
                children |= {verb: _child(here, verb) for verb in _wanted(here) if verb not in children}
            for verb, child in children.items():
                if (code := child.look()) is not None:
                    output.warn(f"{verb} ended by itself with exit code {code}; it is started again")
            stop.wait(LOOK_S)
        until = time.monotonic() + STOP_S
        for child in children.values():
            child.ask_to_end()
        codes = {verb: child.end(until) for verb, child in children.items()}
    output.result({"stopped": codes})
    if any(code not in (0, -signal.SIGTERM) for code in codes.values()):  # one that was still starting had nothing in hand
        raise typer.Exit(1)
