"""Decides, from a seed, what happens next."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from featureflow.store.online.memory import MemoryOnlineStore
from simulate import truth
from simulate.process import START, TURN, Fate, Process
from simulate.projects import KEEPING, PLAIN
from simulate.world import MOST_PROCESSES, World

FATES = {                                  # of a call of that kind, but for FINE
    "commit": (Fate.ARRIVED, Fate.AWAY, Fate.COPIED, Fate.LOST_THERE, Fate.LOST_BACK, Fate.LOST_BACK_COPIED),
    "claim": (Fate.AWAY, Fate.LOST_THERE, Fate.LOST_BACK),
    "append": (Fate.AWAY, Fate.LOST_BACK),
    "read": (Fate.AWAY,),
    "poll": (Fate.AWAY, Fate.DEAF, Fate.DEAF, Fate.DEAF),
}
TROUBLE = {"commit": 4.0, "claim": 2.0, "append": 4.0, "read": 0.3, "poll": 2.0}    # how much likelier than the run's rate


@dataclass
class Outcome:
    """What became of one run: what is wrong, what happened how often, and the way there where something is wrong."""

    seed: int
    wrong: list[str]
    happened: dict[str, int]
    trace: list[str] = field(default_factory=list)


def run(seed: int, store_class: type[MemoryOnlineStore] = MemoryOnlineStore, *, watched: bool = True) -> Outcome:
    """One world from beginning to end. Not ``watched``: only what is there in the end is judged. In every other world the state is in
    three buckets; in two of six copies of events are told, and one view has sketches and is published."""
    luck = random.Random(seed)
    world = World(
        luck, store_class, watched=watched, buckets=3 if seed % 2 else 1, one_server=seed % 4 < 3,
        project=KEEPING if seed // 2 % 3 == 2 else PLAIN,
    )  # fmt: skip
    try:
        Conductor(world, luck).perform()
        world.drain()
        wrong = truth.judge(world)
    except Exception:                      # of the world itself: it names its seed too
        wrong = [*world.wrong, traceback.format_exc()]
    finally:
        world.close()
    return Outcome(seed, wrong, dict(world.happened), world.trace() if wrong else [])


class Conductor:
    """Each run leaves some kinds of trouble out, so that those left meet each other more often."""

    def __init__(self, world: World, luck: random.Random) -> None:
        self._world, self._luck = world, luck
        self._rate = luck.choice((0.0, 0.005, 0.02, 0.05))
        always: dict[Callable[[], None], float] = {self._work: 30, self._produce: 8, self._pass_time: 7, world.server.persist: 4}
        sometimes: dict[Callable[[], None], float] = {
            self._start: 2, self._kill: 2, self._sleep: 2, self._wake: 2, self._leave: 0.5, world.rebalance: 2, self._expel: 2,
            world.deliver: 4, self._roll_back: 1.5, self._roll_back_one: 1.5, world.apply: 0.5, self._rebuild: 0.6, world.create: 1,
            world.jump: 0.7,
        }  # fmt: skip
        kept = {event: weight for event, weight in sometimes.items() if luck.random() < 0.7 or event == world.create}
        self._weights = always | kept

    def perform(self) -> None:
        world, luck = self._world, self._luck
        for _ in range(luck.choice((1, 1, 2, 3))):
            world.start()
        events, weights = list(self._weights), list(self._weights.values())
        for event in luck.choices(events, weights, k=luck.randrange(40, 120)):
            event()
            if world.wrong:
                return

    # -- one event each ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Somebody goes on for some calls."""
        world, luck = self._world, self._luck
        awake = [process for process in world.processes if process not in world.asleep]
        if not awake:
            return self._start()
        process = luck.choice(awake)
        if process.point is START:
            world.turn(process)
            return world.rebalance()
        for _ in range(luck.choice((1, 3, 10, 30))):
            if process.ended:
                return None
            if process.point.kind == "failpoint" and luck.random() < self._rate / 2:
                return world.kill(process)
            world.go_on(process, self._fate(process))
        return None

    def _fate(self, process: Process) -> Fate:
        kind = process.point.kind
        if kind in FATES and self._luck.random() < self._rate * TROUBLE[kind]:
            return self._luck.choice(FATES[kind])
        return Fate.ARRIVED if kind == "commit" and self._luck.random() < 0.5 else Fate.FINE

    def _produce(self) -> None:
        self._world.produce(self._luck.randrange(1, 6))

    def _pass_time(self) -> None:
        self._world.pass_time(self._luck.choice((1_000, 200_000, 1_100_000, 3_000_000)))

    def _start(self) -> None:
        world = self._world
        if len(world.processes) < MOST_PROCESSES:
            up = {process.name for process in world.processes}
            gone = sorted(world.group.members.keys() - up)      # killed, and the group has not noticed: its namesake may come up
            world.start(self._luck.choice([*gone, ""]))

    def _any(self, *, midway: bool = False) -> Process | None:
        found = [p for p in self._world.processes if p.point is not START and not (midway and p.point is TURN)]
        return self._luck.choice(found) if found else None

    def _kill(self) -> None:
        if (process := self._any(midway=True)) is not None:
            self._world.kill(process)

    def _sleep(self) -> None:
        """It stands still from now on, wherever it is; soon the group thinks it dead."""
        if (process := self._any(midway=True)) is not None:
            self._world.asleep.add(process)
            self._world.note("%s STANDS STILL at %s %s", process.name, process.point.kind, process.point.name)
            if self._luck.random() < 0.7:
                self._world.rebalance(without=process)

    def _wake(self) -> None:
        if self._world.asleep:
            self._world.asleep.discard(self._luck.choice(sorted(self._world.asleep, key=lambda process: process.name)))

    def _leave(self) -> None:
        if (process := self._any()) is not None:
            self._world.leave(process)

    def _expel(self) -> None:
        if (process := self._any()) is not None:
            self._world.rebalance(without=process)

    def _roll_back(self) -> None:
        self._world.server.roll_back(self._luck)

    def _roll_back_one(self) -> None:
        tags = self._world.server.tags
        if len(tags) > 1:
            self._world.server.roll_back(self._luck, self._luck.choice(tags))

    def _rebuild(self) -> None:
        self._world.drop()
        if self._luck.random() < 0.5:
            self._world.create()
