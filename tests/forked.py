"""Watched processes (``watched``) that are forked from a server that has imported everything: a start takes milliseconds, so that there is
time for many."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import watched
from processes import PATIENCE_S, Process
from world import World

PRELOADED = ["watched", "featureflow.store.log.open", "featureflow.store.online.redis", "featureflow.store.history.sql", "pymysql"]


def start(world: World, verb: str, **settings: str) -> Forked:
    """``featureflow VERB`` of this project, watched; ended with the world."""
    count = len(list(world.folder.glob("watched-*.out")))
    process = Forked(world.folder, verb, world.environment(**settings), world.folder / f"watched-{count}-{verb}")
    world.ended_with(process.close)
    return process


class Forked(Process):
    """As ``Process``, forked."""

    def __init__(self, folder: Path, verb: str, environment: Mapping[str, str], output: Path) -> None:
        self.output = output
        for suffix in (".out", ".err"):
            output.with_suffix(suffix).touch()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._process = context.Process(target=_run, args=(str(folder), verb, dict(environment), str(output)), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self, seconds: float = PATIENCE_S) -> int:
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"{self.output.name} still runs after {seconds:.0f} s"
        return code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.join()


def _run(folder: str, verb: str, environment: dict[str, str], output: str) -> None:
    """In the child: what ``python -m featureflow.cli --project FOLDER VERB`` does."""
    for number, suffix in ((1, ".out"), (2, ".err")):
        with open(output + suffix, "wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["featureflow", "--project", folder, verb]
    watched.main()
