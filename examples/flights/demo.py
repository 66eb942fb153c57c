"""The whole way, on a year of real flights: events, exactly-once features, a training set, a quantized model, scores.

    make demo                      everything, then keeps serving and producing
    make demo ONCE=1               everything, checks itself over HTTP, stops, prints one JSON line
    make demo ONCE=1 SABOTAGE=state    flips one byte of state first: the check must notice

What a user would type, it types: every step is a ``featureflow`` command or an HTTP request.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas
import raw
from checking import Tally, check
from http_client import Scorer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sabotage import flip_one_bit
from training import auc, fit

from featureflow.define.project import load
from featureflow.models.manifest import inputs_of
from featureflow.models.transform import Steps
from featureflow.models.transform import fit as fit_transforms
from oracle import VIEWS, Oracle, micros

HERE = Path(__file__).parent
POSITIONS = 20  # places in the log at which the oracle checks
LIST_EVENTS = 1_000  # events per request
TRAINING_ROWS = 80_000
TRAINED = 0.75  # share of them to train on, the oldest; the rest tests
SCORED = 2_000  # single requests whose latency is measured
SEED = 2013
PARTITIONS = 4


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

    def step(self, text: str) -> None:
        self.console.print(f"[bold]{text}[/]")

    # -- the project ---------------------------------------------------------------------------------------------------

    def make_project(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        shutil.copy(HERE / "features.py", self.folder)
        shift_us = micros(raw.NOW.isoformat()) - time.time_ns() // 1000
        (self.folder / "featureflow.toml").write_text(
            f"[log]\npartitions = {PARTITIONS}\n\n[serve]\nport = {self.port}\n\n"
            f"[clock]\nshift_us = {shift_us}    # it was {raw.NOW:%Y-%m-%d %H:%M} UTC when the demo began\n"
        )

    def featureflow(self, *arguments: str | Path) -> dict[str, Any]:
        """Run a command; its JSON answer."""
        words = [str(word) for word in arguments]
        self.console.print(f"  [dim]$ featureflow {' '.join(words)}[/]")
        command = [sys.executable, "-m", "featureflow.cli", "--project", str(self.folder), *words, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise SystemExit(f"featureflow {' '.join(words)} ended with exit code {done.returncode}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def start(self) -> None:
        log = (self.folder / "up.log").open("wb")
        command = [sys.executable, "-m", "featureflow.cli", "--project", str(self.folder), "up"]
        self._up = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.scorer.wait_ready(60)

    def stop(self) -> None:
        if self._up is not None:
            self._up.send_signal(signal.SIGTERM)
            self._up.wait(30)
            self._up = None

    # -- events --------------------------------------------------------------------------------------------------------

    def produce(self, happenings: list[Happening], sabotage: bool) -> None:
        """Send the past in the order in which it became known, and check 20 times on the way."""
        ends = [len(happenings) * (i + 1) // POSITIONS for i in range(POSITIONS)]
        began, checking = time.monotonic(), 0.0
        with self.progress() as progress:
            task = progress.add_task("  events", total=len(happenings))
            for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
                for at in range(start, end, LIST_EVENTS):
                    chunk = happenings[at : min(at + LIST_EVENTS, end)]
                    self.send(chunk)
                    progress.advance(task, len(chunk))
                self.wait_folded()
                if index == POSITIONS - 1:
                    self.report["events_per_s"] = round(len(happenings) / (time.monotonic() - began - checking))
                    if sabotage:
                        self.console.print(f"  one bit of {flip_one_bit(self.folder, PARTITIONS)} is flipped")
                before = time.monotonic()
                check(self.scorer, self.oracle, self.oracle.newest, self.tally, SEED + index)
                checking += time.monotonic() - before
        self.report["events"] = len(happenings)
        self.report["oracle_checked"] = self.tally.entities
        self.report["oracle_mismatches"] = self.tally.mismatches
        self.report["oracle_nonempty_share"] = round(self.tally.nonempty / self.tally.entities, 3)
        self.report["oracle_values"] = self.tally.values
        for example in self.tally.examples:
            self.console.print(f"  [red]wrong: {example}[/]")

    def send(self, chunk: list[Happening]) -> None:
        for source in ("departure", "arrival"):
            events = [h.event for h in chunk if h.source == source]
            if events:
                answer = self.scorer.post(f"/v1/events/{source}", events)
                for event, position in zip(events, answer["positions"], strict=True):
                    self.oracle.take(source, event, position["partition"], position["offset"])

    def wait_folded(self) -> None:
        """Until every partition is folded to its end."""
        while any(
            (place["offset"] or 0) < self.oracle.ends.get((source, place["partition"]), 0)
            for view in self.scorer.get("/v1/views")["views"]
            for source, places in view["sources"].items()
            for place in places
        ):
            time.sleep(0.1)

    def wait_history(self, events: int) -> None:
        """Until the history database holds every event."""
        with sqlite3.connect(f"file:{self.folder}/.featureflow/history.db?mode=ro", uri=True) as database:
            while True:
                (held,) = database.execute(
                    "SELECT (SELECT count(*) FROM ev_departure) + (SELECT count(*) FROM ev_arrival)"
                ).fetchone()
                if held >= events:
                    return
                time.sleep(0.5)

    # -- the model -----------------------------------------------------------------------------------------------------

    def train(self, flights: list[raw.Flight]) -> None:
        asked = [f for f in flights if f.label is not None and f.scheduled < raw.NOW]
        asked = sorted(random.Random(SEED).sample(asked, min(TRAINING_ROWS, len(asked))), key=lambda f: f.asked)
        spine, file = self.folder / "spine.csv", self.folder / "dataset.csv"
        with spine.open("w", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(
                ["at", "carrier", "origin", "dest", "route", "aircraft", "hour", "weekday", "distance", "label"]
            )
            for f in asked:
                rows.writerow(
                    [
                        f.asked.isoformat(),
                        f.carrier,
                        f.origin,
                        f.dest,
                        f.route,
                        f.aircraft or "",
                        *context(f).values(),
                        int(bool(f.label)),
                    ]
                )
        # every event here became known at its event time
        answer = self.featureflow(
            "dataset",
            "late",
            spine,
            file,
            "--label",
            "label",
            "--known-at",
            "departure=left_at",
            "--known-at",
            "arrival=landed_at",
        )
        self.report["training_rows"] = answer["rows"]
        table = pandas.read_csv(file)
        matrix, labels = table[answer["inputs"]].to_numpy(np.float64), table["label"].to_numpy() > 0
        before = np.arange(len(asked)) < TRAINED * len(asked)  # split by time: they stand in order of asking
        after = ~before
        model = load(self.folder / "features.py").model("late")
        transforms = fit_transforms(
            matrix[before], inputs_of(model), otherwise=Steps(impute="mean", clip=(0.01, 0.99))
        )
        given = transforms.apply(matrix)
        with self.progress() as progress:
            progress.add_task("  training", total=None)
            trained = fit(given[before], labels[before], given[after], labels[after])
            own = [i for i, name in enumerate(answer["inputs"]) if name in CONTEXT]
            plain = fit(given[before][:, own], labels[before], given[after][:, own], labels[after])
            masked = transforms.apply(self.without_own_events(matrix, answer["inputs"], asked))
        self.report["auc"] = round(trained.auc, 4)
        self.report["auc_without_windowed_features"] = round(plain.auc, 4)
        self.report["auc_own_events_masked"] = round(
            auc(labels[after], trained.network.predict_proba(masked[after])[:, 1]), 4
        )
        trained.export(self.folder / "late.onnx")
        (self.folder / "transforms.json").write_bytes(msgspec.json.encode(transforms))
        table[after].to_csv(self.folder / "held_out.csv", index=False)
        self.featureflow(
            "model",
            "add",
            "late",
            self.folder / "late.onnx",
            "--transforms",
            self.folder / "transforms.json",
            "--dataset",
            self.folder / "held_out.csv",
        )
        quantized = self.featureflow("model", "quantize", "late")
        int8 = next(v for v in quantized["report"]["variants"] if v["variant"] == "int8")
        self.report["int8_max_drift"] = round(int8["drift"]["max"], 5)
        self.report["int8_mean_drift"] = round(int8["drift"]["mean"], 6)
        self.report["int8_auc_loss"] = round(int8["drift"]["auc_loss"], 6)
        self.report["served_variant"] = quantized["chosen"]["cpu"]["variant"]
        self.report["served_variant_reason"] = quantized["chosen"]["cpu"]["reason"]

    def without_own_events(self, matrix: np.ndarray, names: list[str], asked: list[raw.Flight]) -> np.ndarray:
        """The same inputs where a flight's own events do not count: those few rows that could see one are computed by the oracle."""
        masked = matrix.copy()
        everything = {source: dict.fromkeys(range(PARTITIONS), 2**62) for source in ("departure", "arrival")}
        for row, flight in enumerate(asked):
            q = micros(flight.asked.isoformat())
            if micros(str(raw.departure(flight)["left_at"])) > q:
                continue  # nothing of the flight itself was known yet
            values: dict[str, object] = {}
            for view, (key, _) in VIEWS.items():
                entity = raw.departure(flight)[key]
                if entity is not None:
                    found = self.oracle.features(
                        view, str(entity), q, everything, without_flight=flight.number, known_by=q
                    )
                    values |= {f"{view}:{name}": value for name, value in found.items()}
            for column, name in enumerate(names):
                plain = name.partition("[")[0]
                if plain in values:
                    value = values[plain]
                    if isinstance(value, list):
                        value = value[int(name.partition("[")[2][:-1])]
                    masked[row, column] = np.nan if value is None else value
            derive(masked, row, names, values)
        return masked

    # -- asking --------------------------------------------------------------------------------------------------------

    def score(self, flights: list[raw.Flight]) -> None:
        """Score single flights one by one, as a caller would, and say how long an answer took."""
        bodies = [question(f) for f in itertools.islice(itertools.cycle(flights), SCORED)]
        self.wait_model(bodies[0])
        taken = []
        for body in bodies:
            began = time.perf_counter()
            answer = self.scorer.post("/v1/score/late", body)
            taken.append((time.perf_counter() - began) * 1e3)
        self.report["score_p50_ms"] = round(float(np.percentile(taken, 50)), 3)
        self.report["score_p99_ms"] = round(float(np.percentile(taken, 99)), 3)
        self.report["provider"] = answer["provider"]
        if answer["variant"] != self.report["served_variant"]:
            raise SystemExit(
                f"the scorer answers with {answer['variant']}, and {self.report['served_variant']} was chosen"
            )

    def wait_model(self, body: object) -> None:
        until = time.monotonic() + 30
        while True:
            try:
                self.scorer.post("/v1/score/late", body)
                return
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def live(self, happenings: list[Happening], speed: float) -> None:
        """Produce what is still to come as it happens, ``speed`` times as fast, until it is all said or Ctrl-C."""
        began, now_us = time.monotonic(), micros(raw.NOW.isoformat())
        for happening in happenings:
            time.sleep(max(0.0, began + (happening.at_us - now_us) / 1e6 / speed - time.monotonic()))
            self.send([happening])

    def progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )


CONTEXT = ("hour", "weekday", "distance")


def context(flight: raw.Flight) -> dict[str, float]:
    """What the caller knows by itself."""
    local = flight.scheduled - timedelta(hours=5)
    return {"hour": local.hour + local.minute / 60, "weekday": local.weekday(), "distance": float(flight.distance)}


def question(flight: raw.Flight) -> dict[str, object]:
    entities = {
        "carrier": flight.carrier,
        "origin": flight.origin,
        "dest": flight.dest,
        "route": flight.route,
        "aircraft": flight.aircraft,
    }
    return {"entities": entities, "context": context(flight)}


def derive(masked: np.ndarray, row: int, names: list[str], values: dict[str, object]) -> None:
    """The derived inputs of features.py, restated."""

    def value(name: str) -> float:
        found = values.get(name)
        return float("nan") if found is None else float(str(found))

    def share(part: str, whole: str) -> float:
        return value(part) / value(whole) if value(whole) else float("nan")

    for name, got in {
        "carrier_trend": value("carrier_now:dep_delay_1h") - value("carrier_now:dep_delay_6h"),
        "carrier_late_share": share("carrier_now:late_6h", "carrier_now:landed_6h"),
        "origin_late_share": share("origin_now:late_1h", "origin_now:flights_1h"),
        "origin_late_share_3h": share("origin_now:late_3h", "origin_now:flights_3h"),
        "dest_late_share": share("dest_now:late_12h", "dest_now:landed_12h"),
    }.items():
        masked[row, names.index(name)] = got


def happenings_of(flights: list[raw.Flight]) -> list[Happening]:
    """All events of these flights in the order in which they became known."""
    found = []
    for flight in flights:
        event = raw.departure(flight)
        found.append(Happening("departure", event, micros(str(event["left_at"]))))
        if (landed := raw.arrival(flight)) is not None:
            found.append(Happening("arrival", landed, micros(str(landed["landed_at"]))))
    return sorted(found, key=lambda happening: happening.at_us)


TRY = """
[bold]It serves.[/] The clock says {now}; try:

  curl -s {url}/v1/score/late -H 'Content-Type: application/json' -d '{body}'
  curl -s {url}/v1/features/carrier_now/UA
  curl -s {url}/v1/models
  curl -s {url}/openapi.json
  {python} -m featureflow.cli -p {folder} get origin_now JFK

Flights go on being produced, {speed:g} times as fast as they were. Stop with Ctrl-C.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".featureflow/demo"))
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--once", action="store_true", help="check, stop, and print one JSON line")
    parser.add_argument("--sabotage", choices=["state"], help="flip one bit of state before the last check")
    parser.add_argument(
        "--speed", type=float, default=60.0, help="how much faster than life the live flights are produced"
    )
    parser.add_argument("--flights", type=int, help="only the last so many flights of the past")
    arguments = parser.parse_args()
    console = Console(stderr=arguments.once, highlight=False)
    demo = Demo(arguments.folder.resolve(), arguments.port, console)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(demo, arguments)
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        demo.stop()
    if arguments.once:
        print(json.dumps(demo.report))
        raise SystemExit(1 if demo.tally.mismatches else 0)


def run(demo: Demo, arguments: argparse.Namespace) -> None:
    demo.step("1. A year of flights")
    flights = sorted(raw.flights(), key=lambda f: f.scheduled)
    if arguments.flights:
        first_live = next(i for i, f in enumerate(flights) if f.scheduled >= raw.NOW)
        flights = flights[max(0, first_live - arguments.flights) :]
    demo.report["flights"] = len(flights)
    now_us = micros(raw.NOW.isoformat())
    happenings = happenings_of(flights)
    past = [h for h in happenings if h.at_us <= now_us]
    demo.step("2. A project: definitions applied, everything started")
    demo.make_project()
    demo.featureflow("apply")
    demo.start()
    demo.step(
        f"3. {len(past):,} events to exactly-once features, checked against an oracle {POSITIONS} times on the way"
    )
    demo.produce(past, arguments.sabotage == "state")
    if demo.tally.mismatches:
        return
    demo.step("4. History to a training set, a model, its quantized variants")
    demo.wait_history(len(past))
    demo.train(flights)
    demo.step("5. Real requests")
    coming = [f for f in flights if f.scheduled >= raw.NOW]
    demo.score(coming)
    for name, value in demo.report.items():
        demo.console.print(f"  {name:32} {value}")
    if not arguments.once:
        demo.console.print(
            TRY.format(
                now=f"{raw.NOW:%Y-%m-%d %H:%M} UTC",
                url=demo.scorer.url,
                body=json.dumps(question(coming[0])),
                python=sys.executable,
                folder=demo.folder,
                speed=arguments.speed,
            )
        )
        demo.live([h for h in happenings if h.at_us > now_us], arguments.speed)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
