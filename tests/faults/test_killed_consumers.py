"""Both consumers killed with SIGKILL again and again, from outside, at whatever instruction they are at, while a producer runs."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy
import watched
from watched import Forked, Hand
from world import PATIENCE_S, SECOND_US, World, check_state, production, until

from featureflow.store.log.protocol import Record
from servers import Services

KILLS = 20                                 # of each consumer, at least
WITH_EVENTS = 15                           # of them with events in hand: a busy machine may take more kills to get there
LONGEST_LOOK_S = 0.004                     # from seeing events in hand to the kill, at most
RIDERS = ("ada", "bob:{0}", "c\r\nd", "é*", "'; --", *(f"r{n}" for n in range(30)))


@pytest.fixture
def world(tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str) -> Iterator[World]:
    with production(tmp_path / "project", services, production_redis_url, mysql_url) as made:
        yield made


@dataclass
class Producer:
    """Appends rides and tips, some late, some bad, until it is told to end."""

    world: World
    luck: random.Random
    bad: set[bytes] = field(default_factory=set)
    sent: dict[tuple[str, int, int], bytes] = field(default_factory=dict)
    problem: list[BaseException] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(self.luck.uniform(0.0, 0.1)):
                for source in ("ride", "tip"):
                    self.append(source, self.luck.randrange(1, 25))
        except BaseException as error:
            self.problem.append(error)

    def append(self, source: str, count: int) -> None:
        records = [self.record(source) for _ in range(count)]
        places = self.world.context.log.append(self.world.topic_of(source), records)
        self.sent |= {(source, *place): record.value for place, record in zip(places, records, strict=True)}

    def record(self, source: str) -> Record:
        luck, now_us = self.luck, time.time_ns() // 1000
        late_us = luck.choice((0, 0, luck.randrange(50 * SECOND_US), luck.randrange(90 * SECOND_US), 4_000 * SECOND_US, -400 * SECOND_US))
        rider = luck.choice(RIDERS)
        values: dict[str, object] = {"at": now_us - (late_us if luck.random() < 0.3 else 0), "rider": rider}
        if source == "ride":
            values |= {"zone": luck.choice((1, 2, -3, None)), "cash": luck.random() < 0.5}
            values |= {"fare": luck.choice((None, 0.1, 1e-9, luck.random() * 1e6, -3.0, round(luck.gammavariate(2, 9), 2)))}
        else:
            values |= {"amount": round(luck.gammavariate(1, 3), 2)}
        if luck.random() < 0.01:
            values["rider"] = [self.world.topic, luck.random()]
            self.bad.add(json.dumps(values).encode())
        return Record(json.dumps(values).encode(), rider.encode() if source == "ride" else None)


@dataclass
class Killed:
    """One kill: what the process had in hand, and how long it had taken from its start to its first commit."""

    in_hand: int
    polls: int
    first_commit_s: float | None


class Killer:
    """Starts a consumer, waits until it has events in hand, kills it a moment later, and does so again."""

    def __init__(self, world: World, verb: str, member: str, luck: random.Random, file: Path) -> None:
        self.world, self.verb, self.luck, self.file = world, verb, luck, file
        self._settings = {"FEATUREFLOW_TEST_HAND": str(file), member: f"{world.topic}-{verb}"}
        self.kills: list[Killed] = []
        self.problem: list[BaseException] = []

    @property
    def hit(self) -> list[Killed]:
        """Those with events in hand."""
        return [kill for kill in self.kills if kill.in_hand > 0]

    def start(self) -> Forked:
        return watched.start(self.world, self.verb, **self._settings)

    def run(self) -> None:
        try:
            while len(self.kills) < KILLS or len(self.hit) < WITH_EVENTS:
                self.once()
        except BaseException as error:
            self.problem.append(error)

    def once(self) -> None:
        hand = Hand(self.file)
        hand.clear()
        polls, first_commit_s, began = self.luck.randrange(1, 6), None, time.monotonic()
        process = self.start()
        while not (hand.read()[0] >= polls and hand.read()[1] > 0):
            if first_commit_s is None and hand.read()[2]:
                first_commit_s = time.monotonic() - began
            assert process.running(), f"{self.verb} ended by itself:\n{process.said()[-3000:]}"
            assert time.monotonic() - began < PATIENCE_S, f"{self.verb} polled nothing in {PATIENCE_S:.0f} s:\n{process.said()[-3000:]}"
            time.sleep(0.0003)
        time.sleep(self.luck.uniform(0.0, LONGEST_LOOK_S))
        process.kill()
        seen, in_hand, _ = hand.read()
        self.kills.append(Killed(in_hand, seen, first_commit_s))


def test_consumers_killed_twenty_times_each_in_mid_batch_leave_what_a_replay_of_the_log_gives(world: World, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    luck = random.Random(seed)
    world.featureflow("apply")
    producer, stop = Producer(world, random.Random(luck.random())), threading.Event()
    killers = [
        Killer(world, "ingest", "FEATUREFLOW_INGEST_MEMBER", random.Random(luck.random()), tmp_path / "ingest.hand"),
        Killer(world, "history", "FEATUREFLOW_HISTORY_WRITER_MEMBER", random.Random(luck.random()), tmp_path / "history.hand"),
    ]
    threads = [threading.Thread(target=producer.run, args=(stop,)), *(threading.Thread(target=killer.run) for killer in killers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads[1:]:
            thread.join()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [*producer.problem, *(problem for killer in killers for problem in killer.problem)] == []
    for killer in killers:
        first = sorted(kill.first_commit_s for kill in killer.kills if kill.first_commit_s is not None)
        held = sum(kill.in_hand for kill in killer.hit)
        print(f"{killer.verb}: {len(killer.hit)} of {len(killer.kills)} kills with events in hand, {held} in all")
        if first:
            print(f"  start to first commit: {first[len(first) // 2]:.2f} s in the median, {first[-1]:.2f} s at most")
    last = [killer.start() for killer in killers]
    until(world.folded, "the end of the log in the online store")
    until(lambda: world.recorded(("ride", "tip", "featureflow_dead_letters")), "the end of the log in history")
    assert [process.told_to_end() for process in last] == [0, 0]
    records = world.records(producer.bad)
    assert len(records) + len([value for value in producer.sent.values() if value in producer.bad]) == len(producer.sent)
    newest = max(record.time_us for record in records)
    compared = check_state(world, records, [newest + SECOND_US, newest + 40 * SECOND_US])
    print(f"{len(producer.sent)} events, {len(producer.bad)} bad; {compared} values equal to the replay")
    assert compared > 500
    check_history(world, producer)
    check_letters(world, producer)


def check_history(world: World, producer: Producer) -> None:
    """Each (partition, offset) once, and as it was sent."""
    engine = sqlalchemy.create_engine(world.settings["FEATUREFLOW_HISTORY_URL"])
    for source, fields in (("ride", ("at", "rider", "zone", "fare", "cash")), ("tip", ("at", "rider", "amount"))):
        with engine.connect() as link:
            columns = ", ".join(f"`{name}`" for name in fields)
            rows = link.execute(sqlalchemy.text(f"SELECT _partition, _offset, {columns} FROM ev_{source}")).all()
        sent = {place[1:]: json.loads(value) for place, value in producer.sent.items() if place[0] == source and value not in producer.bad}
        assert len(rows) == len(sent) > 0
        assert {tuple(row[:2]): dict(zip(fields, row[2:], strict=True)) for row in rows} == sent
    engine.dispose()


def check_letters(world: World, producer: Producer) -> None:
    """Each bad record is known by its position, however often the letter was written."""
    expected = {f"{source}/{partition}/{offset}" for (source, partition, offset), value in producer.sent.items() if value in producer.bad}
    letters = [letter for letter in world.letters() if letter["reason"] == "wrong_type"]
    assert {letter["position"] for letter in letters} == expected
    assert expected
