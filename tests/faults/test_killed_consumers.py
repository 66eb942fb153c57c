"""Both consumers killed with SIGKILL again and again, from outside, at whatever instruction they are at, while a producer runs."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import forked
import pytest
import verdict
from forked import Forked
from processes import PATIENCE_S, until
from producer import Producer
from watched import Hand
from world import SECOND_US, World, production

from servers import Services

KILLS = 20                                 # of each consumer
WITH_EVENTS = 15                           # of them with events in hand for sure
LONGEST_LOOK_S = 0.004                     # from seeing events in hand to the kill, at most


@pytest.fixture
def world(tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str) -> Iterator[World]:
    with production(tmp_path / "project", services, production_redis_url, mysql_url) as made:
        yield made


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
        return forked.start(self.world, self.verb, **self._settings)

    def run(self) -> None:
        try:
            for number in range(KILLS):
                self.once(with_events=number % 4 != 3)
        except BaseException as error:
            self.problem.append(error)

    def once(self, *, with_events: bool) -> None:
        """``with_events``: looked at while it is stopped, so that they are in its hands still when it dies."""
        hand = Hand(self.file)
        hand.clear()
        polls, first_commit_s, began = self.luck.randrange(1, 6), None, time.monotonic()
        process = self.start()
        while not (hand.read()[0] >= polls and self._in_hand(process, hand, with_events)):
            if first_commit_s is None and hand.read()[2]:
                first_commit_s = time.monotonic() - began
            assert process.running(), f"{self.verb} ended by itself:\n{process.said()[-3000:]}"
            assert time.monotonic() - began < PATIENCE_S, f"{self.verb} polled nothing in {PATIENCE_S:.0f} s:\n{process.said()[-3000:]}"
            time.sleep(0.0003)
        process.kill()
        seen, in_hand, _ = hand.read()
        self.kills.append(Killed(in_hand, seen, first_commit_s))

    def _in_hand(self, process: Forked, hand: Hand, with_events: bool) -> bool:
        """Whether it had events in hand, a moment ago or still."""
        if hand.read()[1] <= 0:
            return False
        time.sleep(self.luck.uniform(0.0, LONGEST_LOOK_S))
        if not with_events:
            return True
        process.signal(signal.SIGSTOP)
        until(lambda: process.state() == "T", f"the stop of {self.verb}", every=0.0)
        if hand.read()[1] > 0:
            return True
        process.signal(signal.SIGCONT)
        return False


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
        assert len(killer.hit) >= WITH_EVENTS
        print(f"{killer.verb}: {len(killer.hit)} of {len(killer.kills)} kills with events in hand, {held} in all")
        if first:
            print(f"  start to first commit: {first[len(first) // 2]:.2f} s in the median, {first[-1]:.2f} s at most")
    last = [killer.start() for killer in killers]
    until(world.folded, "the end of the log in the online store")
    until(lambda: world.recorded(("ride", "tip", "featureflow_dead_letters")), "the end of the log in history")
    assert [process.told_to_end() for process in last] == [0, 0]
    log = verdict.replay(world, producer.bad)
    assert len(log.events) + len(log.refused) == len(producer.sent)
    newest = max(record.time_us for record in log.events)
    found = verdict.of_everything(world, log, [newest + SECOND_US, newest + 40 * SECOND_US])
    print(f"{len(producer.sent)} events, {len(log.refused)} bad, {producer.resent} sent again; {found.entities} entities")
    assert found.clean, "\n".join(found.said)
    assert found.rows == len(log.events)
    assert found.letters == found.letters_expected >= len(log.refused) > 0
    assert found.nonempty > 0.9 * found.entities > 30
