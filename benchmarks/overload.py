"""``make bench-overload``: what a scorer does at half of what it can do, at all of it, and at two, five and ten times as much.

Capacity is the closed loop's requests a second of the same invocation, under a deadline that nobody misses. Then each level is offered in
an open loop by another process, latency counted from the instant at which a request was due. ``heavy`` takes a millisecond and more a
row, ``light`` is the model of bench-score. The same with the online store paused for 200 ms every 2 s, and killed for 5 s.
``shed_us`` is what a refusal costs by itself, the row ``shed`` what it costs the server's process on the wire, its kernel's part
included. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import heavy
import load
import msgspec
import numpy as np
import open_load
import redis
import shed
from noise import noise
from open_load import Report
from score import DEVICES, EVENTS, MERCHANTS, USERS, Asked, child, fill, free_port, make_model, refusals

from featureflow.cli.context import Context
from featureflow.log_lines import log_as_json
from featureflow.models.manifest import inputs_of
from featureflow.models.transform import fit
from featureflow.store.online.embedded import server_binary
from real_servers import Servers

HERE = Path(__file__).parent
DATABASE = 6
DEADLINE_MS = 20
HEAVY_MS = 1.15  # a row of the heavy model, at least
BODIES = 2_000
LEVELS = {"heavy": (0.5, 1, 2, 5, 10), "light": (0.5, 1, 2, 5)}
MODELS = {"heavy": "heavy", "light": "odd"}
COUNTED = {"heavy": 10.0, "light": 2.0}  # the highest level that a row answers for; what is beyond is reported only
ALONE = {"heavy": 16, "light": 64}  # connections of the closed loop
WHOLE_SHARE = 0.98  # of the intended rate: a level that was offered less is void
PAUSED_S, PAUSE_EVERY_S, KILLED_S = 0.2, 2.0, 5.0
DEFINITION = '''

class Heavy(Model, deadline="20ms", drift=0.1):
    inputs = (Ask.amount, UserNow.purchases["1h"], UserNow.spent["1h"], MerchantNow.largest["1h"], DeviceNow.spent["1h"])
'''


@dataclass
class Store:
    """The online store of the benchmark alone, which it may stop and kill."""

    folder: Path
    port: int = field(default_factory=free_port)

    def start(self) -> None:
        command = [str(server_binary()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = redis.Redis(port=self.port)
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(redis.RedisError):
                client.ping()
                return
            if time.monotonic() > until:
                raise SystemExit("the online store does not start")
            time.sleep(0.02)

    def pause(self) -> None:
        """And wait until it stands still: what it answers up to then is no answer of one that is away."""
        self.process.send_signal(signal.SIGSTOP)
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.0001)

    def save(self) -> None:
        redis.Redis(port=self.port).save()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(10)

    @contextmanager
    def running(self) -> Iterator[Store]:
        self.start()
        try:
            yield self
        finally:
            self.stop()


def bodies() -> list[bytes]:
    chance = np.random.default_rng(8)
    return [
        msgspec.json.encode({
            "entities": {
                "user": f"u{chance.integers(USERS)}", "merchant": f"m{chance.integers(MERCHANTS)}", "device": f"d{chance.integers(DEVICES)}"
            },
            "context": {"amount": float(np.round(chance.lognormal(3, 1), 2))},
        })
        for _ in range(BODIES)
    ]  # fmt: skip


def requests_of(model: str, bodies: list[bytes], more: str = "") -> list[bytes]:
    head = f"POST /v1/score/{model} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{more}Content-Length: "
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]


def make_heavy(here: Context, row_ms: float) -> float:
    """Add the heavy model, of at least so many milliseconds a row; how many."""
    model = here.applied.model("heavy")
    inputs = inputs_of(model)
    rows = np.abs(np.random.default_rng(4).lognormal(2, 1, (400, sum(i.size for i in inputs))))
    transforms = fit(rows, inputs)
    file = here.folder / "heavy.onnx"
    took = heavy.make(transforms.width_out, file, ms=row_ms)
    here.models.add("heavy", file, inputs=inputs, transforms=transforms, model=model)
    return took


def rss_mb(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


@dataclass
class Bench:
    """One scorer, and what is measured of it."""

    port: int
    server: Asked
    store: Store
    folder: Path
    bodies: list[bytes]
    seconds: float
    capacities: dict[str, float] = field(default_factory=dict)

    def capacity(self, row: str) -> float:
        """Requests a second of the closed loop, once for an invocation."""
        if row not in self.capacities:
            asked = requests_of(MODELS[row], self.bodies, "X-Deadline-Ms: 2000\r\n")
            load.run(self.port, asked, connections=ALONE[row], seconds=min(2.0, self.seconds))
            closed = load.run(self.port, asked, connections=ALONE[row], seconds=min(6.0, self.seconds))
            if closed.not_ok:
                raise SystemExit(f"{closed.not_ok} of {closed.requests} requests of the closed loop were not answered 200")
            self.capacities[row] = closed.req_s
            said(f"{row}: closed loop {closed.req_s:,.0f} req/s, p99 {closed.p99_ms:.2f} ms")
        return self.capacities[row]

    def offer(self, row: str, level: float, meanwhile: Callable[[open_load.Run], None] | None = None) -> Report:
        """One level of one row."""
        file = self.folder / f"{row}.requests"
        file.write_bytes(pickle.dumps(requests_of(MODELS[row], self.bodies)))
        rate = level * self.capacity(row)
        told = {
            "port": self.port, "rate": rate, "seconds": self.seconds, "requests": str(file), "deadline_ms": DEADLINE_MS,
            "connections": int(min(1_000, max(128, rate * 2 * DEADLINE_MS / 1e3))), "seen": meanwhile is not None,
        }  # fmt: skip
        running = open_load.Run(told)
        if meanwhile is not None:
            meanwhile(running)
        report = running.end(self.seconds)
        said(
            f"{row} {level:g}x: offered {report.offered_req_s:,.0f} of {report.intended_req_s:,.0f}, good {report.goodput_req_s:,.0f}, "
            f"p99 accepted {report.p99_accepted_ms} ms, shed {report.p99_shed_ms} ms, generator {report.cpu_share:.0%} of a core"
        )
        return report

    def levels(self, row: str, levels: tuple[float, ...]) -> dict[str, Any]:
        """All levels of a row."""
        found, rss = [], [rss_mb(self.server.pid)]
        for level in levels:
            before = refusals(self.port)
            report = self.offer(row, level)
            rss.append(rss_mb(self.server.pid))
            reasons = {reason: count - before.get(reason, 0) for reason, count in refusals(self.port).items()}
            found.append({"level": level, **_shown(report), "refused": reasons, "rss_mb": rss[-1]})
        whole = [one for one in found if not one["void"] and one["level"] <= COUNTED[row]]
        peak = max((one["goodput_req_s"] for one in whole), default=0.0)
        full = {one["level"]: one["goodput_req_s"] / peak for one in whole if one["level"] >= 1 and peak}
        return {
            "row": row, "capacity_req_s": round(self.capacity(row), 1), "peak_goodput_req_s": peak,
            "goodput_min_share": round(min(full.values()), 3) if full else None,
            "goodput_share_at": {f"{level:g}x": round(share, 3) for level, share in full.items()},
            "p99_accepted_ms": _most(whole, "p99_accepted_ms"), "reject_p99_ms": _most(whole, "p99_shed_ms"),
            "void_levels": [one["level"] for one in found if one["void"]], "rss_mb": rss, "rss_growth_mb": round(rss[-1] - rss[0], 1),
            "levels": found,
        }  # fmt: skip

    def troubled(self, row: str, trouble: str) -> dict[str, Any]:
        """The load that the scorer can bear, while its online store goes away."""
        away: list[tuple[float, float]] = []
        run = self._pauses if trouble == "paused" else self._kill
        report = self.offer(row, 1, lambda running: run(running, away))
        unflagged = sum(
            not degraded and any(gone <= due and answered <= back for gone, back in away) for due, answered, _, degraded in report.seen
        )
        while_away = sum(any(gone <= due and answered <= back for gone, back in away) for due, answered, _, _ in report.seen)
        return {
            "row": f"{row}_{trouble}", "away_s": round(sum(back - gone for gone, back in away), 2), **_shown(report),
            "accepted_while_away": while_away, "unflagged_while_away": unflagged,
        }  # fmt: skip

    def _pauses(self, running: open_load.Run, away: list[tuple[float, float]]) -> None:
        while running.running:
            time.sleep(min(PAUSE_EVERY_S - PAUSED_S, self.seconds / 3))
            self.store.pause()
            gone = time.time()
            time.sleep(PAUSED_S)
            back = time.time()
            self.store.process.send_signal(signal.SIGCONT)
            away.append((gone, back))

    def _kill(self, running: open_load.Run, away: list[tuple[float, float]]) -> None:
        time.sleep(self.seconds / 4)
        self.store.process.kill()
        self.store.process.wait(10)
        gone = time.time()
        time.sleep(min(KILLED_S, self.seconds / 3))
        back = time.time()
        self.store.start()
        away.append((gone, back))

    def shed(self) -> dict[str, Any]:
        """What a refusal costs the server's process, its kernel's part included: a deadline that nothing can meet, in a closed loop."""
        asked = requests_of("odd", self.bodies, "X-Deadline-Ms: 0.01\r\n")
        load.run(self.port, asked, connections=64, seconds=min(1.0, self.seconds))
        user, system = self.server.cpu_parts_s()
        closed = load.run(self.port, asked, connections=64, seconds=min(5.0, self.seconds))
        user_after, system_after = self.server.cpu_parts_s()
        if closed.not_ok != closed.requests:
            raise SystemExit(f"{closed.requests - closed.not_ok} requests with an impossible deadline were answered")
        each = 1e6 / closed.requests
        own, kernel = (user_after - user) * each, (system_after - system) * each
        return {
            "row": "shed", "shed_wire_us": round(own + kernel, 2), "shed_user_us": round(own, 2), "shed_system_us": round(kernel, 2),
            "req_s": round(closed.req_s), "p99_ms": round(closed.p99_ms, 3),
        }  # fmt: skip


def _shown(report: Report) -> dict[str, Any]:
    shown = msgspec.to_builtins(report)
    del shown["seen"]
    short = report.offered_req_s < WHOLE_SHARE * report.intended_req_s
    return {**shown, "void": f"only {report.offered_req_s:,.0f} of {report.intended_req_s:,.0f} req/s were offered" if short else None}


def _most(found: list[dict[str, Any]], key: str) -> float | None:
    return max((one[key] for one in found if one[key] is not None), default=None)


def said(line: str) -> None:
    print(line, file=sys.stderr)


def wait_for(port: int, model: str, body: bytes) -> dict[str, Any]:
    """Its first answer that lacks nothing, with what it read; the last one after a minute."""
    until = time.monotonic() + 60
    headers = {"Content-Type": "application/json", "X-Deadline-Ms": "2000"}
    while True:
        try:
            asked = Request(f"http://127.0.0.1:{port}/v1/score/{model}", body[:-1] + b',"explain":true}', headers)
            with urlopen(asked, timeout=5) as answer:
                found: dict[str, Any] = json.loads(answer.read())
            if not found["degraded"] or time.monotonic() > until:
                return found
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each level")
    parser.add_argument("--rows", default="shed,heavy,light,heavy_paused,heavy_killed,light_paused,light_killed", help="which, by comma")
    parser.add_argument("--levels", default="", help="times the capacity, by comma, instead of those of each row")
    parser.add_argument("--events", type=int, default=EVENTS, help="folded before")
    parser.add_argument("--row-ms", type=float, default=HEAVY_MS, help="what a row of the heavy model takes at least")
    arguments = parser.parse_args()
    log_as_json()
    servers = Servers.find(DATABASE)
    servers.empty()
    folder = Path(tempfile.mkdtemp(prefix="featureflow-bench-"))
    port, store = free_port(), Store(folder)
    try:
        with store.running():
            text = (HERE / "purchases.py").read_text().replace('deadline="1s"', f'deadline="{DEADLINE_MS}ms"')
            (folder / "features.py").write_text(text + DEFINITION)
            (folder / "featureflow.toml").write_text(
                f'[project]\nname = "bench"\n[log]\nurl = "{servers.redis}"\n'
                f'[online]\nurl = "redis://127.0.0.1:{store.port}/0"\nstale_after = "1d"\n[serve]\nport = {port}\n'
            )
            with Context(folder, {}) as here:
                here.registry.apply(here.written, partitions=1)
                fill(here, arguments.events)
                make_model(here)
                row_ms = make_heavy(here, arguments.row_ms)
                shed_us = shed.protocol_us(
                    f"redis://127.0.0.1:{store.port}/0", here.settings.name, here.log,
                    here.models, requests_of("odd", bodies()[:1])[0],
                )  # fmt: skip
            store.save()
            before = noise()
            with child([sys.executable, "-m", "featureflow.cli", "--project", str(folder), "serve"], "Scoring at") as scorer:
                asked = bodies()
                for model in MODELS.values():
                    answer = wait_for(port, model, asked[0])
                    statuses = [f["status"] for row in answer["features"] for f in row.values()]
                    if answer["degraded"] or "present" not in statuses:
                        raise SystemExit(f"not what is to be measured: {answer}")
                bench = Bench(port, Asked(port, scorer.pid), store, folder, asked, arguments.seconds)
                levels = tuple(float(one) for one in arguments.levels.split(",") if one)
                rows = [one_row(bench, name, levels) for name in arguments.rows.split(",")]
                capacity = {
                    name: json.loads(urlopen(f"http://127.0.0.1:{port}/v1/models/{model}/capacity", timeout=60).read())
                    for name, model in MODELS.items()
                }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        servers.empty()
    named = {row["row"]: row for row in rows}
    first, light, wire = (named.get(name, {}) for name in ("heavy", "light", "shed"))
    print(json.dumps({
        "deadline_ms": DEADLINE_MS, "p99_accepted_ms": first.get("p99_accepted_ms"), "goodput_min_share": first.get("goodput_min_share"),
        "reject_p99_ms": first.get("reject_p99_ms"), "rss_mb": first.get("rss_mb"), "rss_growth_mb": first.get("rss_growth_mb"),
        "light_p99_accepted_ms": light.get("p99_accepted_ms"), "light_goodput_min_share": light.get("goodput_min_share"),
        "light_reject_p99_ms": light.get("reject_p99_ms"), "shed_us": shed_us, "shed_wire_us": wire.get("shed_wire_us"),
        "heavy_row_ms": row_ms, "void_levels": {name: row["void_levels"] for name, row in named.items() if "void_levels" in row},
        "rows": rows, "capacity": capacity, "noise_before": before, "noise_after": noise(), "versions": servers.versions,
    }))  # fmt: skip


def one_row(bench: Bench, name: str, levels: tuple[float, ...]) -> dict[str, Any]:
    if name == "shed":
        return bench.shed()
    row, _, trouble = name.partition("_")
    if row not in LEVELS or trouble not in ("", "paused", "killed"):
        raise SystemExit(f"no row {name!r}")
    return bench.troubled(row, trouble) if trouble else bench.levels(row, levels or LEVELS[row])


if __name__ == "__main__":
    main()
