"""Commands in processes that are forked from a server which has imported everything: a start takes milliseconds instead of a second of
imports, so that there is time for many. From there on they do what ``python -m featureflow.cli`` does, and ``featureflow up`` starts its
children so in any case."""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING

import watched
from processes import PATIENCE_S, Process

from featureflow.cli import main as cli

if TYPE_CHECKING:
    from world import World

TESTS = Path(__file__).resolve().parent
PRELOADED = [
    "forked", "watched", "ingest_program", "watch_program", *(f"featureflow.cli.{verb}" for verb in cli.VERBS),
    "featureflow.store.log.open", "featureflow.store.log.redis_streams", "featureflow.store.online.open", "featureflow.store.online.redis",
    "featureflow.store.online.embedded", "featureflow.store.history.sql", "featureflow.store.history.migrate", "pymysql",
]  # fmt: skip


@functools.cache
def server() -> ForkServerContext:
    """The one fork server of this process. It is started here, with the tests on its path: it does not take ours by itself."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join((str(TESTS), str(TESTS.parent)))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return made


def start(world: World, verb: str, **settings: str) -> Forked:
    """``featureflow VERB`` of this project, watched (``watched``); ended with the world."""
    count = len(list(world.folder.glob("watched-*.out")))
    words = ["--project", str(world.folder), verb]
    process = Forked(words, world.environment(**settings), world.folder / f"watched-{count}-{verb}", watch=True)
    world.ended_with(process.close)
    return process


class Forked(Process):
    """As ``Process``, forked: ``featureflow WORDS``, run in a folder."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], output: Path, folder: Path = TESTS, *, watch: bool = False
    ) -> None:
        self.output = output
        for suffix in (".out", ".err"):
            output.with_suffix(suffix).touch()
        self._process = server().Process(target=_run, args=(list(words), dict(environment), str(output), str(folder), watch), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self, seconds: float = PATIENCE_S) -> int:
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.output.name, seconds)
        return code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.join()


def _run(words: list[str], environment: dict[str, str], output: str, folder: str, watch: bool) -> None:
    """In the child, which gets a session of its own as what ``Process`` starts does."""
    os.setsid()
    for number, suffix in ((1, ".out"), (2, ".err")):
        with open(output + suffix, "wb") as file:
            os.dup2(file.fileno(), number)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["featureflow", *words]
    (watched if watch else cli).main()
