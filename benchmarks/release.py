"""``make bench-release``: at half load a step of a release each second: another version in, a candidate beside it, and back.

What the scorer answers meanwhile is laid beside stretches without any step, before and after: with one version, and with a candidate that
stands beside it, which a third of the steps leave behind for a second: then each turn infers twice. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from itertools import cycle, pairwise
from pathlib import Path
from urllib.request import urlopen

import msgspec
import numpy as np
import open_load
from load import request_bytes, run
from noise import noise
from open_load import Report
from score import (
    BODIES,
    CONNECTIONS,
    DEVICES,
    EVENTS,
    HERE,
    MERCHANTS,
    USERS,
    ask_once,
    child,
    fill,
    free_port,
    refusals,
)

from featureflow.cli.context import Context
from featureflow.log_lines import log_as_json
from featureflow.models.export import export_mlp
from featureflow.models.manifest import inputs_of
from featureflow.models.releasing import Releasing
from featureflow.models.transform import Steps, fit
from real_servers import Servers

DATABASE = 13
MODEL = "odd"
VERSIONS = 12                              # more than a scorer holds sessions: each comes in anew
DEADLINE_MS = 1_000                        # of the model
BUSY = ("predicted_late", "queue_full", "lag", "late", "displaced")
SHARE = 1_000                              # of 10,000 requests, that a candidate answers
LOOK_S = 0.025                             # whether a step is in force: each look is a request to each scorer
CONVERGED_S = 30.0                         # after which a scorer that has not followed is counted as one that failed


def make_versions(here: Context) -> None:
    """Perceptrons 256-128 with random weights."""
    model = here.applied.model(MODEL)
    inputs = inputs_of(model)
    rows = np.abs(np.random.default_rng(3).lognormal(2, 1, (4_000, sum(i.size for i in inputs))))
    transforms = fit(rows, inputs, otherwise=Steps(clip=(0.001, 0.999)))
    store = here.models
    sizes = [rows.shape[1], 256, 128, 1]
    for seed in range(VERSIONS):
        chance = np.random.default_rng(seed)
        file = here.folder / f"{seed}.onnx"
        export_mlp([chance.normal(0, (2 / a) ** 0.5, (a, b)) for a, b in pairwise(sizes)], [np.zeros(b) for b in sizes[1:]], file)
        store.add(MODEL, file, inputs=inputs, transforms=transforms, model=model)


class Operator(threading.Thread):
    """One step after another, at equal distances, and how long each takes until every scorer follows."""

    def __init__(self, folder: Path, ports: list[int], seconds: float, every_s: float) -> None:
        super().__init__(name="operator")
        self.folder, self.ports, self.seconds, self.every_s = folder, ports, seconds, every_s
        self.steps = self.late = 0
        self.converged_ms: list[float] = []
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            with Context(self.folder, {}) as here:
                self._steps(here, Releasing(here.registry.releases, here.online, here.models, here.clock, here.applied))
        except BaseException as error:
            self.problem = error

    def _steps(self, here: Context, releasing: Releasing) -> None:
        model, began = here.applied.model(MODEL), time.monotonic()
        for number, (kind, version) in enumerate(cycle(self._plan())):
            due = number * self.every_s
            if due + self.every_s > self.seconds:
                return
            time.sleep(max(0.0, began + due - time.monotonic()))
            if kind == "release":
                made = releasing.release(model, str(version))
            elif kind == "canary":
                made = releasing.canary(model, str(version), SHARE, sticky="user")
            else:
                made = releasing.rollback(MODEL)
            mirrored = time.monotonic()
            self.steps += 1
            while any(followed(port) != made.number for port in self.ports):
                if time.monotonic() > mirrored + CONVERGED_S:
                    raise SystemExit(f"release {made.number} is not in force everywhere after {CONVERGED_S:.0f} s")
                time.sleep(LOOK_S)
            self.converged_ms.append((time.monotonic() - mirrored) * 1e3)

    def _plan(self) -> list[tuple[str, int]]:
        """Reload, canary, rollback: of a version that no scorer has in memory, each time another one."""
        return [step for n in range(1, VERSIONS + 1) for step in (("release", n), ("canary", n % VERSIONS + 1), ("rollback", n))]


def followed(port: int) -> int:
    with urlopen(f"http://127.0.0.1:{port}/v1/models/{MODEL}", timeout=60) as answer:
        release = json.loads(answer.read())["release"]
    return release["release"] if release else 0


def offered(
    port: int, requests: Path, per_s: float, seconds: float, operator: Operator | None = None, what: str = "without"
) -> Report:
    asked = {
        "port": port, "rate": per_s, "seconds": seconds, "requests": str(requests), "deadline_ms": DEADLINE_MS,
        "connections": 2 * CONNECTIONS,
    }  # fmt: skip
    running = open_load.Run(asked)
    if operator is not None:
        operator.start()
    found = running.end(seconds)
    if operator is not None:
        operator.join()
        if operator.problem is not None:
            raise SystemExit(f"a step of a release failed: {operator.problem}")
    told = f"p50 {found.p50_accepted_ms}, p99 {found.p99_accepted_ms} ms, {failed(found)} failed"
    print(f"{'with' if operator else what} steps: {told}", file=sys.stderr)
    return found


def beside_a_candidate(folder: Path, ports: list[int], requests: Path, per_s: float, seconds: float) -> Report:
    """What is answered while a candidate has a tenth of the requests, and no step is taken. It is ended then."""
    with Context(folder, {}) as here:
        model = here.applied.model(MODEL)
        releasing = Releasing(here.registry.releases, here.online, here.models, here.clock, here.applied)
        releasing.release(model, "1")
        made = releasing.canary(model, "2", SHARE, sticky="user")
        until = time.monotonic() + CONVERGED_S
        while any(followed(port) != made.number for port in ports):
            if time.monotonic() > until:
                raise SystemExit(f"release {made.number} is not in force everywhere after {CONVERGED_S:.0f} s")
            time.sleep(LOOK_S)
        found = offered(ports[0], requests, per_s, seconds, what="beside a candidate, without")
        releasing.rollback(MODEL)
    return found


def failed(report: Report) -> int:
    """Requests without a 200, refused ones among them."""
    return report.shed + report.other + report.unanswered


def mean(values: Iterable[float | None]) -> float:
    """Of those that there are: where the machine is busy, all that a stretch asked may have been refused."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else float("nan")


def refused(port: int) -> int:
    """How many the scorer has refused because it had too much to do, which no step of a release is to blame for."""
    return sum(count for reason, count in refusals(port).items() if reason in BUSY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="with a step at each of them; half of it before and after, without")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two steps")
    parser.add_argument("--events", type=int, default=EVENTS, help="that are folded before")
    parser.add_argument("--load", type=float, default=0.5, help="of what the scorer takes in a closed loop")
    arguments = parser.parse_args()
    log_as_json()
    servers = Servers.find(DATABASE)
    servers.empty()
    folder = Path(tempfile.mkdtemp(prefix="featureflow-bench-"))
    port, beside = free_port(), free_port()
    try:
        shutil.copy(HERE / "purchases.py", folder / "features.py")
        (folder / "featureflow.toml").write_text(
            f'[project]\nname = "bench"\n[log]\nurl = "{servers.redis}"\n'
            f'[online]\nurl = "{servers.redis}"\nstale_after = "1d"\n[serve]\nport = {port}\n'
        )
        with Context(folder, {}) as here:
            here.registry.apply(here.written, partitions=1)
            fill(here, arguments.events)
            make_versions(here)
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
        requests = [request_bytes(f"/v1/score/{MODEL}", body) for body in bodies]
        scorer = [sys.executable, "-m", "featureflow.cli", "--project", str(folder), "serve"]
        with child(scorer, "Scoring at"), child(scorer, "Scoring at", {"FEATUREFLOW_SERVE_PORT": str(beside)}):
            ask_once(port, bodies[0])
            run(port, requests, connections=CONNECTIONS, seconds=min(2.0, arguments.seconds / 4))
            capacity = run(port, requests, connections=CONNECTIONS, seconds=min(5.0, arguments.seconds / 4)).req_s
            before, per_s = noise(), capacity * arguments.load
            (file := folder / "requests").write_bytes(pickle.dumps(requests))
            quiet = [offered(port, file, per_s, arguments.seconds / 2)]
            standing = [beside_a_candidate(folder, [port, beside], file, per_s, arguments.seconds / 4)]
            operator = Operator(folder, [port, beside], arguments.seconds, arguments.every)
            refused_before = refused(port)
            busy = offered(port, file, per_s, arguments.seconds, operator)
            refused_busy = refused(port) - refused_before
            standing.append(beside_a_candidate(folder, [port, beside], file, per_s, arguments.seconds / 4))
            quiet.append(offered(port, file, per_s, arguments.seconds / 2))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        servers.empty()
    without = [one.p99_accepted_ms or float("nan") for one in quiet]
    p99_without = mean(one.p99_accepted_ms for one in quiet)
    p99 = busy.p99_accepted_ms or float("nan")
    converged = operator.converged_ms or [float("nan")]
    print(json.dumps({
        "steps": operator.steps, "failed": failed(busy), "failed_as_busy": refused_busy,
        "failed_without": sum(map(failed, quiet)),
        "accepted": busy.accepted, "accepted_without": sum(one.accepted for one in quiet),
        "capacity_req_s": round(capacity), "offered_req_s": busy.offered_req_s,
        "void": any(one.offered_req_s < 0.98 * one.intended_req_s for one in (busy, *quiet, *standing)),
        "p50_ms": busy.p50_accepted_ms, "p99_ms": p99, "max_ms": busy.max_accepted_ms,
        "p50_ms_without": mean(one.p50_accepted_ms for one in quiet), "p99_ms_without": round(p99_without, 3),
        "p50_ms_beside_a_candidate": mean(one.p50_accepted_ms for one in standing),
        "p99_ms_beside_a_candidate": mean(one.p99_accepted_ms for one in standing),
        "p99_ms_without_each": without, "p99_ratio": round(p99 / p99_without, 3),
        "noise": round(max(without) / min(without), 3),          # of the same load, without steps, before and after
        "converged_ms_median": round(float(np.median(converged)), 1), "converged_ms_max": round(max(converged), 1),
        "noise_before": before, "noise_after": noise(), "versions": servers.versions,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
