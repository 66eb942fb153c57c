"""A real Kafka, Redis and MySQL of its own, that may be killed, damaged and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from servers import Services

REPOSITORY = Path(__file__).resolve().parents[2]
GONE_S = 60.0


class OwnServers:
    """A ``with`` block: started, and at its end stopped and wiped. Only these processes are ever signalled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = {"kafka": 0, "redis": 0, "mysql": 0}

    def __enter__(self) -> OwnServers:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._call("stop", "--wipe")

    def start(self) -> None:
        """Whichever is not up, where it was before."""
        rows = json.loads(self._call("start", "--json"))["services"]
        self._ports = {row["name"]: row["port"] for row in rows}

    @property
    def services(self) -> Services:
        rows = {row["name"]: row for row in json.loads(self._call("status", "--json"))["services"]}
        place = {name: f"{row['host']}:{row['port']}" for name, row in rows.items()}
        return Services(
            kafka=place["kafka"],
            redis=f"redis://{place['redis']}",
            mysql=f"mysql+pymysql://featureflow:featureflow@{place['mysql']}",
            versions={name: row["version"] for name, row in rows.items()},
            pids={name: row["pid"] for name, row in rows.items()},
        )

    def port(self, name: str) -> int:
        return self._ports[name]

    def end(self, name: str, how: signal.Signals) -> None:
        """Signal one server and wait until it is gone."""
        pid = json.loads((self.folder / "services.json").read_text())[name]["pid"]
        os.kill(pid, how)
        until = time.monotonic() + GONE_S
        while _runs(pid) or self._listens(name):           # a thread of it may outlive its first one by a moment, with the port
            assert time.monotonic() < until, f"{name} (process {pid}) still runs {GONE_S:.0f} s after {how.name}"
            time.sleep(0.02)

    def _listens(self, name: str) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port(name))) == 0

    def log_of_redis(self) -> Path:
        """The file that Redis appends to now."""
        return max((self.folder / "redis" / "appendonlydir").glob("*.incr.aof"), key=lambda file: int(file.name.split(".")[-3]))

    def _call(self, verb: str, *words: str) -> str:
        ports = [word for name, port in self._ports.items() for word in (f"--{name}-port", str(port))]
        command = [sys.executable, str(REPOSITORY / "scripts" / "services.py"), verb, "--native", "--dir", str(self.folder), *ports, *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"services {verb}: {done.stdout}{done.stderr}"
        return done.stdout.splitlines()[-1] if done.stdout else ""


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
