"""One worker process: folds until it is told to stop by SIGTERM, then prints what that cost, as one JSON line.

``ready`` is printed once the partitions are claimed; from then on it counts.
"""

from __future__ import annotations

import argparse
import resource
import signal
import time
from collections import defaultdict
from typing import ClassVar

import msgspec
from prometheus_client import CollectorRegistry
from report import Report

from featureflow.clock import SystemClock
from featureflow.ingest.failpoint import Name
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.limits import SLAB_BYTES
from featureflow.log_lines import log_as_json
from featureflow.store.log.open import open_log
from featureflow.store.mirror import buckets_of, mirrored
from featureflow.store.online.redis import RedisOnlineStore


class Stages:
    """Wall time between the places that the worker passes, and the longest time between two commits."""

    STAGE: ClassVar = {
        "after_poll": "poll", "after_decode": "decode", "after_dead_letters": "load_and_dead_letters", "after_fold": "fold",
        "before_commit": "pack_and_send", "in_flight": "read_ahead", "after_commit": "wait", "after_advisory": "advisory",
    }  # fmt: skip

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was counted, and count from now on."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.commits = 0
        self.longest_s = 0.0
        self._at = time.perf_counter()
        self._committed: float | None = None

    def __call__(self, name: Name) -> None:
        now = time.perf_counter()
        self.seconds[self.STAGE.get(name, name)] += now - self._at
        self._at = now
        if name == "after_commit":
            self.commits += 1
            if self._committed is not None:
                self.longest_s = max(self.longest_s, now - self._committed)
            self._committed = now


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime


def rss_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kafka")
    parser.add_argument("redis")
    parser.add_argument("group")
    parser.add_argument("--slab-bytes", type=int, default=SLAB_BYTES)
    parser.add_argument("--partitions", type=int, default=1, help="that this worker waits for")
    parser.add_argument("--rebuilt", type=int, default=0, help="report the memory in use after so many events, and at the end")
    arguments = parser.parse_args()
    log_as_json()
    log, online = open_log(f"kafka://{arguments.kafka}"), RedisOnlineStore(arguments.redis)
    project = mirrored(online)
    assert project is not None, "apply first"
    stages, stopping = Stages(), []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    worker = Worker(
        log, online, project, SystemClock(), WorkerMetrics(CollectorRegistry()), group=arguments.group, failpoint=stages,
        slab_bytes=arguments.slab_bytes, buckets=buckets_of(online),
    )  # fmt: skip
    worker.open()
    early = done = 0
    while len(worker.status().partitions) != arguments.partitions or any(p.problem for p in worker.status().partitions):
        early += worker.step(timeout_s=0.05)  # join and claim
    print("ready", flush=True)
    stages.begin()  # joining is not folding
    used, began, last, half_mb = cpu_s(), time.perf_counter(), 0.0, 0.0
    at_last = used
    while not stopping:
        if folded := worker.step(timeout_s=0.05):
            done += folded
            last, at_last = time.perf_counter(), cpu_s()
            if arguments.rebuilt and not half_mb and done >= arguments.rebuilt:
                half_mb = rss_mb()
    report = Report(
        events=done, early_events=early, wall_s=last - began, cpu_s=at_last - used, commits=stages.commits,
        longest_commit_interval_s=stages.longest_s, stages_s=dict(stages.seconds), rss_mb=rss_mb(), half_mb=half_mb,
    )  # fmt: skip
    print(msgspec.json.encode(report).decode(), flush=True)
    worker.close()


if __name__ == "__main__":
    main()
