"""One worker process: folds so many events of one topic and prints what it cost, as one JSON line."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from typing import ClassVar

from prometheus_client import CollectorRegistry

from featureflow.clock import SystemClock
from featureflow.ingest.failpoint import Name
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.log_lines import log_as_json
from featureflow.store.log.open import open_log
from featureflow.store.online.redis import RedisOnlineStore
from featureflow.store.registry import mirrored

IDLE_S = 3.0


class Stages:
    """Wall time between the places that the worker passes, and the longest time between two commits."""

    STAGE: ClassVar = {
        "after_poll": "poll", "after_decode": "decode", "after_dead_letters": "load_and_dead_letters", "after_fold": "fold",
        "before_commit": "pack", "after_commit": "commit", "after_advisory": "advisory",
    }  # fmt: skip

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was counted, and count from now on."""
        self.seconds: Counter[str] = Counter()
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


def main(kafka: str, redis: str, group: str, events: int, forever: bool) -> None:
    log_as_json()
    log, online = open_log(f"kafka://{kafka}"), RedisOnlineStore(redis)
    project = mirrored(online)
    assert project is not None, "apply first"
    stages = Stages()
    worker = Worker(
        log, online, project, SystemClock(), WorkerMetrics(CollectorRegistry()), group=group, failpoint=stages
    )
    worker.open()
    done = 0
    while not worker.status().partitions or any(p.problem for p in worker.status().partitions):
        done += worker.step(timeout_s=0.05)  # join and claim; what it may fold already counts
    stages.begin()  # joining is not folding
    began, used = time.perf_counter(), cpu_s()
    while done < events:
        done += worker.step()
    report = {
        "events": done, "wall_s": time.perf_counter() - began, "cpu_s": cpu_s() - used, "commits": stages.commits,
        "longest_commit_interval_s": stages.longest_s, "stages_s": dict(stages.seconds),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip
    print(json.dumps(report), flush=True)
    while forever:
        worker.step(timeout_s=0.05)
    worker.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), len(sys.argv) > 5)
