"""kill -9 at every named step of both consumers, on every kind of store: what a replay of the log gives is what is there.

One project per kind runs through all of it: at each step a consumer dies in the middle of new work, is started again, and everything
is drained and compared, so whatever an earlier death left behind would show in every later comparison too.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import get_args

import forked
import pytest
import redis
import verdict
from conftest import fresh_database
from forked import Forked
from processes import until
from producer import SOURCES, Producer
from redis_cluster import PATIENT_MS, running
from watched import Trap
from world import PARTITIONS, SECOND_US, World, embedded, production

import oracle
from featureflow.ingest import failpoint
from featureflow.ingest.failpoint import Name
from featureflow.store.log.protocol import Record
from servers import Services

VERBS = {"ingest": "FEATUREFLOW_INGEST_MEMBER", "history": "FEATUREFLOW_HISTORY_WRITER_MEMBER"}
HISTORIES = ["production", "embedded"]
PLACES = [*HISTORIES, "cluster"]           # of the online store alone: history is SQLite's there
MOST_PASSES = 3


@dataclass
class Consumers:
    """Both consumers of one project, each with its trap; ``world`` ends them."""

    world: World
    producer: Producer
    running: dict[str, Forked] = field(default_factory=dict)
    again: int = 0

    def trap(self, verb: str) -> Trap:
        return Trap(self.world.folder / f"{verb}.trap")

    def start(self, verb: str) -> Forked:
        """The consumer of a durable name, which has the trap."""
        settings = {
            VERBS[verb]: f"{self.world.topic}-{verb}",
            "FEATUREFLOW_TEST_HAND": str(self.world.folder / f"{verb}.hand"),
            "FEATUREFLOW_TEST_TRAP": str(self.world.folder / f"{verb}.trap"),
        }
        self.running[verb] = forked.start(self.world, verb, **settings)
        return self.running[verb]

    def join(self, verb: str) -> Forked:
        """Another member, without a name or a trap."""
        return forked.start(self.world, verb, FEATUREFLOW_TEST_HAND=str(self.world.folder / f"{verb}-other.hand"))

    def produce(self, count: int = 12) -> None:
        for source in SOURCES:
            self.producer.append(source, count)

    def produce_again(self) -> None:
        """A ride, a tip in each partition and what is no event: each passes what a batch passes, however few batches there were before."""
        self.again += 1
        event, world = {"at": time.time_ns() // 1000, "rider": "ada"}, self.world
        ride = json.dumps({**event, "zone": 1, "fare": 1.0, "cash": True}).encode()
        bad = f"{world.topic} again {self.again}".encode()
        self.producer.bad.add(bad)
        world.context.log.append(world.topic_of("ride"), [Record(ride, b"ada"), Record(bad, b"ada")])
        tip = json.dumps({**event, "amount": 1.0}).encode()
        world.context.log.append(world.topic_of("tip"), [Record(tip, partition=partition) for partition in range(PARTITIONS)])

    def drained(self) -> bool:
        for verb, process in self.running.items():
            assert process.running(), f"{verb} ended by itself:\n{process.said()[-3000:]}"
        return self.world.folded() and self.world.recorded((*SOURCES, "featureflow_dead_letters"))

    def compare(self) -> verdict.Verdict:
        log = verdict.replay(self.world, self.producer.bad)
        newest = max(record.time_us for record in log.events)
        return verdict.of_everything(self.world, log, [newest + SECOND_US])


@pytest.fixture(scope="module")
def consumers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consumers]:
    folder = tmp_path_factory.mktemp(request.param) / "project"
    if request.param == "embedded":
        with embedded(folder) as world:
            yield from _begun(world)
        return
    services: Services = request.getfixturevalue("services")
    if request.param == "cluster":
        settings = {"FEATUREFLOW_LOG_URL": f"kafka://{services.kafka}"}
        with (
            running(folder.parent / "cluster", PATIENT_MS) as cluster,
            embedded(folder, **settings, FEATUREFLOW_ONLINE_URL=cluster.url) as world,
        ):
            yield from _begun(world)
            assert all(node.client.dbsize() for node in cluster.primaries()), "a part of the cluster held nothing"
        return
    redis_url: str = request.getfixturevalue("own_database")
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    with fresh_database(services) as mysql_url, production(folder, services, redis_url, mysql_url) as world:
        yield from _begun(world)


def _begun(world: World) -> Iterator[Consumers]:
    world.featureflow("apply")
    begun = Consumers(world, Producer(world, random.Random(4), poison=0.1))
    begun.produce()
    for verb in VERBS:
        begun.start(verb)
    until(begun.drained, "the first folding")
    yield begun


@pytest.mark.parametrize("consumers", PLACES, indirect=True, scope="module")
@pytest.mark.parametrize("name", get_args(failpoint.Online))
def test_a_worker_killed_at_any_step_leaves_nothing_lost_and_nothing_doubled(consumers: Consumers, name: Name) -> None:
    _dies_and_all_is_there(consumers, "ingest", name)


@pytest.mark.parametrize("consumers", HISTORIES, indirect=True, scope="module")
@pytest.mark.parametrize("name", get_args(failpoint.History))
def test_a_history_writer_killed_at_any_step_leaves_nothing_lost_and_nothing_doubled(consumers: Consumers, name: Name) -> None:
    _dies_and_all_is_there(consumers, "history", name)


def _dies_and_all_is_there(consumers: Consumers, verb: str, name: Name) -> None:
    nth = random.Random(f"{verb} {name}").randint(1, MOST_PASSES)
    trap, dying, other = consumers.trap(verb), consumers.running[verb], None
    if name == "in_claim":                 # only one that starts claims
        dying.kill()
        trap.arm(name, nth)
        consumers.produce()
        dying = consumers.start(verb)
    elif name == "in_revoke":              # only where another member comes
        trap.arm(name)
        consumers.produce()
        other = consumers.join(verb)
    else:
        trap.arm(name, nth)
    for _ in range(MOST_PASSES):
        consumers.produce()

    def dead() -> bool:
        if dying.running():
            consumers.produce_again()
        return not dying.running()

    try:
        until(dead, f"the death of {verb} at {name}", every=0.2)
    except AssertionError as late:
        said = "".join(f"\n-- {process.output.name}:\n{process.said()[-3000:]}" for process in (dying, other) if process is not None)
        raise AssertionError(f"{late}{said}") from None
    assert (dying.wait(), trap.died_at) == (-signal.SIGKILL, name)
    consumers.start(verb)
    consumers.produce()                    # what is new only one that has claimed can fold
    if other is not None:
        until(lambda: '"claimed"' in other.said() or verb == "history", "the other member's share")
        assert other.told_to_end() == 0
    until(consumers.drained, "the end of the log in both stores", every=0.1)
    found = consumers.compare()
    assert found.clean, "\n".join([f"after {verb} died at {name} for the {nth}. time:", *found.said])
    assert found.letters == found.letters_expected > 0
    assert found.nonempty > 0.9 * found.entities > 30


@pytest.mark.parametrize("consumers", PLACES, indirect=True, scope="module")
def test_the_comparison_sees_one_event_that_is_lost_one_that_counts_twice_and_one_that_is_another(consumers: Consumers) -> None:
    """The log is changed instead of the stores: an event more is one that they lost, an event less one that they count too often."""
    log = verdict.replay(consumers.world, consumers.producer.bad)
    newest = max(record.time_us for record in log.events)
    last = next(record for record in reversed(log.events) if record.source == "tip" and record.time_us <= record.timestamp_us)
    rest = [record for record in log.events if record.source == "ride"]
    another = replace(last, fields={**last.fields, "amount": last.fields["amount"] + 1.0})
    counts = [record for record in rest if record.time_us <= record.timestamp_us and record.fields["rider"] == "ada"]

    def told(events: list[oracle.Record]) -> verdict.Verdict:
        return verdict.of_everything(consumers.world, verdict.Replay(events, log.refused), [newest + SECOND_US])

    twice = replace(counts[-1], offset=1_000_000)
    assert told([*log.events, twice]).lost >= 1
    assert told([record for record in log.events if record is not counts[-1]]).doubled >= 1
    assert told([another if record is last else record for record in log.events]).wrong >= 1
