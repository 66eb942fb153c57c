"""``make bench-ingest``: events into exactly-once windowed features, on real Kafka and Redis, beside the worker one writes by hand.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
from kafka import KafkaProducer
from noise import noise

from featureflow.define import spec
from featureflow.define.project import load
from featureflow.kernel.finalize import ViewKernel
from featureflow.kernel.state import parse
from featureflow.store.history.sql import SqlHistory
from featureflow.store.keys import Keys
from featureflow.store.log.open import open_log
from featureflow.store.online import record
from featureflow.store.online.redis import RedisOnlineStore
from featureflow.store.registry import Registry
from servers import Servers

HERE = Path(__file__).parent
DATABASE = 15
SPAN_S = 3600  # event time that the events cover
USERS = 10_000
TILE_US = 10_000_000
LIVE_PER_S, LIVE_S = 5_000, 10


def events_of(
    count: int, first: int, base_us: int, span_s: float, users: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(user number, event time, amount in cents) of so many events."""
    chance = np.random.default_rng(first)
    at = base_us + (np.arange(count) * (span_s * 1e6 / count)).astype(np.int64)
    return chance.integers(0, users, count), at, chance.integers(1, 100_000, count)


def produce(
    servers: Servers, topic: str, users: np.ndarray, at: np.ndarray, cents: np.ndarray, per_s: float = 0.0
) -> None:
    producer = KafkaProducer(
        bootstrap_servers=servers.kafka, compression_type="lz4", linger_ms=5 if per_s else 20, batch_size=256 * 1024
    )
    began = time.monotonic()
    for index, (user, time_us, amount) in enumerate(zip(users.tolist(), at.tolist(), cents.tolist(), strict=True)):
        name = f"user-{user:07d}"
        body = (
            f'{{"at":{time_us},"user":"{name}","amount":{amount / 100},"currency":"EUR","channel":"web",'
            f'"merchant":"m-{amount % 997:04d}","terminal":"t-{user % 89:05d}"}}'
        )
        producer.send(topic, body.encode(), name.encode())
        if per_s and index % 50 == 0:
            time.sleep(max(0.0, began + index / per_s - time.monotonic()))
    producer.flush()
    producer.close()


def apply(servers: Servers, topic: str, partitions: int) -> spec.Project:
    project = load(HERE / "payments.py")
    source = msgspec.structs.replace(project.sources[0], topic=topic)
    views = tuple(spec.with_version(view, {source.name: source}) for view in project.views)
    project = msgspec.structs.replace(project, sources=(source,), views=views)
    with tempfile.TemporaryDirectory() as folder:
        history, online = SqlHistory(f"sqlite:///{folder}/history.db"), RedisOnlineStore(servers.redis)
        log = open_log(f"kafka://{servers.kafka}")
        Registry(history, online, log).apply(project, partitions=partitions)
        for store in (history, online, log):
            store.close()
    return project


def verify(
    servers: Servers, project: spec.Project, users: np.ndarray, at: np.ndarray, cents: np.ndarray
) -> dict[str, float]:
    """Compare every feature of 300 users with a numpy replay; raises where one differs."""
    view, source = project.views[0], project.sources[0]
    kernel = ViewKernel(view, {source.name: source})
    online, names = RedisOnlineStore(servers.redis), Keys(project.name)
    sample = np.unique(users)[:: max(1, len(np.unique(users)) // 300)]
    q = int(at.max())
    blobs = online.read(
        [names.state(view.entity, f"user-{u:07d}", view.id, source.name, None) for u in sample.tolist()]
    )
    layout = kernel.layouts[source.name]
    values = kernel.finalize({source.name: parse(layout, [[blob] for blob in blobs])}, np.full(len(sample), q)).values
    tiles = {"10m": 10_000_000, "1h": 300_000_000, "6h": 900_000_000}
    for row, user in enumerate(sample.tolist()):
        mine = users == user
        times, amounts = at[mine], cents[mine]
        for column, feature in enumerate(view.features):
            tile, length = tiles[feature.window.text], feature.window.length_us
            amount = amounts[times // tile * tile >= (q - length) // tile * tile] / 100
            exact = {
                "count": len(amount), "min": amount.min(initial=np.inf), "max": amount.max(initial=-np.inf),
                "sum": _exact_sum(amount), "mean": _exact_sum(amount) / max(len(amount), 1),
            }[feature.aggregation.op]  # fmt: skip
            if len(amount) and values[row, column] != exact:
                raise SystemExit(f"wrong: user {user} {feature.name} is {values[row, column]}, must be {exact}")
    online.close()
    sizes = [len(blob) for blob in blobs if blob]
    return {"checked_users": len(sample), "state_bytes_per_entity": round(float(np.mean(sizes)))}


def _exact_sum(amounts: np.ndarray) -> float:
    from math import fsum

    return fsum(amounts.tolist())


def memory_per_entity(servers: Servers, project: spec.Project) -> float:
    """What Redis itself says that a state key takes, name and bookkeeping included."""
    view, source = project.views[0], project.sources[0]
    with servers.client() as client:
        used = [
            client.memory_usage(Keys(project.name).state(view.entity, f"user-{u:07d}", view.id, source.name, None)) or 0
            for u in range(0, USERS, 50)
        ]
    return float(np.mean(used))


def ours(servers: Servers, events: int, partitions: int) -> dict[str, object]:
    topic = f"payments-{servers.run}"
    servers.empty()
    project = apply(servers, topic, partitions)
    base_us = time.time_ns() // 1000 - SPAN_S * 1_000_000
    users, at, cents = events_of(events, 1, base_us, SPAN_S, USERS)
    print(f"producing {events:,} events", file=sys.stderr, flush=True)
    produce(servers, topic, users, at, cents)
    redis_before = servers.redis_cpu_s()
    worker = subprocess.Popen(
        [
            sys.executable,
            str(HERE / "fold.py"),
            servers.kafka,
            servers.redis,
            f"ours-{servers.run}",
            str(events),
            "forever",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert worker.stdout is not None
        fold = json.loads(worker.stdout.readline())
        redis_s = servers.redis_cpu_s() - redis_before
        checked = verify(servers, project, users, at, cents)
        fresh = freshness(servers, project, topic)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    return {
        "events_per_s": round(events / fold["wall_s"]),
        "cpu_us_per_event": round(fold["cpu_s"] / events * 1e6, 3),
        "redis_cpu_us_per_event": round(redis_s / events * 1e6, 3),
        "max_commit_interval_ms": round(fold["longest_commit_interval_s"] * 1e3, 1),
        "commits": fold["commits"],
        "stages_us_per_event": {name: round(s / events * 1e6, 3) for name, s in fold["stages_s"].items()},
        **fresh,
        "rss_mb": round(fold["rss_mb"], 1),
        "redis_bytes_per_entity": round(memory_per_entity(servers, project)),
        **checked,
    }


def freshness(servers: Servers, project: spec.Project, topic: str) -> dict[str, float]:
    """Produced -> readable, milliseconds, while other events arrive at a steady rate."""
    view, source = project.views[0], project.sources[0]
    base_us = time.time_ns() // 1000
    others = events_of(LIVE_PER_S * LIVE_S, 2, base_us, LIVE_S, USERS)
    if (child := os.fork()) == 0:
        produce(servers, topic, *others, per_s=LIVE_PER_S)
        os._exit(0)
    producer = KafkaProducer(bootstrap_servers=servers.kafka, linger_ms=0, acks="all")
    taken, until = [], time.monotonic() + LIVE_S - 1
    with servers.client() as client:
        while time.monotonic() < until:
            began = time.perf_counter()
            body = f'{{"at":{time.time_ns() // 1000},"user":"user-0000001","amount":1.0}}'
            sent = producer.send(topic, body.encode(), b"user-0000001").get(10)
            key = Keys(project.name).offset(view.id, source.name, sent.partition)
            while record.decode(client.get(key)).offset <= sent.offset:
                time.sleep(0.0005)
            taken.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.02)
    producer.close()
    os.waitpid(child, 0)
    return {
        "freshness_p50_ms": round(float(np.percentile(taken, 50)), 2),
        "freshness_p99_ms": round(float(np.percentile(taken, 99)), 2),
    }


def by_hand(servers: Servers, events: int, topic: str) -> dict[str, object]:
    """The same topic through the hand-written worker; its output checked against numpy."""
    servers.empty()
    before, redis_before, began = (
        resource.getrusage(resource.RUSAGE_CHILDREN),
        servers.redis_cpu_s(),
        time.perf_counter(),
    )
    subprocess.run(
        [sys.executable, str(HERE / "by_hand.py"), servers.kafka, topic, servers.redis, str(events)], check=True
    )
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    with servers.client() as client:
        total = 0
        for key in client.scan_iter("byhand:*", 1000):
            total += sum(int(np.frombuffer(tile, "<f8")[0]) for tile in client.hvals(key))
    if total != events:
        raise SystemExit(f"the hand-written worker counted {total} of {events}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "by_hand_events_per_s": round(events / wall_s),
        "by_hand_cpu_us_per_event": round(cpu_s / events * 1e6, 3),
        "by_hand_redis_cpu_us_per_event": round((servers.redis_cpu_s() - redis_before) / events * 1e6, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=1)
    arguments = parser.parse_args()
    servers = Servers.find(DATABASE)
    before = noise()
    mine = ours(servers, arguments.events, arguments.partitions)
    topic = f"hand-{servers.run}"
    open_log(f"kafka://{servers.kafka}").ensure_topic(topic, arguments.partitions)
    base_us = time.time_ns() // 1000 - SPAN_S * 1_000_000
    produce(servers, topic, *events_of(arguments.events, 1, base_us, SPAN_S, USERS))
    hand = by_hand(servers, arguments.events, topic)
    servers.empty()
    ratio = float(str(hand["by_hand_cpu_us_per_event"])) / float(str(mine["cpu_us_per_event"]))
    print(json.dumps({
        "events": arguments.events, "users": USERS, "windows": 3, "aggregations": 5, "partitions": arguments.partitions, **mine, **hand,
        "ratio": round(ratio, 2), "noise_before": before, "noise_after": noise(), "versions": servers.versions,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
