"""``make bench-rank``: one context and 500 candidates of three recalls, ranked by an INT8 model over three views, one at a time.

Requests leave by a schedule, whether or not the one before was answered, and a latency counts from the moment that was due. The answer
is compared with that of ``/v1/score`` for the same rows first. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from noise import noise
from score import DEVICES, HERE, MERCHANTS, USERS, Asked, child, fill, free_port, make_model

from featureflow.cli.context import Context
from featureflow.log_lines import log_as_json
from real_servers import Servers

DATABASE = 13
PATIENCE_S = 60  # for an answer that is right and lacks nothing, on a machine that is busy
MOST, SHARED = 1_000, 100  # candidates of one request; those that two recalls find
SEEN = """

class UserSeen(View, of=User, ttl="1d"):
    merchants = last_n(Purchase.merchant, 20, width=8)
"""


def request(chance: np.random.Generator, candidates: int) -> dict[str, Any]:
    """Two recalls that overlap, of the merchants that there are and then of unknown ones, and what the user bought at last."""
    ids = [f"m{i}" for i in chance.permutation(max(MERCHANTS, candidates))[:candidates]]
    half = candidates // 2
    shared = min(SHARED, half // 2)
    return {
        "entities": {"user": f"u{chance.integers(USERS)}", "device": f"d{chance.integers(DEVICES)}"},
        "context": {"amount": float(np.round(chance.lognormal(3, 1), 2))},
        "recalls": [
            {"source": "search", "ids": ids[: half + shared]},
            {"source": "near", "weight": 0.8, "ids": ids[half:]},
            {"source": "seen", "weight": 1.2, "feature": "user_seen:merchants"},
        ],
        "k": 20,
    }


def post(connection: HTTPConnection, path: str, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


def checked(connection: HTTPConnection, asked: dict[str, Any], candidates: int) -> dict[str, Any]:
    """The answer, once its scores and its order are what ``/v1/score`` and a sort say: time goes on between the two, and so do windows."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with suppress(SystemExit):
            return check(connection, asked, candidates)
        time.sleep(0.1)
    return check(connection, asked, candidates)


def answered(connection: HTTPConnection, path: str, body: bytes) -> tuple[int, bytes]:
    """As ``post``, and again for a while where the scorer is too busy to answer in time."""
    until = time.monotonic() + 30
    while (found := post(connection, path, body))[0] == 503 and time.monotonic() < until:
        time.sleep(0.2)
    return found


def check(connection: HTTPConnection, asked: dict[str, Any], candidates: int) -> dict[str, Any]:
    """The answer. Raises SystemExit where it is not what it should be."""
    status, raw = answered(connection, "/v1/rank/odd", json.dumps({**asked, "k": MOST}).encode())
    answer: dict[str, Any] = json.loads(raw)
    ranked = answer.get("ranked", [])
    if status != 200 or answer["degraded"] or not candidates <= len(ranked) <= candidates + 20:
        raise SystemExit(f"not what is to be measured: {status} {raw[:500]!r}")
    rows = [{"entities": {**asked["entities"], "merchant": one["id"]}, "context": asked["context"]} for one in ranked]
    status, raw = answered(connection, "/v1/score/odd", json.dumps({"rows": rows}).encode())
    if status != 200:
        raise SystemExit(f"/v1/score says {status} {raw[:500]!r}")
    scores = np.array(json.loads(raw)["scores"])
    weights = np.array([one["weight"] for one in ranked])
    if not np.allclose([one["score"] for one in ranked], scores, rtol=1e-3, atol=1e-4) or set(weights) != {0.8, 1.0, 1.2}:
        raise SystemExit("the scores of the candidates are not those of /v1/score")
    values = [one["value"] for one in ranked]
    if values != sorted(values, reverse=True):
        raise SystemExit("the candidates are not in the order of their values")
    return answer


def measure(connection: HTTPConnection, bodies: list[bytes], seconds: float, per_second: float) -> tuple[list[float], int]:
    """Milliseconds since it was due of each answer that is 200, and how many are not: a refusal is quick, and no rank."""
    taken, not_ok = [], 0
    began = time.perf_counter()
    for number in range(max(1, int(seconds * per_second))):
        due = began + number / per_second
        if (early := due - time.perf_counter()) > 0:
            time.sleep(early)
        status, _ = post(connection, "/v1/rank/odd", bodies[number % len(bodies)])
        if status == 200:
            taken.append((time.perf_counter() - due) * 1e3)
        else:
            not_ok += 1
    return taken, not_ok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--per-second", type=float, default=20.0, help="requests that leave in a second")
    parser.add_argument("--candidates", type=int, default=500)
    arguments = parser.parse_args()
    log_as_json()
    servers = Servers.find(DATABASE)
    servers.empty()
    folder = Path(tempfile.mkdtemp(prefix="featureflow-bench-"))
    port = free_port()
    try:
        job = (HERE / "purchases.py").read_text().replace("import Entity", "import last_n, Entity", 1)
        (folder / "features.py").write_text(job + SEEN)
        (folder / "featureflow.toml").write_text(
            f'[project]\nname = "bench"\n[log]\nurl = "{servers.redis}"\n'
            f'[online]\nurl = "{servers.redis}"\nstale_after = "1d"\n[serve]\nport = {port}\n'
        )
        with Context(folder, {}) as here:
            here.registry.apply(here.written, partitions=1)
            fill(here)
            variant = make_model(here)[0].variant
        chance = np.random.default_rng(9)
        asked = [request(chance, arguments.candidates) for _ in range(200)]
        with child([sys.executable, "-m", "featureflow.cli", "--project", str(folder), "serve"], "Scoring at") as scorer:
            connection = HTTPConnection("127.0.0.1", port)
            answer = checked(connection, asked[0], arguments.candidates)
            bodies = [json.dumps(one).encode() for one in asked]
            measure(connection, bodies, min(2.0, arguments.seconds), arguments.per_second)
            before, process = noise(), Asked(port, scorer.pid)
            cpu_s = process.cpu_s()
            taken, not_ok = measure(connection, bodies, arguments.seconds, arguments.per_second)
            cpu_ms = (process.cpu_s() - cpu_s) / max(1, len(taken)) * 1e3
            connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        servers.empty()
    p50, p99, most = (round(float(one), 2) for one in np.percentile(taken, (50, 99, 100))) if taken else (None, None, None)
    print(json.dumps({
        "candidates": arguments.candidates, "recalls": len(answer["recalled"]), "k": 20, "views": 3, "variant": variant,
        "requests": len(taken) + not_ok, "per_second": arguments.per_second, "p50_ms": p50, "p99_ms": p99, "max_ms": most,
        "cpu_ms": round(cpu_ms, 2), "not_ok": not_ok,
        "noise_before": before, "noise_after": noise(), "versions": servers.versions,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
