"""``featureflow up`` where an alert is declared: events are posted, scored with features that count them, averaged, and told."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from processes import until
from world import DEFINITIONS, Http, World, new_topic

from featureflow.define import system

ALERT = """

from featureflow import Alert


class Tipping(Alert, model=Generous, on=Ride, of=Rider, average=0.3, above=0.0):
    context = {{Ask.hour: Ride.zone}}
"""
RIDERS = ("ann", "bo", "cy")


def receiver(taken: list[str]) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alert_id"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_up_scores_every_event_and_tells_each_alert_once(tmp_path: Path) -> None:
    taken: list[str] = []
    server = receiver(taken)
    settings = {"FEATUREFLOW_WATCH_WEBHOOK": f"http://127.0.0.1:{server.server_port}/alerts", "FEATUREFLOW_WATCH_WAIT": "5s"}
    with World(tmp_path / "project", settings, new_topic(), DEFINITIONS + ALERT) as world:
        world.ended_with(server.server_close)
        world.ended_with(server.shutdown)
        said = world.featureflow("apply")
        assert "alert" in {change["kind"] for change in said["changes"]}
        up = world.start("up")
        scorer = Http(world.serve_port)
        world.ended_with(scorer.close)
        until(lambda: all(f'"event":"{event}"' in up.err() for event in ("claimed", "watching")), "ingest and watch")
        world.add_model()                  # it waits for its model too
        until(scorer.ready, "the scorer")
        name, now_us = world.project.name, world.context.clock.now_us()

        def ride(number: int) -> dict[str, object]:
            return {"at": now_us + number, "rider": RIDERS[number % 3], "zone": number % 5, "fare": float(number), "cash": False}

        status, answer = scorer.post("/v1/events/ride", [ride(number) for number in range(60)])
        assert status == 200, answer

        def scored() -> list[dict[str, Any]]:
            return [json.loads(value) for batch in world.batches(system.scores(name).topic) for value in batch.values if value]

        until(lambda: len(scored()) >= len(answer["positions"]), "a score of each")
        sources = ("ride", "featureflow_scores", "featureflow_alerts")
        until(lambda: len(taken) >= len(RIDERS) and world.recorded(sources), "alerts, and all in history", every=0.1)
        scores = scored()
        assert sorted((one["partition"], one["offset"]) for one in scores) == sorted(
            (place["partition"], place["offset"]) for place in answer["positions"]
        )
        assert {one["degraded"] for one in scores} == {"[]"}
        assert all(json.loads(one["features"])["rider_now:rides_1h"] >= 1 for one in scores)
        alerts = [json.loads(value) for batch in world.batches(system.alerts(name).topic) for value in batch.values if value]
        assert sorted(one["alert_id"] for one in alerts) == sorted(taken)
        assert sorted(one["id"] for one in alerts) == list(RIDERS)
        assert {(one["rule"], one["level"]) for one in alerts} == {("tipping", "raised")}
        assert up.told_to_end() == 0
