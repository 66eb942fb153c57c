"""All there is in one run, and everything that can happen in it. Each method is one event, counted and noted."""

from __future__ import annotations

import json
import random
from collections import Counter

from prometheus_client import CollectorRegistry
from worker_rig import SECOND_US, START_US, TRIP, Rig

import oracle
from featureflow.clock import ManualClock
from featureflow.define.spec import Project, View
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.store.log.protocol import Partition, Record
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import DROPPED
from simulate.group import Group, SimulatedLog
from simulate.network import Link, Server, places
from simulate.process import START, TURN, Fate, Point, Process, Reach
from simulate.projects import PLAIN, larger

PARTITIONS = 2
MOST_PROCESSES = 3
DAY_US = 86_400 * SECOND_US
IDS_AGAIN = 0.1                            # of the events with an id: another event's
LOST_REPLIES = (Fate.LOST_THERE, Fate.LOST_BACK, Fate.LOST_BACK_COPIED)


class World:
    """``luck`` decides what is not asked for: what a record holds, which of several messages arrives."""

    def __init__(
        self, luck: random.Random, store_class: type[MemoryOnlineStore] = MemoryOnlineStore, *, watched: bool = True, buckets: int = 1,
        one_server: bool = True, project: Project = PLAIN,
    ) -> None:  # fmt: skip
        self.luck, self.happened = luck, Counter[str]()
        self.clock = ManualClock(START_US)
        store = store_class(self.clock, one_server=one_server)
        self.rig = Rig(PARTITIONS, project=project, online=store, clock=self.clock, buckets=buckets)
        self.rig.luck = luck
        self.partitions = [Partition("trip", number) for number in range(PARTITIONS)]
        self.project, self._larger = project, larger(project)
        self.source = project.source("trip")
        self.server = Server(store, self.happened, self.note, watched=watched)
        self.server.persist(only=True)
        self.group = Group()
        self.processes: list[Process] = []
        self.asleep: set[Process] = set()
        self.records: list[oracle.Record] = []
        self.poison: set[str] = set()      # positions
        self.wrong = self.server.wrong
        self._appended: list[Record] = []
        self._started = self._ids = 0
        self._metrics = WorkerMetrics(CollectorRegistry())         # of all of them: nobody looks
        self._projects: dict[Process, Project] = {}
        self._notes: list[tuple[int, str, tuple[object, ...]]] = []

    # -- what is told of it --------------------------------------------------------------------------------------------

    def note(self, text: str, *values: object) -> None:
        self._notes.append((self.clock.now_us(), text, values))

    def trace(self) -> list[str]:
        return [f"{(at_us - START_US) / SECOND_US:12.3f}  {text % values}" for at_us, text, values in self._notes]

    # -- events --------------------------------------------------------------------------------------------------------

    def produce(self, count: int, poison: float = 0.08, again: float = 0.1) -> None:
        """Records, in and out of order, late and from the future; a share that is no event, a share that was sent before."""
        for _ in range(count):
            self.clock.advance(self.luck.choice((0, 0, 1_000, 700_000)))
            chance = self.luck.random()
            if chance < poison:
                self._append(self.rig.poison(), bad=True)
            elif chance < poison + again and self._appended:
                self.happened["records sent twice"] += 1
                self._append(self.luck.choice(self._appended))
            else:
                self._append(self.rig.trip() if self.source.dedupe is None else self.rig.trip(id=self._id()))

    def _id(self) -> int | None:
        """None, a new one, or one that was there: by chance of an event of the same rider."""
        if self.luck.random() < 0.2:
            return None
        self._ids += 1
        return self.luck.randrange(max(0, self._ids - 20), self._ids) if self.luck.random() < IDS_AGAIN else self._ids

    def _append(self, record: Record, *, bad: bool = False) -> None:
        ((partition, offset),) = self.rig.memory_log.append(TRIP.topic, [record])
        self.happened["events"] += 1
        self.note("the log has %s/%s: %s", partition, offset, record.value)
        if bad:
            self.happened["poison records"] += 1
            self.poison.add(f"trip/{partition}/{offset}")
            return
        self._appended.append(record)
        fields = dict.fromkeys(field.name for field in self.source.fields) | json.loads(record.value)
        now_us = self.clock.now_us() // 1000 * 1000
        self.records.append(oracle.Record("trip", partition, offset, fields["at"], now_us, fields))

    # -- time ----------------------------------------------------------------------------------------------------------

    def pass_time(self, us: int) -> None:
        self.clock.advance(us)

    def jump(self) -> None:
        """Longer than the state of a rider lives; all in all shorter than that of a zone."""
        if self.clock.now_us() + 2 * 3_600 * SECOND_US < START_US + DAY_US * 3 // 4:
            self.clock.advance(2 * 3_600 * SECOND_US)
            self.happened["time jumps"] += 1
            self.note("two hours pass")

    # -- processes -----------------------------------------------------------------------------------------------------

    def start(self, name: str = "") -> Process:
        """A worker comes up: a new member of the group, or one of this name that was killed."""
        self._started += 1
        name = name or f"w{self._started}"
        project, luck = self.project, self.luck
        settings = {"commit_rows": luck.choice((3, 8, 30)), "poll_records": luck.choice((2, 5, 20)),
                    "slab_bytes": luck.choice((2_000, 200_000))}  # fmt: skip

        def make(reach: Reach) -> Worker:
            log = SimulatedLog(self.rig.memory_log, self.group, name, reach, self.happened)
            return Worker(
                log, Link(self.server, reach), project, self.clock, self._metrics,  # type: ignore[arg-type]  # they answer to the same
                failpoint=lambda place: _passed(reach, place), buckets=self.rig.buckets, **settings,
            )  # fmt: skip

        process = Process(name, make)
        self.processes.append(process)
        self._projects[process] = project
        self.happened["starts"] += 1
        self.note("%s starts with %s and %s views", name, settings, len(project.views))
        return process

    def go_on(self, process: Process, fate: Fate = Fate.FINE) -> None:
        """To its next call; the one that it is about to make has this fate."""
        self.happened["zombies"] += process.overtaken
        self.happened["lost replies"] += fate in LOST_REPLIES
        self.happened["unreachable"] += fate is Fate.AWAY
        self.happened["duplicates"] += fate in (Fate.COPIED, Fate.LOST_BACK_COPIED)
        point = process.point
        if fate is not Fate.FINE or point.kind in ("commit", "claim"):
            self.note("%s: %s %s%s", process.name, point.kind, point.name, "" if fate is Fate.FINE else f" IS {fate.name}")
        if process.overtaken:
            self.note("%s goes on, overtaken", process.name)
        claims, refused = self.happened["claims"], self.server.happened
        process.go_on(fate)
        if point.kind == "claim" and refused["claims"] > claims:
            self._overtake(process, point.name)
        if point.name == "the past":
            self.happened["slices of the past"] += 1
        if process.error is not None:
            self.wrong.append(f"{process.name} ended: {type(process.error).__name__}: {process.error}")
        if process.ended:
            self._forget(process)

    def turn(self, process: Process) -> None:
        """To the end of its turn, nothing going wrong."""
        self.go_on(process)
        while not process.ended and process.point is not TURN:
            self.go_on(process)

    def kill(self, process: Process) -> None:
        """What it held is gone; the group hears of it when it is asked again."""
        self.happened["crashes"] += 1
        if process.point.kind == "failpoint":
            self.happened[f"crashes {process.point.name}"] += 1
        self.note("%s is KILLED at %s %s", process.name, process.point.kind, process.point.name)
        process.kill()
        self._forget(process)

    def leave(self, process: Process) -> None:
        """It is told to end, finishes its turn and leaves the group."""
        self.note("%s is told to end", process.name)
        self.happened["departures"] += 1
        process.ending = True
        while not process.ended:
            self.go_on(process)
        self.rebalance()

    def _forget(self, process: Process) -> None:
        self.processes.remove(process)
        self.asleep.discard(process)

    def _overtake(self, process: Process, place: str) -> None:
        source, _, number = place.partition("/")
        partition = Partition(source, int(number))
        for other in self.processes:
            member = self.group.members.get(other.name)
            if other is not process and other.point not in (START, TURN) and member is not None and partition in member.heard:
                other.overtaken = True

    # -- the group -----------------------------------------------------------------------------------------------------

    def rebalance(self, without: Process | None = None) -> None:
        """The group hands its partitions out again, among those that are up; they hear of it later. ``without``: one was not
        heard of for too long."""
        up = {process.name for process in self.processes}
        for name in self.group.members.keys() - up:
            del self.group.members[name]
        members = sorted(name for name in self.group.members if without is None or name != without.name)
        given: dict[str, list[Partition]] = {}
        if members:
            for partition in self.partitions:
                given.setdefault(self.luck.choice(members), []).append(partition)
        self.group.give(given)
        self.happened["expulsions" if without is not None else "rebalances"] += 1
        self.note("the group gives %s", {name: [p.partition for p in mine] for name, mine in given.items()})

    # -- servers -------------------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        if moving := len(self.server.flying) + len(self.server.wires):
            self.server.deliver(self.luck.randrange(moving))

    def apply(self) -> None:
        """One view more: its offsets are made at the log's beginning, and workers that start from now on know it."""
        if self.project is not self._larger:
            newcomer = self._larger.views[-1]
            self._create(newcomer)
            self.server.persist(only=True)
            self.project = self._larger
            self.happened["views applied"] += 1
            self.note("%s is applied", newcomer.id)

    def drop(self) -> None:
        """The first half of a rebuild."""
        view = self.luck.choice(self.project.views)
        self.rig.online.drop_view(view.id, for_good=False)
        self.happened["views dropped"] += 1
        self.note("%s is dropped", view.id)

    def create(self) -> None:
        """The second half, of every view that waits for it."""
        for view in self.project.views:
            if any(f":{view.id}:" in key.decode() and record.dirty == DROPPED for key, record in self.offsets().items()):
                self._create(view)
                self.happened["views rebuilt"] += 1
                self.note("%s begins anew", view.id)

    def _create(self, view: View) -> None:
        topic_id = self.rig.log.topic(TRIP.topic).topic_id
        self.rig.online.create_offsets(view.id, "trip", topic_id, dict.fromkeys(range(PARTITIONS), 0), self.rig.buckets)

    # -- the end -------------------------------------------------------------------------------------------------------

    def drain(self, most_turns: int = 400) -> None:
        """Nothing goes wrong any more, but for what is still on its way: whoever is up folds the log to its end."""
        self.note("from here on nothing goes wrong")
        self.asleep.clear()
        for process in list(self.processes):
            if self._projects[process] is not self.project:
                self.leave(process)        # as it would when it saw that others were applied
        if not self.processes:
            self.start()
        for _ in range(2):                 # a new member is known once it has polled
            for process in list(self.processes):
                self.turn(process)
            self.rebalance()
        self.create()
        for _ in range(most_turns):
            if not self.server.flying and not self.server.wires and self.drained():
                return
            for process in list(self.processes):
                self.turn(process)
            self.clock.advance(700_000)
            if self.luck.random() < 0.5:
                self.deliver()
            if self.wrong:
                return
        self.wrong.append(f"not drained in {most_turns} turns: {places(self.server.store.snapshot())}")

    def drained(self) -> bool:
        end = self.rig.log.topic(TRIP.topic).end
        return all(record.offset == end[int(key.rpartition(b":")[2])] for key, record in self.offsets().items())

    def offsets(self):  # type: ignore[no-untyped-def]  # as Snapshot
        return self.server.store.snapshot().offsets()

    def close(self) -> None:
        for process in list(self.processes):
            process.kill()


def _passed(reach: Reach, place: str) -> None:
    reach(Point("failpoint", place))
