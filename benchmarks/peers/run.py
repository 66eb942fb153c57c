"""Other stream engines on the topic and windows of the ingest benchmark, each result compared with numpy's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from peers import environments, truth
from peers.environments import Command

from servers import Servers

ENGINES: dict[str, Callable[[], Command]] = {
    "flink": environments.flink,
    "bytewax": lambda: environments.python("bytewax"),
    "quix": lambda: environments.python("quix"),
}
LONGEST_S = 1_200


@dataclass(frozen=True)
class Topic:
    """Events that a producer has written, and what they are; after them one far later event of nobody's closes every window."""

    name: str
    users: np.ndarray
    at_us: np.ndarray
    cents: np.ndarray


def rows(servers: Servers, topic: Topic, nothing: Topic, engines: list[str]) -> list[dict[str, object]]:
    """A row for each engine and window. ``nothing`` has the last event only: what the engine takes for it is its start."""
    found = []
    for name in engines:
        command = ENGINES[name]()
        for window in (truth.TUMBLING, truth.HOPPING):
            started = _run(servers, command, window, nothing)
            wall_s, cpu_s = (max(taken - start, 1e-9) for taken, start in zip(_run(servers, command, window, topic), started, strict=True))
            with servers.client() as client:
                differing, extra = truth.wrong(client, *truth.windows(window, topic.users, topic.at_us, topic.cents))
            events = len(topic.users)
            found.append({
                "row": f"{name} {window}", "version": command.version, "events": events, "events_per_s": round(events / wall_s),
                "cpu_us_per_event": round(cpu_s / events * 1e6, 2), "start_s": round(started[0], 1), "wrong": differing, "extra": extra,
            })  # fmt: skip
            print(found[-1], file=sys.stderr, flush=True)
    return found


def _run(servers: Servers, command: Command, window: str, topic: Topic) -> tuple[float, float]:
    """(wall, CPU) seconds of one run over all of the topic, on an empty database."""
    servers.empty()
    place = urlsplit(servers.redis)
    folder = tempfile.mkdtemp()
    extra = {
        "flink": [str(place.port), place.path.lstrip("/"), folder],
        "bytewax": [servers.redis],
        "quix": [servers.redis, folder],
    }[command.name]
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            [*command.words, servers.kafka, topic.name, window, *extra], stdout=sys.stderr, env=_environment()
        )
        timer = time.monotonic() + LONGEST_S
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > timer:
                process.kill()
                raise SystemExit(f"{command.name} {window} took longer than {LONGEST_S} s")
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command.name} {window} ended with {process.returncode}")
        return time.monotonic() - began, used.ru_utime + used.ru_stime
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Without this project's own environment, of which the engines know nothing."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
