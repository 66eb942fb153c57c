"""SIGTERM under load: what is in hand is finished, and the process ends with exit code 0."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import until
from world import MODEL, SECOND_US, Http, World, check_state

from featureflow.store.log.protocol import Record


@pytest.fixture
def world(world: World) -> World:
    world.featureflow("apply")
    world.add_model()
    return world


class Load:
    """Events without end, and scores without end over two connections."""

    def __init__(self, world: World, port: int | None) -> None:
        self.world, self.port = world, port
        self.scores = self.sent = 0
        self.problems: list[str] = []
        self._stop = threading.Event()

    def produce(self) -> None:
        n = 0
        while not self._stop.is_set():
            now_us, records = time.time_ns() // 1000, []
            for _ in range(200):
                n += 1
                ride = {"at": now_us - n % 30 * SECOND_US, "rider": f"r{n % 50}", "zone": n % 3, "fare": n % 90 / 7, "cash": n % 2 == 0}
                records.append(Record(json.dumps(ride).encode(), f"r{n % 50}".encode()))
            self.world.context.log.append(self.world.topic_of("ride"), records)
            self.sent += len(records)
            self._stop.wait(0.02)

    def score(self, port: int) -> None:
        """Until the server closes the door between two answers. A request that it took is answered."""
        scorer = Http(port)
        try:
            while not self._stop.is_set():
                try:
                    status, answer = scorer.post(f"/v1/score/{MODEL}", {"entities": {"rider": "r1", "zone": 1}, "context": {"hour": 1}})
                except ConnectionRefusedError:
                    return                 # the door is closed
                except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                    continue               # a kept connection was closed as it idled; a client tries again on a new one
                if status == 200:
                    self.scores += 1
                else:
                    self.problems.append(f"{status}: {answer}")
        finally:
            scorer.close()


@contextmanager
def load(world: World, port: int | None = None) -> Iterator[Load]:
    made = Load(world, port)
    threads = [threading.Thread(target=made.produce)]
    threads += [threading.Thread(target=made.score, args=(port,)) for _ in range(2) if port is not None]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made._stop.set()
        for thread in threads:
            thread.join()


def test_ingest_history_and_serve_drain_and_end_with_0(world: World) -> None:
    start_us = time.time_ns() // 1000
    ingest, history = world.start("ingest"), world.start("history")
    server, _ = world.serve()
    with load(world, world.serve_port) as under:
        until(lambda: under.sent > 2_000 and under.scores > 50, "the load")
        for process in (ingest, history, server):
            began = time.monotonic()
            assert process.told_to_end() == 0, process.said()[-2000:]
            print(f"{process.output.name} ended {time.monotonic() - began:.2f} s after SIGTERM")
    assert under.problems == []
    scores = under.scores
    assert "Traceback" not in ingest.said() + history.said() + server.said()
    again = [world.start("ingest"), world.start("history")]
    until(world.folded, "the end of the log")
    until(lambda: world.recorded(("ride", "featureflow_predictions")), "the end of the log in history")
    assert [process.told_to_end() for process in again] == [0, 0]
    records = world.records()
    assert len(records) == under.sent
    assert check_state(world, records, [max(record.time_us for record in records) + SECOND_US]) > 100
    rows = world.context.history.query("predictions_between", {"model": MODEL, "from_us": start_us, "to_us": 2**62})
    assert len([row for row in rows if json.loads(row["entities"])["rider"] == "r1"]) == scores    # none was computed and not sent


@pytest.mark.parametrize("world", ["embedded"], indirect=True)
def test_up_ends_its_whole_tree_with_0(world: World) -> None:
    up = world.start("up")
    scorer = Http(world.serve_port)
    until(scorer.ready, "/readyz")
    children = [pid for pid in up.children() if b"featureflow.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(children) == 3              # the embedded server is ours too, and goes on
    with load(world, world.serve_port) as under:
        until(lambda: under.sent > 2_000 and under.scores > 50, "the load")
        began = time.monotonic()
        assert up.told_to_end() == 0, up.said()[-2000:]
        print(f"up ended {time.monotonic() - began:.2f} s after SIGTERM")
    assert under.problems == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    scorer.close()
