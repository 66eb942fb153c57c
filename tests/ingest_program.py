"""A worker as a process of its own, on real servers, that may be told to die or to stop at a step. Started by the fault tests."""

from __future__ import annotations

import signal
import threading
from multiprocessing.connection import Connection

from kill_at import parse
from prometheus_client import CollectorRegistry
from worker_rig import project_on

from featureflow.clock import SystemClock
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.store.log.kafka import KafkaLog
from featureflow.store.online.redis import RedisOnlineStore


def main(kafka: str, redis: str, topic: str, member: str, kill: str, stop: str, told_at_end: Connection) -> None:
    """Work until SIGTERM, then send how many commits had which outcome."""
    log, online, registry = KafkaLog(kafka, session_ms=6_000), RedisOnlineStore(redis), CollectorRegistry()
    point = parse(stop, signal.SIGSTOP) if stop else parse(kill)
    worker = Worker(
        log, online, project_on(topic), SystemClock(), WorkerMetrics(registry),
        group=topic, member=member or None, failpoint=point, commit_rows=20,
    )
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda signum, frame: told.set())
    worker.run(told)
    online.close()
    log.close()
    told_at_end.send({
        sample.labels["outcome"]: int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "featureflow_ingest_commits_total"
    })
