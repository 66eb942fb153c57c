"""``make bench-score``: three views and an INT8 model over HTTP, beside what aiohttp alone costs, in one run, alternated.

    make bench-score PEERS=1        also the same model in other servers

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import numpy as np
from load import Load, request_bytes, run
from noise import noise
from peers.scoring import PEERS, Questions, best
from peers.scoring import rows as peer_rows
from prometheus_client import CollectorRegistry

from featureflow.cli.context import Context
from featureflow.define.spec import Source
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.kernel.decode import encode
from featureflow.log_lines import log_as_json
from featureflow.models.export import export_mlp
from featureflow.models.loaded import LoadedModel
from featureflow.models.manifest import inputs_of
from featureflow.models.transform import Steps, fit
from featureflow.store.log.protocol import Record
from featureflow.store.mirror import buckets_of
from real_servers import Servers

HERE = Path(__file__).parent
DATABASE = 14
EVENTS, USERS, MERCHANTS, DEVICES = 60_000, 2_000, 500, 3_000
BODIES = 2_000
CONNECTIONS = 64
_held: list[socket.socket] = []


def fill(here: Context, events: int = EVENTS) -> None:
    """Events of the last hour, folded."""
    chance = np.random.default_rng(5)
    now_us = time.time_ns() // 1000
    source = here.applied.source("purchase")
    records = [
        Record(encode(source, {
            "at": now_us - 3_600_000_000 + i * (3_600_000_000 // events), "user": f"u{chance.integers(USERS)}",
            "merchant": f"m{chance.integers(MERCHANTS)}", "device": f"d{chance.integers(DEVICES)}",
            "amount": float(np.round(chance.lognormal(3, 1), 2)),
        }))
        for i in range(events)
    ]  # fmt: skip
    fold(here, source, records)


def fold(here: Context, source: Source, records: list[Record]) -> None:
    """Append them, and fold them in this process."""
    for start in range(0, len(records), 2_000):
        here.log.append(source.topic, records[start : start + 2_000])
    worker = Worker(here.log, here.online, here.applied, here.clock, WorkerMetrics(CollectorRegistry()), buckets=buckets_of(here.online))
    worker.open()
    done = 0
    while done < len(records):
        done += worker.step()
    worker.close()


def make_model(here: Context) -> tuple[LoadedModel, Path]:
    """A perceptron 256-128 with random weights, quantized; the variant that answers, and its file."""
    chance = np.random.default_rng(3)
    model = here.applied.model("odd")
    inputs = inputs_of(model)
    rows = np.abs(chance.lognormal(2, 1, (4_000, sum(i.size for i in inputs))))
    transforms = fit(rows, inputs, otherwise=Steps(clip=(0.001, 0.999)))
    sizes = [rows.shape[1], 256, 128, 1]
    weights = [chance.normal(0, (2 / a) ** 0.5, (a, b)) for a, b in pairwise(sizes)]
    file = here.folder / "odd.onnx"
    export_mlp(weights, [np.zeros(b) for b in sizes[1:]], file)
    store = here.models
    store.add("odd", file, inputs=inputs, transforms=transforms, calibration=rows, model=model)
    store.quantize("odd", tolerance=model.drift)
    loaded = store.load("odd")
    return loaded, store.path / loaded.name / loaded.version / loaded.manifest.variants[loaded.variant].file


@contextmanager
def child(command: list[str], ready: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stdout is not None
        while ready and ready not in (line := process.stdout.readline()):
            if not line:
                raise SystemExit(f"{' '.join(command)} ended before it was ready")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def ask_once(port: int, body: bytes) -> Any:
    """The first answer that lacks nothing, which on a busy machine need not be the first one. After a minute whatever comes."""
    from urllib.request import Request

    until = time.monotonic() + 60
    while True:
        try:
            with urlopen(
                Request(f"http://127.0.0.1:{port}/v1/score/odd", body, {"Content-Type": "application/json"}), timeout=5
            ) as answer:
                found = json.loads(answer.read())
            if not found["degraded"] or time.monotonic() > until:
                return found
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


def refusals(port: int) -> dict[str, int]:
    """What the scorer counted so far, by reason."""
    text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("featureflow_shed_total{")]
    return {line.split('"')[1]: int(float(line.rsplit(" ", 1)[1])) for line in lines}


def free_port() -> int:
    """A port that is ours until this process ends: held by a socket that does not listen, so that the system gives it to nobody else.

    A server that is told the number can listen there all the same, since both set SO_REUSEADDR.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    return int(holder.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of the measured stretches")
    parser.add_argument("--rounds", type=int, default=3, help="times each, in both orders")
    parser.add_argument("--peers", default="", help=f"the same model in other servers: some of {', '.join(PEERS)}, or 1 for all")
    arguments = parser.parse_args()
    log_as_json()
    servers = Servers.find(DATABASE)
    servers.empty()
    folder = Path(tempfile.mkdtemp(prefix="featureflow-bench-"))
    port, bare_port, unlogged_port = free_port(), free_port(), free_port()
    try:
        shutil.copy(HERE / "purchases.py", folder / "features.py")
        (folder / "featureflow.toml").write_text(
            f'[project]\nname = "bench"\n[log]\nurl = "{servers.redis}"\n'
            f'[online]\nurl = "{servers.redis}"\nstale_after = "1d"\n[serve]\nport = {port}\n'
        )
        with Context(folder, {}) as here:
            here.registry.apply(here.written, partitions=1)
            fill(here)
            model, file = make_model(here)
            variant = model.variant
        chance = np.random.default_rng(8)
        bodies = [
            msgspec.json.encode({
                "entities": {
                    "user": f"u{chance.integers(USERS)}",
                    "merchant": f"m{chance.integers(MERCHANTS)}",
                    "device": f"d{chance.integers(DEVICES)}",
                },
                "context": {"amount": float(np.round(chance.lognormal(3, 1), 2))},
            })
            for _ in range(BODIES)
        ]  # fmt: skip
        scorer = [sys.executable, "-m", "featureflow.cli", "--project", str(folder), "serve"]
        unlogged = {"FEATUREFLOW_SERVE_PORT": str(unlogged_port), "FEATUREFLOW_SERVE_LOG_PREDICTIONS": "false"}
        with child(scorer, "Scoring at") as logging, child(scorer, "Scoring at", unlogged) as silent:
            explained = ask_once(port, bodies[0][:-1] + b',"explain":true}')
            answer = json.dumps(ask_once(port, bodies[0])).encode()
            ask_once(unlogged_port, bodies[0])
            statuses = [f["status"] for row in explained["features"] for f in row.values()]
            if explained["variant"] != variant or explained["degraded"] or "present" not in statuses:
                raise SystemExit(f"not what is to be measured: {explained}")
            requests = [request_bytes("/v1/score/odd", body) for body in bodies]
            with child([sys.executable, str(HERE / "bare.py"), str(bare_port), str(len(answer))], "serving") as alone:
                before = noise()
                asked = {
                    "ours": Asked(port, logging.pid), "bare": Asked(bare_port, alone.pid), "unlogged": Asked(unlogged_port, silent.pid)
                }  # fmt: skip
                loads = measure(asked, requests, servers, arguments.seconds, arguments.rounds)
            others = []
            if arguments.peers:
                names = list(PEERS) if arguments.peers == "1" else arguments.peers.split(",")
                questions = Questions.asked(port, bodies, model.manifest)
                others = peer_rows(
                    names, port, requests, questions, file, connections=CONNECTIONS, seconds=arguments.seconds, rounds=arguments.rounds
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        servers.empty()
    bare = [load.req_s for load in loads["bare"]]
    ratios = {name: [a.req_s / b for a, b in zip(loads[name], bare, strict=True)] for name in ("ours", "unlogged")}
    print(json.dumps({
        "connections": CONNECTIONS, "views": 3, "variant": variant, "answer_bytes": len(answer),
        "req_s": middle(loads["ours"], "req_s", 0), "p50_ms": middle(loads["ours"], "p50_ms"),
        "p99_ms": middle(loads["ours"], "p99_ms"), "score_stddev_ms": middle(loads["ours"], "stddev_ms"),
        "bare_req_s": middle(loads["bare"], "req_s", 0), "bare_p50_ms": middle(loads["bare"], "p50_ms"),
        "bare_p99_ms": middle(loads["bare"], "p99_ms"),
        "ratio_to_bare": round(float(np.median(ratios["ours"])), 3),
        "ratio_min": round(min(ratios["ours"]), 3), "ratio_max": round(max(ratios["ours"]), 3),
        "unlogged_req_s": middle(loads["unlogged"], "req_s", 0),
        "unlogged_ratio_to_bare": round(float(np.median(ratios["unlogged"])), 3),
        "cpu_us": middle(loads["ours"], "cpu_us", 1), "unlogged_cpu_us": middle(loads["unlogged"], "cpu_us", 1),
        "bare_cpu_us": middle(loads["bare"], "cpu_us", 1), "redis_cpu_us": middle(loads["ours"], "redis_cpu_us", 1),
        "unlogged_redis_cpu_us": middle(loads["unlogged"], "redis_cpu_us", 1),
        "not_ok": sum(s.load.not_ok for several in loads.values() for s in several),
        **({"peers": others, **best(others)} if others else {}),
        "noise_before": before, "noise_after": noise(), "versions": servers.versions,
    }))  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A server under load: its port, and the process whose processor time counts."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """User and system time of all its threads so far."""
        return sum(self.cpu_parts_s())

    def cpu_parts_s(self) -> tuple[float, float]:
        """The same, one and the other."""
        return cpu_parts_s(self.pid)


def cpu_parts_s(pid: int) -> tuple[float, float]:
    """User and system time of all the process's threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


@dataclass(frozen=True)
class Stretch:
    """One load, and what a request cost: processor time tells more than throughput on a machine that others use too."""

    load: Load
    cpu_us: float  # of the server's process, a request
    redis_cpu_us: float  # of Redis, a request; whoever else asks it is in here

    @property
    def req_s(self) -> float:
        return self.load.req_s


def middle(stretches: list[Stretch], name: str, digits: int = 3) -> float:
    """The median of a figure over the stretches."""
    figures = [getattr(s if hasattr(s, name) else s.load, name) for s in stretches]
    return round(float(np.median(figures)), digits)


def measure(
    asked: dict[str, Asked], requests: list[bytes], servers: Servers, seconds: float, rounds: int
) -> dict[str, list[Stretch]]:
    """Stretches of each, in an order and then in the reverse, so that drift of the machine falls on all alike."""
    found: dict[str, list[Stretch]] = {name: [] for name in asked}
    for server in asked.values():
        run(server.port, requests, connections=CONNECTIONS, seconds=2)
    for _ in range(rounds):
        for name in (*asked, *reversed(asked)):
            server = asked[name]
            cpu_s, redis_s = server.cpu_s(), servers.redis_cpu_s()
            load = run(server.port, requests, connections=CONNECTIONS, seconds=seconds)
            per = 1e6 / max(1, load.requests)
            stretch = Stretch(load, (server.cpu_s() - cpu_s) * per, (servers.redis_cpu_s() - redis_s) * per)
            found[name].append(stretch)
            print(
                f"{name}: {load.req_s:,.0f} req/s, p99 {load.p99_ms:.2f} ms, {stretch.cpu_us:.0f} us of processor a request, "
                f"{stretch.redis_cpu_us:.0f} of Redis",
                file=sys.stderr,
            )
    return found


if __name__ == "__main__":
    main()
