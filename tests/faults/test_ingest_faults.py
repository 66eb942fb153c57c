"""The worker on real Kafka and Redis, killed and stopped with work in hand: the state is what the log says, to the bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import ingest_program
import pytest
from worker_rig import Rig, project_on

from featureflow.store.log.kafka import KafkaLog
from featureflow.store.online.redis import RedisOnlineStore
from servers import Services

IN_HAND = ("after_decode", "after_dead_letters", "after_fold", "before_commit", "after_commit")
EMPTY_HANDED = ("after_poll", "in_claim", "after_advisory")         # nothing is decoded yet, or all is committed
DEATHS = (*EMPTY_HANDED, *(IN_HAND[n % len(IN_HAND)] for n in range(17)))
PATIENCE_S = 150.0


@dataclass(frozen=True)
class Running:
    process: BaseProcess
    outcomes: Connection

    def ended(self) -> int | None:
        """Its exit code, when it comes."""
        self.process.join(PATIENCE_S)
        return self.process.exitcode

    def end(self) -> dict[str, int]:
        """SIGTERM; how many commits had which outcome."""
        self.process.terminate()
        self.process.join(PATIENCE_S)
        assert self.process.exitcode == 0
        outcomes: dict[str, int] = self.outcomes.recv()
        return outcomes

    @property
    def stopped(self) -> bool:
        assert self.process.is_alive()
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


Start = Callable[..., Running]


@pytest.fixture
def rig(
    services: Services, kafka_log: KafkaLog, production_redis_url: str, topic_name: Callable[[str], str]
) -> Iterator[Rig]:
    with closing(RedisOnlineStore(production_redis_url)) as online:
        yield Rig(4, project=project_on(topic_name("trips")), log=kafka_log, online=online, seed=11)


@pytest.fixture
def start(services: Services, production_redis_url: str, rig: Rig) -> Iterator[Start]:
    """Starts a worker's process; none outlives the test."""
    context = forked.server()
    running: list[Running] = []

    def begin(*, member: str = "", kill: str = "", stop: str = "") -> Running:
        mine, its = context.Pipe(duplex=False)
        arguments = (services.kafka, production_redis_url, rig.source.topic, member, kill, stop, its)
        process = context.Process(target=ingest_program.main, args=arguments)
        process.start()
        its.close()
        running.append(Running(process, mine))
        return running[-1]

    yield begin
    for one in running:
        one.process.kill()
        one.process.join()
        one.process.close()
        one.outcomes.close()


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not come in {PATIENCE_S} s"
        time.sleep(0.05)


def drained(rig: Rig) -> bool:
    end = rig.log.topic(rig.source.topic).end
    return all(
        record is not None and record.offset == end[partition]
        for partition in range(rig.partitions)
        for record in rig.online.offsets("trip", partition, [view.id for view in rig.project.views]).values()
    )


def test_a_worker_killed_twenty_times_and_mostly_with_events_in_hand_loses_and_doubles_nothing(rig: Rig, start: Start) -> None:
    producing = threading.Event()

    def produce() -> None:
        while not producing.wait(0.02):
            rig.clock.advance(2_000_000)
            rig.produce(30, bad=0.02)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for n, step in enumerate(DEATHS):
            assert start(member="one", kill=f"{step}:{1 + n % 3}").ended() == -signal.SIGKILL, f"it was to die at {step}"
    finally:
        producing.set()
        producer.join()
    last = start(member="one")
    until(lambda: drained(rig), "the end of the log")
    assert last.end()["committed"] > 0
    assert sum(rig.log.topic(rig.source.topic).end.values()) > 1_000
    assert rig.agrees()


def test_a_stopped_worker_that_wakes_up_after_its_successor_committed_is_refused(rig: Rig, start: Start) -> None:
    rig.produce(200)
    zombie = start(stop="before_commit:3")
    until(lambda: zombie.stopped, "the stop")
    successor = start()
    until(lambda: drained(rig), "the successor's work")
    rig.produce(100)
    until(lambda: drained(rig), "the successor's work")
    assert zombie.process.pid is not None
    os.kill(zombie.process.pid, signal.SIGCONT)
    rig.produce(100)
    until(lambda: drained(rig), "the work of both")
    assert zombie.end()["fenced"] >= 1
    assert "fenced" not in successor.end()
    assert rig.agrees()
