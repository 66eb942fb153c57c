"""The real servers that ``make services`` started, and a quiet corner of each for one benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

from redis import Redis

SERVICES = Path(__file__).parent.parent / "scripts" / "services.py"


@dataclass(frozen=True)
class Servers:
    kafka: str
    redis: str
    mysql: str
    versions: dict[str, str]
    pids: dict[str, int] = field(default_factory=dict)  # of those that run as processes here
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])  # in every topic's and group's name

    @staticmethod
    def find(database: int) -> Servers:
        """``database``: of Redis, unless BENCH_DATABASE says another, so that two benchmarks can run at once."""
        # its exit code says whether all are up, its rows which
        status = json.loads(subprocess.run([sys.executable, SERVICES, "status", "--json"], stdout=subprocess.PIPE).stdout)
        up = {service["name"]: service for service in status["services"] if service["up"]}
        if absent := {"kafka", "redis"} - up.keys():
            raise SystemExit(f"{', '.join(sorted(absent))} is not up. Run: make services")
        address = {name: f"{service['host']}:{service['port']}" for name, service in up.items()}
        return Servers(
            address["kafka"], f"redis://{address['redis']}/{os.environ.get('BENCH_DATABASE', database)}",
            f"mysql+pymysql://featureflow:featureflow@{address.get('mysql', 'absent')}", {name: s["version"] for name, s in up.items()},
            {name: s["pid"] for name, s in up.items() if s.get("pid")},
        )  # fmt: skip

    def again(self) -> Servers:
        """The same servers for another run."""
        return replace(self, run=uuid.uuid4().hex[:8])

    def client(self) -> Redis:
        return Redis.from_url(self.redis)

    def empty(self) -> None:
        """Flush the benchmark's own database."""
        with self.client() as client:
            client.flushdb()

    def redis_cpu_s(self) -> float:
        with self.client() as client:
            info = client.info("cpu")
            return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
