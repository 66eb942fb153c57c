"""A stranger's first five minutes: every command that the new project's README names, in its order, embedded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from ports import free_port

COMMAND = [sys.executable, "-m", "featureflow.cli"]


def featureflow(folder: Path, *words: str) -> Any:
    done = subprocess.run([*COMMAND, "-p", str(folder), *words, "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def refused(folder: Path, *words: str) -> str:
    done = subprocess.run([*COMMAND, "-p", str(folder), *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    return done.stderr


def post(port: int, path: str, body: object) -> Any:
    request = Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def wait_for(what: Any, seconds: float = 240) -> Any:
    until = time.monotonic() + seconds
    while True:
        try:
            if found := what():
                return found
        except (OSError, sqlite3.OperationalError):     # not there yet
            pass
        assert time.monotonic() < until, f"nothing after {seconds} s"
        time.sleep(0.1)


def spine(shop: Path) -> list[str]:
    return (shop / "spine.csv").read_text().splitlines()[1:]


def folded(shop: Path) -> int:
    """Events that user_now has folded, over all partitions."""
    applied = featureflow(shop, "get", "user_now", "nobody")["applied"]
    return sum(sum(partitions.values()) for partitions in applied.values())


def held(shop: Path, table: str = "ev_payment") -> int:
    """Events that the history database holds."""
    with contextlib.closing(sqlite3.connect(f"file:{shop}/.featureflow/history.db?mode=ro", uri=True)) as database:
        (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def shop(tmp_path: Path, port: int) -> Iterator[Path]:
    """A new project, applied and up."""
    folder = tmp_path / "shop"
    featureflow(tmp_path, "init", str(folder))
    applied = featureflow(folder, "apply")
    assert ("add", "model", "fraud") in {(c["action"], c["kind"], c["name"]) for c in applied["changes"]}
    environment = {**os.environ, "FEATUREFLOW_SERVE_PORT": str(port)}
    with (tmp_path / "up.log").open("wb") as log:
        up = subprocess.Popen([*COMMAND, "-p", str(folder), "up"], stdout=log, stderr=log, env=environment)
    try:
        wait_for(lambda: urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60).status == 200)
        yield folder
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0, (tmp_path / "up.log").read_text()


def test_a_new_project_goes_from_events_to_a_quantized_score(shop: Path, port: int) -> None:
    def python(*words: str) -> str:
        return subprocess.run(
            [sys.executable, *words], cwd=shop, check=True, capture_output=True, text=True, timeout=300
        ).stdout

    early = subprocess.run([sys.executable, "produce.py", "1"], cwd=shop, capture_output=True, text=True, timeout=300)
    assert (early.returncode, early.stderr.partition(" (")[0]) == (1, "nothing answers at port 1")
    assert "2000 payments are in the log" in python("produce.py", str(port))
    wait_for(lambda: folded(shop) == 2_000)
    values = {f["feature"]: f for f in featureflow(shop, "get", "user_now", "u13")["features"]}
    assert values["user_now:payments_1h"]["status"] == "present"
    for wrong in ("", "u" * 257):              # as the scorer refuses them
        assert refused(shop, "get", "user_now", wrong).startswith("RequestError: Id ")
    assert refused(shop, "get", "user_now", "u13", "--at", "9999-01-01T00:00:00Z").startswith("RequestError: Instant out of range")
    assert values["user_now:payments_1h"]["value"] >= sum(line.startswith("u13,") for line in spine(shop))

    wait_for(lambda: held(shop) == 2_000)
    dataset = [str(shop / "spine.csv"), str(shop / "dataset.csv"), "--label", "label", "--delay", "1s"]
    assert featureflow(shop, "dataset", "fraud", *dataset)["rows"] == 1_800
    assert "fraud.onnx and transforms.json are written" in python("train.py")
    files = ["--transforms", str(shop / "transforms.json"), "--dataset", str(shop / "dataset.csv")]
    assert featureflow(shop, "model", "add", "fraud", str(shop / "fraud.onnx"), *files)["version"] == "1"
    quantized = featureflow(shop, "model", "quantize", "fraud")
    assert quantized["chosen"]["cpu"]["variant"] in ("fp32", "fp16", "int8")
    assert max(v["drift"]["max"] for v in quantized["report"]["variants"] if v["drift"]) < 0.025  # far inside the model's 0.05
    assert [m["version"] for m in featureflow(shop, "model", "list")] == ["1"]

    body = {"entities": {"user": "u13"}, "context": {"amount": 250.0}, "explain": True}
    answer = wait_for(lambda: not (given := post(port, "/v1/score/fraud", body))["degraded"] and given)
    assert 0 <= answer["scores"][0] <= 1
    assert answer["version"] == "1"
    assert answer["provider"] == "cpu"
    assert answer["features"][0]["user_now:spent_1h"]["status"] == "present"

    rows = [{"entities": {"user": f"u{i % 50}"}, "context": {"amount": 5.0 + i}} for i in range(200)]
    post(port, "/v1/score/fraud", {"rows": rows, "deadline_ms": 10_000})
    wait_for(lambda: held(shop, "ev_featureflow_predictions") >= 200)
    measured = featureflow(shop, "model", "quantize", "fraud", "--logged", "200")
    assert (measured["report"]["calibration_rows"], measured["report"]["held_out_rows"]) == (100, 100)
    placed = featureflow(shop, "model", "profile", "fraud")
    assert placed["chosen"]["provider"] == "cpu"
    assert featureflow(shop, "model", "profile", "fraud", "--show") == placed
    assert featureflow(shop, "doctor")["ok"]
