"""The whole way, on a year of real flights: events, exactly-once features, a training set, a quantized model, scores.

    make demo                      everything, then keeps serving and producing
    make demo ONCE=1               everything, checks itself over HTTP, stops, prints one JSON line
    make demo ONCE=1 SABOTAGE=state    flips one byte of state first: the check must notice

What a user would type, it types: every step is a ``featureflow`` command or an HTTP request.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import raw
from checking import Tally, check
from http_client import Scorer
from oracle import Oracle, micros
from rich.console import Console
from rich.progress import Progress
from sabotage import flip_one_bit
from training import auc, fit

HERE = Path(__file__).parent
POSITIONS = 20                             # places in the log at which the oracle checks
LIST_EVENTS = 1_000                        # events per request
TRAINING_ROWS = 80_000
SPLIT = datetime(2013, 10, 1, tzinfo=UTC)  # trained before, tested after
SCORED = 2_000                             # single requests whose latency is measured
SEED = 2013


@dataclass(frozen=True)
class Happening:
    """An event and the instant at which it became known."""

    source: str
    event: dict[str, object]
    at_us: int


class Demo:
    def __init__(self, folder: Path, port: int, console: Console) -> None:
        self.folder, self.port, self.console = folder, port, console
        self.scorer = Scorer(port)
        self.oracle = Oracle()
        self.tally = Tally()
        self.report: dict[str, object] = {}
        self._up: subprocess.Popen[bytes] | None = None

    # -- the project ---------------------------------------------------------------------------------------------------

    def make_project(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        shutil.copy(HERE / "features.py", self.folder)
        shift_us = micros(raw.NOW.isoformat()) - time.time_ns() // 1000
        (self.folder / "featureflow.toml").write_text(
            f"[serve]\nport = {self.port}\n\n[clock]\nshift_us = {shift_us}    # it is now {raw.NOW:%Y-%m-%d %H:%M} UTC\n"
        )

    def featureflow(self, *arguments: str) -> dict[str, object]:
        """Run a command; its JSON answer."""
        command = [sys.executable, "-m", "featureflow.cli", "--project", str(self.folder), *arguments, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise SystemExit(f"featureflow {' '.join(arguments)} ended with exit code {done.returncode}")
        answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def start(self) -> None:
        log = (self.folder / "up.log").open("wb")
        command = [sys.executable, "-m", "featureflow.cli", "--project", str(self.folder), "up"]
        self._up = subprocess.Popen(command, stdout=log, stderr=log)
        self.scorer.wait_ready(60)

    def stop(self) -> None:
        if self._up is not None:
            self._up.send_signal(signal.SIGTERM)
            self._up.wait(30)

    # -- events --------------------------------------------------------------------------------------------------------

    def produce(self, happenings: list[Happening], progress: Progress) -> None:
        """Send the past in the order in which it became known, and check 20 times on the way."""
        task = progress.add_task("events", total=len(happenings))
        began, checking = time.monotonic(), 0.0
        ends = [len(happenings) * (i + 1) // POSITIONS for i in range(POSITIONS)]
        for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            for at in range(start, end, LIST_EVENTS):
                chunk = happenings[at:min(at + LIST_EVENTS, end)]
                self.send(chunk)
                progress.advance(task, len(chunk))
            if index == POSITIONS - 1:
                self.wait_folded()
                produced_s = time.monotonic() - began - checking
            before = time.monotonic()
            check(self.scorer, self.oracle, self.oracle.newest, self.tally, SEED + index)
            checking += time.monotonic() - before
        self.report |= {"events": len(happenings), "events_per_s": round(len(happenings) / produced_s)}

    def send(self, chunk: list[Happening]) -> None:
        for source in ("departure", "arrival"):
            events = [h.event for h in chunk if h.source == source]
            if events:
                answer = self.scorer.post(f"/v1/events/{source}", events)
                for event, position in zip(events, answer["positions"], strict=True):
                    self.oracle.take(source, event, position["partition"], position["offset"])

    def wait_folded(self) -> None:
        """Until every partition is folded to its end."""
        ends = self.oracle.ends()
        while True:
            views = self.scorer.get("/v1/views")["views"]
            behind = [
                place
                for view in views
                for source, places in view["sources"].items()
                for place in places
                if (place["offset"] or 0) < ends.get((source, place["partition"]), 0)
            ]
            if not behind:
                return
            time.sleep(0.1)

    # -- the model -----------------------------------------------------------------------------------------------------

    def train(self, flights: list[raw.Flight]) -> None:
        from featureflow.models.store import ModelStore  # after the data: it is a slow import

        _ = ModelStore
        asked = [f for f in flights if f.label is not None and f.scheduled < raw.NOW]
        asked = sorted(random.Random(SEED).sample(asked, TRAINING_ROWS), key=lambda f: f.asked)
        _ = asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".featureflow/demo"))
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--sabotage", choices=["state"])
    parser.add_argument("--flights", type=int, help="only the first so many flights (for a quick look)")
    parser.parse_args()


if __name__ == "__main__":
    main()
