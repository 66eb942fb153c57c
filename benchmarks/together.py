"""``make bench-together``: scores while 50,000 events a second are folded into the same Redis, beside scores while none are.

Kafka, ``featureflow ingest`` and ``featureflow serve`` as they run; requests at a fixed rate, each timed from when it was to be sent.
The last line is one JSON object. A stretch whose events were not all folded at the rate that was aimed at is void, and said so.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import numpy as np
import open_load
from installation import committed
from load import request_bytes, run
from noise import noise
from open_load import Report
from rows import Producing
from score import CONNECTIONS, ask_once, child, cpu_parts_s, free_port, make_model
from stream import Stream, produce

from featureflow.cli.context import Context
from featureflow.define.spec import Project
from featureflow.log_lines import log_as_json
from featureflow.store.log.open import open_log
from real_servers import Servers

HERE = Path(__file__).parent
DATABASE = 11
EVENTS, USERS, DEVICES = 60_000, 2_000, 3_000
BODIES = 2_000
LEAST = 0.98  # of a rate that was aimed at
LEAST_REQ_S = 20.0  # so that a short stretch has some
WARM_S = 1.0
Figures = dict[str, Any]


@dataclass(frozen=True)
class Purchases(Stream):
    """Events of ``purchases.py``, where a stream has payments."""

    def value(self, name: str, user: int, time_us: int, cents: int) -> bytes:
        return (
            f'{{"at":{time_us},"user":"{name}","merchant":"m-{cents % 997:04d}","device":"d-{user * 7919 % DEVICES:05d}",'
            f'"amount":{cents / 100}}}'
        ).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the measured stretches")
    parser.add_argument("--rounds", type=int, default=2, help="times each, in both orders")
    parser.add_argument("--events", type=int, default=EVENTS, help="that are folded first")
    parser.add_argument("--events-per-s", type=int, default=50_000)
    parser.add_argument("--share", type=float, default=0.25, help="of what the scorer answers while nothing is ingested")
    arguments = parser.parse_args()
    log_as_json()
    servers = Servers.find(DATABASE)
    servers.empty()
    folder = Path(tempfile.mkdtemp(prefix="featureflow-bench-"))
    topic, port = f"together-{servers.run}", free_port()
    try:
        text = (HERE / "purchases.py").read_text()
        (folder / "features.py").write_text(text.replace('topic="purchases"', f'topic="{topic}"'))
        (folder / "featureflow.toml").write_text(
            f'[project]\nname = "{topic}"\n[log]\nurl = "kafka://{servers.kafka}"\n'
            f'[online]\nurl = "{servers.redis}"\n[serve]\nport = {port}\n[ingest]\nmetrics_port = 0\n'
        )
        with Context(folder, {}) as here:
            here.registry.apply(here.written, partitions=1)
            project = here.applied
            make_model(here)
        produce(servers.kafka, topic, Purchases.of(arguments.events, USERS))
        command = [sys.executable, "-m", "featureflow.cli", "--project", str(folder)]
        with child([*command, "ingest"], "") as ingest, child([*command, "serve"], "Scoring at") as scorer:
            fold_all(servers, project, arguments.events)
            pids = {"scorer": scorer.pid, "ingest": ingest.pid, **servers.pids}
            figures = measured(servers, project, topic, port, folder / "requests", arguments, pids)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        servers.empty()
    print(json.dumps({**figures, "versions": servers.versions}))


def measured(
    servers: Servers, project: Project, topic: str, port: int, requests_file: Path, arguments: argparse.Namespace, pids: dict[str, int]
) -> Figures:
    """Stretches without and with events, in an order and then in the reverse."""
    requests = [request_bytes("/v1/score/odd", body) for body in bodies()]
    requests_file.write_bytes(pickle.dumps(requests))
    answer = ask_once(port, requests[0].partition(b"\r\n\r\n")[2])
    if answer["degraded"]:
        raise SystemExit(f"not what is to be measured: {answer}")
    before = noise()
    capacity = run(port, requests, connections=CONNECTIONS, seconds=min(3.0, arguments.seconds)).req_s
    told = {
        "port": port, "rate": max(arguments.share * capacity, LEAST_REQ_S), "seconds": arguments.seconds, "connections": CONNECTIONS,
        "requests": str(requests_file), "deadline_ms": 1_000,
    }  # fmt: skip
    bench = Bench(servers, project, topic, told, arguments.events_per_s, pids)
    found: dict[bool, list[Stretch]] = {False: [], True: []}
    for number in range(arguments.rounds):
        for busy in (False, True, True, False):
            found[busy].append(bench.stretch(busy, seed=100 + 10 * number + len(found[busy])))
            print(f"{'with' if busy else 'without'} events: {found[busy][-1]}", file=sys.stderr, flush=True)
    slow = sum(s.events_per_s < LEAST * arguments.events_per_s for s in found[True])
    late = sum(s.load.offered_req_s < LEAST * s.load.intended_req_s for s in (*found[False], *found[True]))
    with_events, without = _figures(found[True]), _figures(found[False])
    return {
        "p99_ratio": round(with_events["p99_ms"] / without["p99_ms"], 3), **with_events,
        **{f"quiet_{name}": value for name, value in without.items()},
        "aimed_req_s": round(told["rate"]), "capacity_req_s": round(capacity), "aimed_events_per_s": arguments.events_per_s,
        "void": f"{slow} stretches had fewer events than aimed at, {late} fewer requests" if slow or late else "",
        "connections": CONNECTIONS, "noise_before": before, "noise_after": noise(),
    }  # fmt: skip


def _figures(stretches: list[Stretch]) -> Figures:
    loads = [one.load for one in stretches]

    def middle(name: str) -> float:
        """Of those that have it: where the machine is busy, all that a stretch asked may have been refused."""
        found = [value for load in loads if (value := getattr(load, name)) is not None]
        return round(float(np.median(found)), 3) if found else float("nan")

    return {
        "p50_ms": middle("p50_accepted_ms"), "p99_ms": middle("p99_accepted_ms"), "req_s": middle("offered_req_s"),
        "accepted": sum(load.accepted for load in loads),
        "degraded_share": round(max(one.degraded for one in stretches), 6), "shed": sum(load.shed for load in loads),
        "not_ok": sum(load.other + load.unanswered for load in loads),
        "events_per_s": round(float(np.median([one.events_per_s for one in stretches]))),
        "machine_busy_share": round(float(np.median([one.busy_share for one in stretches])), 3),
        "cpu_shares": {name: round(float(np.median([one.cpu_shares[name] for one in stretches])), 3) for name in stretches[0].cpu_shares},
        "stages_ms": {name: round(float(np.median([one.stages_ms[name] for one in stretches])), 3) for name in stretches[0].stages_ms},
    }  # fmt: skip


@dataclass(frozen=True)
class Stretch:
    """One load; the events that were folded meanwhile, a second; and where the scorer's turns spent their time."""

    load: Report
    events_per_s: float
    stages_ms: dict[str, float]  # of a turn, in the mean
    cpu_shares: dict[str, float]  # of a core, that each process took
    busy_share: float  # of all processors: where that is near 1, whoever is late waits for one of them

    @property
    def degraded(self) -> float:
        """Share of the answers."""
        return self.load.degraded / max(1, self.load.accepted)

    def __str__(self) -> str:
        load = self.load
        rates = f"{load.offered_req_s:,.0f} requests/s, {self.events_per_s:,.0f} events/s"
        return f"p50 {load.p50_accepted_ms} ms, p99 {load.p99_accepted_ms} ms; {rates}"


@dataclass(frozen=True)
class Bench:
    """What is measured."""

    servers: Servers
    project: Project
    topic: str
    told: Figures  # of the generator
    events_per_s: int
    pids: dict[str, int]  # whose processor time is told

    def stretch(self, busy: bool, seed: int) -> Stretch:
        """One load, while events are folded or while none are."""
        producing, lasts_s = None, self.told["seconds"] + 3 * WARM_S
        if busy:
            events = Purchases.of(int(self.events_per_s * lasts_s), USERS, span_s=lasts_s, seed=seed)
            producing = Producing(self.servers, self.topic, events, self.events_per_s)
            producing.begin()
            time.sleep(WARM_S)
        pids = self.pids if producing is None else {**self.pids, "producer": producing.pid}
        before, used, (idle, ticks) = stages(self.told["port"]), _cpu_s(pids), processors()
        began, folded = time.monotonic(), committed(self.servers, self.project, 1)
        load = open_load.Run({**self.told, "seed": seed}).end(lasts_s)
        folded, took_s = committed(self.servers, self.project, 1) - folded, time.monotonic() - began
        after, used_after = stages(self.told["port"]), _cpu_s(pids)
        idle_after, ticks_after = processors()
        if producing is not None:
            producing.wait()
            fold_all(self.servers, self.project, end_of(self.servers, self.topic))
        spent = {name: 1e3 * (s - before[name][0]) / max(1, n - before[name][1]) for name, (s, n) in after.items()}
        busy_share = 1.0 - (idle_after - idle) / max(1, ticks_after - ticks)
        shares = {name: (s - used[name]) / took_s for name, s in used_after.items()} | {"generator": load.cpu_share}
        return Stretch(load, folded / min(took_s, lasts_s - WARM_S), spent, shares, busy_share)


def processors() -> tuple[int, int]:
    """(idle, all) ticks of all processors so far."""
    ticks = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return ticks[3] + ticks[4], sum(ticks[:8])


def _cpu_s(pids: dict[str, int]) -> dict[str, float]:
    return {name: sum(cpu_parts_s(pid)) for name, pid in pids.items()}


def stages(port: int) -> dict[str, tuple[float, float]]:
    """Stage of a turn -> seconds and turns so far."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for what, stage, value in re.findall(r'^featureflow_request_seconds_(sum|count)\{stage="(\w+)"\} (\S+)$', text, re.MULTILINE):
        found.setdefault(stage, {})[what] = float(value)
    return {stage: (of["sum"], of["count"]) for stage, of in found.items()}


def bodies() -> list[bytes]:
    chance = np.random.default_rng(8)
    made = []
    for _ in range(BODIES):
        user = int(chance.integers(USERS))
        entities = {"user": f"user-{user:07d}", "merchant": f"m-{chance.integers(997):04d}", "device": f"d-{user * 7919 % DEVICES:05d}"}
        made.append(msgspec.json.encode({"entities": entities, "context": {"amount": float(np.round(chance.lognormal(3, 1), 2))}}))
    return made


def end_of(servers: Servers, topic: str) -> int:
    log = open_log(f"kafka://{servers.kafka}")
    try:
        return log.topic(topic).end[0]
    finally:
        log.close()


def fold_all(servers: Servers, project: Project, events: int) -> None:
    until = time.monotonic() + 120
    while committed(servers, project, 1) < events:
        if time.monotonic() > until:
            raise SystemExit(f"{events} events are not folded: is the worker running?")
        time.sleep(0.05)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
