"""A project applied to the real servers, and workers folding into it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from report import Report

from featureflow.define import spec
from featureflow.define.project import load
from featureflow.define.version import with_version
from featureflow.store.history.sql import SqlHistory
from featureflow.store.keys import Keys
from featureflow.store.log.open import open_log
from featureflow.store.mirror import BUCKETS_DOCUMENT
from featureflow.store.online import record
from featureflow.store.online.redis import BUCKETS, RedisOnlineStore
from featureflow.store.registry import Registry
from real_servers import Servers

HERE = Path(__file__).parent


def apply(
    servers: Servers, topic: str, partitions: int, *, definitions: str = "payments.py", keyed: bool = True, buckets: int = BUCKETS
) -> spec.Project:
    project = load(HERE / definitions)
    source = msgspec.structs.replace(project.sources[0], topic=topic, keyed_by=project.sources[0].keyed_by if keyed else None)
    views = tuple(with_version(view, {source.name: source}) for view in project.views)
    project = msgspec.structs.replace(project, sources=(source,), views=views)
    with tempfile.TemporaryDirectory() as folder:
        history, online = SqlHistory(f"sqlite:///{folder}/history.db"), RedisOnlineStore(servers.redis)
        log = open_log(f"kafka://{servers.kafka}")
        Registry(history, online, log, buckets=buckets).apply(project, partitions=partitions)
        for store in (history, online, log):
            store.close()
    return project


def committed(servers: Servers, project: spec.Project, partitions: int) -> int:
    """Events that all of the partitions are committed past."""
    view, source = project.views[0], project.sources[0]
    with servers.client() as client:
        keys = Keys(project.name, int(client.get(Keys(project.name).meta(BUCKETS_DOCUMENT)) or 1))
        names = [keys.offset(view.id, source.name, p, bucket) for p in range(partitions) for bucket in keys.buckets]
        offsets = [record.decode(value).offset for value in client.mget(names)]
    each = len(keys.buckets)
    return sum(min(offsets[p * each : (p + 1) * each]) for p in range(partitions))


@dataclass
class Workers:
    """``count`` worker processes of one group, which share the partitions evenly."""

    servers: Servers
    count: int
    partitions: int
    options: list[str] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Workers:
        group = f"fold-{self.servers.run}-{time.monotonic_ns()}"
        share = str(self.partitions // self.count)
        command = [sys.executable, str(HERE / "fold.py"), self.servers.kafka, self.servers.redis, group, "--partitions", share]
        self.processes = [subprocess.Popen([*command, *self.options], stdout=subprocess.PIPE) for _ in range(self.count)]
        for process in self.processes:
            assert process.stdout is not None
            while process.stdout.readline() != b"ready\n":
                if process.poll() is not None:
                    raise SystemExit("a worker ended before it had its partitions")
        return self

    def folded(self, project: spec.Project, events: int, *, most_s: float = 3_600.0) -> None:
        until = time.monotonic() + most_s
        while committed(self.servers, project, self.partitions) < events:
            if time.monotonic() > until or any(process.poll() is not None for process in self.processes):
                raise SystemExit(f"{events} events are not folded after {most_s} s, or a worker ended")
            time.sleep(0.02)

    def stop(self) -> list[Report]:
        """Their reports."""
        reports = []
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            out, _ = process.communicate(timeout=60)
            reports.append(msgspec.json.decode(out.splitlines()[-1], type=Report))
        return reports

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
