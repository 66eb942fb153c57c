"""kill -9 at every named step of watching on real Kafka, and around each commit on Redis Streams: each event is scored once, each alert is
there once.

One project per log runs through all of it: at each step the process dies in the middle of new work, is started again, and all that readers
of what is committed see is compared with the events and with a fold of the score topic.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import forked
import msgspec
import pytest
import watch_program
from processes import until
from watch_program import PARTITIONS
from watch_rig import AT_ONCE, BY_RIDER, WATCHED, by_id, expected, model_of_the_fare

from featureflow.clock import SystemClock
from featureflow.define import system
from featureflow.define.spec import Project
from featureflow.store.log.open import open_log
from featureflow.store.log.protocol import Consumer, Partition, Record
from featureflow.watch import failpoint
from featureflow.watch.score import ALERT, SCORE, Alert, Score
from servers import Services

AROUND_A_COMMIT: tuple[failpoint.Name, ...] = ("scored", "scores_committed", "folded", "alerts_committed")
RIDERS = [f"rider-{n}" for n in range(6)]


class Receiver:
    """A webhook that keeps the id of each delivery, and refuses some as one that is overloaded would."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        asked = self.asked = []
        taken = self.taken

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append(body["alert_id"])
                busy = len(asked) % 15 == 0
                if not busy:
                    taken.append(self.headers["Idempotency-Key"].partition("/")[2])
                    assert taken[-1] == body["alert_id"]
                self.send_response(503 if busy else 204)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Killed:
    """A project that is watched, its process, and what its topics hold."""

    def __init__(self, url: str, name: str, folder: Path) -> None:
        trip = msgspec.structs.replace(WATCHED.sources[0], topic=f"{name}-trips")
        rules = tuple(msgspec.structs.replace(rule, average=0.5, above=0.65, until=0.55) for rule in (BY_RIDER, AT_ONCE))
        self.project: Project = msgspec.structs.replace(WATCHED, name=name, sources=(trip,), alerts=rules)
        self.url, self.folder, self.log = url, folder, open_log(url)
        self.scores, self.alerts = system.scores(name).topic, system.alerts(name).topic
        for topic in (trip.topic, self.scores, self.alerts):
            self.log.ensure_topic(topic, PARTITIONS)
        self.log.ensure_topic(system.averages_topic(name), PARTITIONS, compacted=True)
        model_of_the_fare(folder / "models")
        self.receiver = Receiver()
        self.trap = folder / "trap"
        self.luck = random.Random(8)
        self.sent: list[tuple[int, int]] = []
        self.process: ForkServerProcess | None = None
        self._begun: list[ForkServerProcess] = []
        self._readers: dict[str, Consumer] = {}
        self._at: dict[str, dict[int, int]] = {}
        self._found: dict[str, dict[int, list[bytes]]] = {}

    def produce(self, count: int = 20) -> None:
        for _ in range(count):
            rider, now_us = self.luck.choice(RIDERS), SystemClock().now_us()
            trip = {"at": now_us, "rider": rider, "zone": 7, "fare": self.luck.choice((-3.0, 5.0, 40.0))}
            place = sum(rider.encode()) % PARTITIONS
            self.sent += self.log.append(self.project.sources[0].topic, [Record(json.dumps(trip).encode(), rider.encode(), place)])

    def start(self, member: str = "watch") -> ForkServerProcess:
        """A process; of a durable name where ``member`` is one."""
        made = forked.server().Process(
            target=watch_program.main,
            args=(
                self.url, self.project, str(self.folder / "models"), member and f"{self.project.name}-{member}", self.receiver.url,
                str(self.trap), str(self.folder / "said"),
            ),
            daemon=True,
        )  # fmt: skip
        made.start()
        self._begun.append(made)
        self.process = made
        return made

    def said(self, after: int = -4000) -> str:
        """What its processes have said of late, or after so many characters."""
        return (self.folder / "said").read_text()[after:]

    def read(self, topic: str) -> dict[int, list[bytes]]:
        """What is committed, by partition, up to where the topic ends now."""
        reader, end = self._reader(topic), self.log.topic(topic).end
        at, found = self._at[topic], self._found[topic]

        def read_all() -> bool:
            if all(at[partition] >= end[partition] for partition in end):
                return True
            for batch in reader.poll(timeout_s=0.1, max_records=100_000, max_bytes=1 << 26).batches:
                at[batch.partition] = batch.next
                found[batch.partition] += [value for value in batch.values if value is not None]
            return False

        until(read_all, f"the end of {topic}")
        return found

    def _reader(self, topic: str) -> Consumer:
        if topic not in self._readers:
            reader = self._readers[topic] = self.log.reader({topic: topic})
            until(lambda: reader.poll(timeout_s=0.2, max_records=1, max_bytes=1).assignment.assigned, "its partitions")
            self._at[topic] = dict.fromkeys(range(PARTITIONS), 0)
            self._found[topic] = {partition: [] for partition in range(PARTITIONS)}
            for partition in range(PARTITIONS):
                reader.seek(Partition(topic, partition), 0)
        return self._readers[topic]

    def scored(self) -> dict[int, list[Score]]:
        return {partition: [SCORE.decode(value) for value in values] for partition, values in self.read(self.scores).items()}

    def told(self) -> list[Alert]:
        return [ALERT.decode(value) for values in self.read(self.alerts).values() for value in values]

    def drained(self) -> bool:
        assert self.process is not None
        assert self.process.is_alive(), self.said()
        scores = self.scored()
        if sum(map(len, scores.values())) < len(self.sent):
            return False
        wanted = expected(self.project, scores)
        return len(self.told()) >= len(wanted) and set(self.receiver.taken) >= {alert.alert_id for alert in wanted}

    def close(self) -> None:
        for process in self._begun:
            process.kill()
            process.join()
        for reader in self._readers.values():
            reader.close()
        self.receiver.close()
        self.log.close()


@pytest.fixture(scope="module")
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "kafka":
        services: Services = request.getfixturevalue("services")
        url = f"kafka://{services.kafka}"
    else:
        url = request.getfixturevalue("embedded_server").url
    made = Killed(url, f"k{random.SystemRandom().getrandbits(40):x}", folder)
    try:
        made.produce()
        made.start()
        until(made.drained, "the first scores and alerts")
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("killed", ["kafka"], indirect=True, scope="module")
@pytest.mark.parametrize("name", failpoint.NAMES)
def test_each_event_is_scored_once_and_each_alert_told_once_wherever_the_process_dies(killed: Killed, name: failpoint.Name) -> None:
    _dies_and_all_is_there(killed, name)


@pytest.mark.parametrize("killed", ["streams"], indirect=True, scope="module")
@pytest.mark.parametrize("name", AROUND_A_COMMIT)
def test_the_same_where_the_log_is_embedded(killed: Killed, name: failpoint.Name) -> None:
    _dies_and_all_is_there(killed, name)


@pytest.mark.parametrize("killed", ["kafka"], indirect=True, scope="module")
def test_partitions_go_from_one_process_to_another_and_back(killed: Killed) -> None:
    """Without names: each that comes or goes has Kafka share everything out anew, in the middle of new work."""
    assert killed.process is not None
    killed.process.kill()
    killed.process.join()
    first = killed.start(member="")
    killed.produce()
    until(killed.drained, "the first's work")
    second = killed.start(member="")
    for _ in range(4):
        killed.produce(4)
        until(killed.drained, "both processes' work", every=0.1)
    first.terminate()
    first.join(60.0)
    assert first.exitcode == 0, killed.said()
    killed.produce()
    until(killed.drained, "the second's work", every=0.1)
    second.terminate()
    second.join(60.0)
    assert second.exitcode == 0, killed.said()
    killed.start()
    _all_is_there(killed)


@pytest.mark.parametrize("killed", ["kafka"], indirect=True, scope="module")
def test_a_process_that_was_stopped_past_its_session_appends_nothing_when_it_comes_back(killed: Killed) -> None:
    """It has scores in hand that another process has appended meanwhile, and its group has gone on without it."""
    assert killed.process is not None
    killed.process.kill()
    killed.process.join()
    stopped = killed.start(member="")
    killed.produce()
    until(killed.drained, "its work")
    killed.trap.write_text("stop scored")
    killed.produce()
    until(lambda: not killed.trap.exists(), "its stop")
    heir = killed.start(member="")
    until(killed.drained, "the heir's work, once the session has run out", every=0.1)
    before = len(killed.said(0))
    os.kill(stopped.pid or 0, signal.SIGCONT)
    until(lambda: "starts_over" in killed.said(before), "the one that was stopped to hear of it")
    killed.produce()
    _all_is_there(killed)
    for process in (stopped, heir):
        process.terminate()
        process.join(60.0)
        assert process.exitcode == 0, killed.said()
    killed.start()


def _dies_and_all_is_there(killed: Killed, name: failpoint.Name) -> None:
    dying = killed.process
    assert dying is not None
    if "placed" in name or "restored" in name:                 # only one that starts passes there
        dying.kill()
        dying.join()
        dying = killed.start()
    killed.trap.write_text(name)

    def dead() -> bool:
        killed.produce(2)
        return not dying.is_alive()

    until(dead, f"its death at {name}", every=0.1)
    assert dying.exitcode == -signal.SIGKILL, killed.said()
    killed.trap.unlink()
    killed.produce()
    killed.start()
    _all_is_there(killed)


def _all_is_there(killed: Killed) -> None:
    until(killed.drained, "all scores and alerts", every=0.1)
    scores = killed.scored()
    assert sorted((one.partition, one.offset) for own in scores.values() for one in own) == sorted(killed.sent)
    wanted = expected(killed.project, scores)
    assert by_id(killed.told()) == by_id(wanted)
    assert len(wanted) > 10
    assert set(killed.receiver.taken) == {alert.alert_id for alert in wanted}
