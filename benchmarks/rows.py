"""The rows of the ingest benchmark: each a stream, a job and how it is folded, measured and checked."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import redis
from installation import HERE, Workers, apply
from stream import Sender, Stream, produce, produce_at
from truth import verify

from featureflow.define import spec
from featureflow.store.keys import Keys
from featureflow.store.log.open import open_log
from featureflow.store.online import record
from featureflow.store.online.embedded import EmbeddedServer
from featureflow.store.online.redis import BUCKETS
from real_servers import Servers

Figures = dict[str, object]
READ_KEYS = 50  # of a reader's MGET
LIVE_S = 12


@dataclass(frozen=True)
class Fold:
    """A stream folded from a topic that holds it already."""

    name: str
    users: int = 10_000
    zipf: float = 0.0
    definitions: str = "payments.py"
    partitions: int = 1
    keyed: bool = True
    slab_bytes: int = 0
    workers: int = 1
    times: float = 1.0  # of the events that the benchmark is told
    rebuild: bool = False
    buckets: int = BUCKETS

    def __call__(self, servers: Servers, events: int) -> Figures:
        events = int(events * self.times)
        topic = f"{self.name}-{servers.run}"
        servers.empty()
        stream = Stream.of(events, self.users, zipf=self.zipf, partitions=self.partitions, keyed=self.keyed)
        project = apply(servers, topic, self.partitions, definitions=self.definitions, keyed=self.keyed, buckets=self.buckets)
        say(f"{self.name}: producing {events:,} events")
        batches = list(stream.batches()) if self.workers > 1 else []
        if self.workers == 1:
            produce(servers.kafka, topic, stream)
        if self.rebuild:  # what a rebuild leaves: no state, offsets at 0, and the whole log to fold again
            servers.empty()
            project = apply(servers, topic, self.partitions, definitions=self.definitions, keyed=self.keyed, buckets=self.buckets)
        options = ["--slab-bytes", str(self.slab_bytes)] if self.slab_bytes else []
        options += ["--rebuilt", str(events // 2)] if self.rebuild else []
        redis_before = servers.redis_cpu_s()
        with Workers(servers, self.workers, self.partitions, options) as workers:
            if batches:
                sender = Sender(servers.kafka, topic)
                for partition, records in batches:
                    sender.send(partition, records)
                sender.close()
            workers.folded(project, events)
            redis_s = servers.redis_cpu_s() - redis_before
            reports = workers.stop()
        counted = sum(report.events for report in reports)
        cpu_s, wall_s = sum(report.cpu_s for report in reports), max(report.wall_s for report in reports)
        figures: Figures = {
            "events": events, "users": self.users, "zipf": self.zipf, "windows": len({f.window for f in project.views[0].features}),
            "aggregations": len(project.views[0].aggregations), "partitions": self.partitions, "keyed": self.keyed,
            "buckets": self.buckets, "workers": self.workers,
            "events_per_s": round(counted / wall_s), "cpu_us_per_event": round(cpu_s / counted * 1e6, 3),
            "redis_cpu_us_per_event": round(redis_s / events * 1e6, 3),
            "max_commit_interval_ms": round(max(report.longest_commit_interval_s for report in reports) * 1e3, 1),
            "commits": sum(report.commits for report in reports),
            "stages_us_per_event": {
                name: round(sum(report.stages_s.get(name, 0.0) for report in reports) / counted * 1e6, 3)
                for name in reports[0].stages_s
            },
            "rss_mb": round(max(report.rss_mb for report in reports), 1),
            "redis_bytes_per_entity": round(memory_per_entity(servers, project, stream, self.buckets)),
            **verify(servers, project, stream, self.buckets),
        }  # fmt: skip
        if self.rebuild:
            figures["rss_mb_half_way"] = round(reports[0].half_mb, 1)
        return figures


def freshness(servers: Servers, events: int, per_s: int = 20_000) -> Figures:
    """Produced -> committed, milliseconds, of single events while others arrive at a steady rate."""
    topic = f"fresh-{servers.run}"
    servers.empty()
    project = apply(servers, topic, 1)
    child = Producing(servers, topic, Stream.of(per_s * LIVE_S, 10_000, span_s=LIVE_S, seed=2), per_s)
    with Workers(servers, 1, 1) as workers:
        child.begin()
        redis_before, began_at = servers.redis_cpu_s(), time.monotonic()
        taken, until, sender = [], time.monotonic() + LIVE_S - 2, Sender(servers.kafka, topic)
        keys = Keys(project.name, BUCKETS)
        key = keys.offset(project.views[0].id, project.sources[0].name, 0, keys.buckets[keys.number("user-0000001")])
        time.sleep(1)
        with servers.client() as client:
            while time.monotonic() < until:
                one = Stream(np.array([1]), np.array([time.time_ns() // 1000]), np.array([100]))
                began = time.perf_counter()
                offset = sender.send(0, next(one.batches())[1])
                while record.decode(client.get(key)).offset <= offset:
                    time.sleep(0.0005)
                taken.append((time.perf_counter() - began) * 1e3)
                time.sleep(0.02)
        redis_s, wall_s = servers.redis_cpu_s() - redis_before, time.monotonic() - began_at
        child.wait()
        (report,) = workers.stop()
    return {
        "events_per_s": per_s, "samples": len(taken), "commits_per_s": round(report.commits / report.wall_s, 1),
        "worker_cpu_share": round(report.cpu_s / report.wall_s, 3), "redis_cpu_share": round(redis_s / wall_s, 3),
        "freshness_p50_ms": round(float(np.percentile(taken, 50)), 2),
        "freshness_p99_ms": round(float(np.percentile(taken, 99)), 2),
    }  # fmt: skip


def reader(servers: Servers, events: int, per_s: int = 100_000) -> Figures:
    """How long an MGET of 50 states takes while events are folded at a steady rate, and while none are.

    Beside it, turn about, the same reads of a server with nothing else to do: what those take longer than in quiet is the wait for a
    processor, which all that runs here shares.
    """
    topic = f"reader-{servers.run}"
    servers.empty()
    project = apply(servers, topic, 1)
    view, source, names = project.views[0], project.sources[0], Keys(project.name, BUCKETS)
    keys = [names.state(view.entity, f"user-{u:07d}", view.id, source.name, None) for u in range(10_000)]
    chance = np.random.default_rng(3)

    def reads(clients: list[redis.Redis], seconds: float) -> list[list[float]]:
        taken: list[list[float]] = [[] for _ in clients]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            chosen = [keys[i] for i in chance.integers(0, len(keys), READ_KEYS).tolist()]
            for client, times in zip(clients, taken, strict=True):
                began = time.perf_counter()
                client.mget(chosen)
                times.append((time.perf_counter() - began) * 1e3)
                time.sleep(0.002)
        return taken

    child = Producing(servers, topic, stream := Stream.of(per_s * LIVE_S, 10_000, span_s=LIVE_S, seed=4), per_s)
    with Workers(servers, 1, 1) as workers, servers.client() as client, bystander(keys) as idle:
        child.begin()
        time.sleep(1.5)
        client.config_resetstat()
        busy, beside = reads([client, idle], LIVE_S - 4)
        commits = client.info("latencystats")["latency_percentiles_usec_evalsha"]
        child.wait()
        workers.folded(project, len(stream))
        (quiet,) = reads([client], 2)
        (report,) = workers.stop()
    return {
        "events_per_s": round(report.events / report.wall_s), "aimed_events_per_s": per_s, "keys": READ_KEYS, "samples": len(busy),
        "reader_mget_p50_ms": round(float(np.percentile(busy, 50)), 3), "reader_mget_p99_ms": round(float(np.percentile(busy, 99)), 3),
        "quiet_mget_p99_ms": round(float(np.percentile(quiet, 99)), 3),
        "bystander_mget_p50_ms": round(float(np.percentile(beside, 50)), 3),
        "bystander_mget_p99_ms": round(float(np.percentile(beside, 99)), 3),
        "commit_in_redis_p50_ms": round(commits["p50"] / 1e3, 3), "commit_in_redis_p99_ms": round(commits["p99"] / 1e3, 3),
        **verify(servers, project, stream),
    }  # fmt: skip


@contextmanager
def bystander(keys: list[bytes]) -> Iterator[redis.Redis]:
    """A server of its own, in which a state of 300 bytes stands under each of the keys."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        client = redis.Redis.from_url(server.url)
        client.mset(dict.fromkeys(keys, b"\0" * 300))
        yield client
        client.close()


def history(servers: Servers, events: int) -> Figures:
    """Events into MySQL, as it comes out of the box."""
    done = subprocess.run(
        [sys.executable, str(HERE / "history.py"), servers.kafka, servers.mysql, f"history-{servers.run}", str(events)],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def by_hand(servers: Servers, events: int) -> Figures:
    """The stream of the first row through the worker that one writes by hand; its output checked against the count."""
    topic = f"hand-{servers.run}"
    open_log(f"kafka://{servers.kafka}").ensure_topic(topic, 1)
    produce(servers.kafka, topic, Stream.of(events, 10_000))
    servers.empty()
    before, redis_before, began = resource.getrusage(resource.RUSAGE_CHILDREN), servers.redis_cpu_s(), time.perf_counter()
    subprocess.run([sys.executable, str(HERE / "by_hand.py"), servers.kafka, topic, servers.redis, str(events)], check=True)
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    redis_s = servers.redis_cpu_s() - redis_before
    with servers.client() as client:
        total = 0
        for key in client.scan_iter("byhand:*", 1000):
            total += sum(int(np.frombuffer(tile, "<f8")[0]) for tile in client.hvals(key))
    if total != events:
        raise SystemExit(f"the hand-written worker counted {total} of {events}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "by_hand_events_per_s": round(events / wall_s), "by_hand_cpu_us_per_event": round(cpu_s / events * 1e6, 3),
        "by_hand_redis_cpu_us_per_event": round(redis_s / events * 1e6, 3), "checked": "the count of all events",
    }  # fmt: skip


def memory_per_entity(servers: Servers, project: spec.Project, stream: Stream, buckets: int) -> float:
    """What Redis itself says that a user's state takes, names and bookkeeping included."""
    view, source, names = project.views[0], project.sources[0], Keys(project.name, buckets)
    owners = [None] if stream.keyed else range(stream.partitions)
    sample = np.unique(stream.users)[:: max(1, len(np.unique(stream.users)) // 200)].tolist()
    with servers.client() as client:
        used = [
            client.memory_usage(names.state(view.entity, f"user-{user:07d}", view.id, source.name, owner)) or 0
            for user in sample for owner in owners
        ]  # fmt: skip
    return float(np.sum(used)) / len(sample)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Producing:
    """Events at that rate from a process of its own, once it is told to ``begin``."""

    def __init__(self, servers: Servers, topic: str, stream: Stream, per_s: int) -> None:
        self._parent, child = socket.socketpair()
        self._child = os.fork()
        if self._child == 0:
            try:
                produce_at(servers.kafka, topic, stream, per_s, lambda: child.send(b".") and child.recv(1))
            finally:
                os._exit(0)
        child.close()
        self._parent.recv(1)

    @property
    def pid(self) -> int:
        return self._child

    def begin(self) -> None:
        self._parent.send(b".")
        self._parent.close()

    def wait(self) -> None:
        os.waitpid(self._child, 0)


def _scaled(row: Fold, prefix: str) -> dict[str, Callable[[Servers, int], Figures]]:
    """The row in more partitions, by one worker and by two."""
    return {
        f"{prefix}{partitions}-partitions" + ("-2-workers" if workers == 2 else ""): replace(
            row, name=f"{row.name}-{partitions}-{workers}", partitions=partitions, workers=workers
        )
        for partitions in (4, 16) for workers in (1, 2)
    }  # fmt: skip


UNIFORM = Fold("uniform")
ZIPF = Fold("zipf", users=1_000_000, zipf=1.1)
CAPPED = Fold("capped", users=1_000_000, slab_bytes=256 * 1024 * 1024, times=4)    # times: or hardly a user comes back after it was evicted
WIDE = Fold("wide", definitions="payments_wide.py", times=0.3)

ROWS: dict[str, Callable[[Servers, int], Figures]] = {
    "uniform": UNIFORM,
    "1-bucket": Fold("buckets-one", buckets=1),
    "16-buckets": Fold("buckets-sixteen", buckets=16),
    "zipf": ZIPF,
    "capped": CAPPED,
    "wide": WIDE,
    "unkeyed": Fold("unkeyed", partitions=16, keyed=False),
    "replay": Fold("replay", times=10, rebuild=True),
    **_scaled(UNIFORM, ""),
    "freshness": freshness,
    "reader": reader,
    "history": history,
    "by-hand": by_hand,
}
SCALED: dict[str, Callable[[Servers, int], Figures]] = {    # run where they are asked for
    **_scaled(ZIPF, "zipf-"), **_scaled(WIDE, "wide-"), **_scaled(CAPPED, "capped-"),
}  # fmt: skip
