"""Hypothesis drives the worker: it chooses what happens next from all that can, and makes what fails short.

The same worlds as ``make simulate``, chosen otherwise: there a seed throws dice for a whole run, here each step is one of Hypothesis'.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RULE_MARKER,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from featureflow.store.online.memory import MemoryOnlineStore
from simulate import truth
from simulate.__main__ import quiet
from simulate.conductor import FATES
from simulate.process import START, TURN, Fate, Process
from simulate.projects import KEEPING, PLAIN
from simulate.unguarded import NoToken
from simulate.world import MOST_PROCESSES, World

EXAMPLES, STEPS = 200, 50
CHECKED = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, derandomize=True, database=None, deadline=None,
    suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
)  # fmt: skip
PLACES = st.integers(0, 11)                # of one of several, modulo how many there are
CALLS = st.integers(1, 30)

Machine, Given = TypeVar("Machine"), ParamSpec("Given")
fired = Counter[str]()


def counted(step: Callable[Concatenate[Machine, Given], None]) -> Callable[Concatenate[Machine, Given], None]:
    """What a machine does, noted by its name whenever it does it."""
    @functools.wraps(step)
    def noted(machine: Machine, *args: Given.args, **given: Given.kwargs) -> None:
        fired[step.__name__] += 1
        step(machine, *args, **given)

    return noted


class WorkerMachine(RuleBasedStateMachine):
    """Everything that may happen to workers, log and store; in the end every value is the oracle's."""

    store_class: type[MemoryOnlineStore] = MemoryOnlineStore

    @initialize(seed=st.integers(0, 2**32))
    @counted
    def begin(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.world = World(
            self.luck, self.store_class, buckets=3 if seed % 2 else 1, one_server=seed % 16 < 8,
            project=KEEPING if seed // 4 % 3 == 2 else PLAIN,
        )  # fmt: skip
        for _ in range(1 + seed // 2 % 2):
            self.world.turn(self.world.start())
        self.world.rebalance()

    # -- what arrives --------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 5))
    @counted
    def records_arrive_in_any_order(self, count: int) -> None:
        self.world.produce(count, poison=0.0, again=0.0)

    @rule()
    @counted
    def a_record_arrives_twice(self) -> None:
        self.world.produce(2, poison=0.0, again=0.9)

    @rule()
    @counted
    def something_arrives_that_is_no_event(self) -> None:
        self.world.produce(1, poison=1.0)

    # -- what processes do ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self._awake())
    @rule(place=PLACES, calls=CALLS)
    @counted
    def a_worker_goes_on(self, place: int, calls: int) -> None:
        process = self._pick(self._awake(), place)
        for _ in range(calls):
            if not process.ended:
                self.world.go_on(process)

    @precondition(lambda self: self._awake())
    @rule(place=PLACES)
    @counted
    def a_worker_finishes_its_turn(self, place: int) -> None:
        self.world.turn(self._pick(self._awake(), place))

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(FATES["commit"]))
    @counted
    def something_becomes_of_a_commit(self, place: int, fate: Fate) -> None:
        self.world.produce(2, poison=0.0, again=0.0)
        self._meets("commit", place, fate)

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(FATES["claim"]))
    @counted
    def something_becomes_of_a_claim(self, place: int, fate: Fate) -> None:
        self.world.rebalance()
        self._meets("claim", place, fate)

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(FATES["append"]))
    @counted
    def something_becomes_of_dead_letters(self, place: int, fate: Fate) -> None:
        self.world.produce(2, poison=1.0)
        self._meets("append", place, fate)

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(FATES["read"]))
    @counted
    def something_becomes_of_a_read(self, place: int, fate: Fate) -> None:
        self._meets("read", place, fate)

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(sorted(set(FATES["poll"]), key=str)))
    @counted
    def something_becomes_of_a_poll(self, place: int, fate: Fate) -> None:
        self._meets("poll", place, fate)

    def _meets(self, kind: str, place: int, fate: Fate) -> None:
        """The next call of that kind of a worker that has partitions has this fate."""
        if not (at_work := self._at_work()):
            return
        process = self._pick(at_work, place)
        for _ in range(100):
            if process.ended:
                return
            if process.point.kind == kind:
                fired[f"{kind} {fate.name}"] += 1
                self.world.go_on(process, fate)
                return
            self.world.go_on(process)

    @precondition(lambda self: self._midway())
    @rule(place=PLACES)
    @counted
    def a_worker_is_killed(self, place: int) -> None:
        self.world.kill(self._pick(self._midway(), place))

    @precondition(lambda self: set(self._midway()) - self.world.asleep)
    @rule(place=PLACES)
    @counted
    def a_worker_stands_still_and_the_group_thinks_it_dead(self, place: int) -> None:
        process = self._pick([p for p in self._midway() if p not in self.world.asleep], place)
        self.world.asleep.add(process)
        self.world.rebalance(without=process)

    @precondition(lambda self: self.world.asleep)
    @rule(place=PLACES)
    @counted
    def a_zombie_wakes_up(self, place: int) -> None:
        process = self._pick(sorted(self.world.asleep, key=lambda p: p.name), place)
        self.world.asleep.discard(process)
        self.world.turn(process)

    @precondition(lambda self: len(self.world.processes) < MOST_PROCESSES)
    @rule()
    @counted
    def a_worker_comes_up(self) -> None:
        self.world.turn(self.world.start())
        self.world.rebalance()

    @precondition(lambda self: self._awake())
    @rule(place=PLACES)
    @counted
    def a_worker_is_told_to_end(self, place: int) -> None:
        self.world.leave(self._pick(self._awake(), place))

    @rule()
    @counted
    def the_group_rebalances(self) -> None:
        self.world.rebalance()

    # -- time and servers ----------------------------------------------------------------------------------------------

    @rule(us=st.sampled_from([1_000, 200_000, 1_100_000, 3_000_000]))
    @counted
    def time_passes(self, us: int) -> None:
        self.world.pass_time(us)

    @rule()
    @counted
    def hours_pass(self) -> None:
        self.world.jump()

    @rule()
    @counted
    def the_disk_has_what_the_store_holds(self) -> None:
        self.world.server.persist()

    @rule()
    @counted
    def the_store_falls_back(self) -> None:
        self.world.server.roll_back(self.luck)

    @precondition(lambda self: len(self.world.server.tags) > 1)
    @rule(place=PLACES)
    @counted
    def one_bucket_falls_back(self, place: int) -> None:
        tags = self.world.server.tags
        self.world.server.roll_back(self.luck, tags[place % len(tags)])

    @precondition(lambda self: self.world.server.flying or self.world.server.wires)
    @rule()
    @counted
    def a_message_arrives_late(self) -> None:
        self.world.deliver()

    # -- definitions ---------------------------------------------------------------------------------------------------

    @rule()
    @counted
    def a_view_is_applied(self) -> None:
        self.world.apply()

    @rule()
    @counted
    def a_view_is_rebuilt(self) -> None:
        self.world.drop()
        self.world.create()

    # -- what must be so -----------------------------------------------------------------------------------------------

    @invariant()
    def no_offset_goes_back_and_none_moves_without_its_token(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.wrong, self._told(self.world.wrong)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self.world.wrong:
                self.world.drain()
                wrong = truth.judge(self.world)
                assert not wrong, self._told(wrong)
        finally:
            self.world.close()

    def _told(self, wrong: list[str]) -> str:
        return "\n".join([*self.world.trace()[-80:], *wrong[:5]])

    def _awake(self) -> list[Process]:
        return [process for process in self.world.processes if process not in self.world.asleep]

    def _at_work(self) -> list[Process]:
        members = self.world.group.members
        return [process for process in self._awake() if process.name in members and members[process.name].given]

    def _midway(self) -> list[Process]:
        return [process for process in self.world.processes if process.point not in (START, TURN)]

    @staticmethod
    def _pick(processes: list[Process], place: int) -> Process:
        return processes[place % len(processes)]


class WithoutToken(WorkerMachine):
    store_class = NoToken


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    quiet()
    yield
    structlog.reset_defaults()


def test_whatever_hypothesis_does_to_workers_and_servers_every_value_is_the_oracles() -> None:
    fired.clear()
    run_state_machine_as_test(WorkerMachine, settings=CHECKED)
    every = {f"{kind} {fate.name}" for kind, fates in FATES.items() for fate in fates}
    every |= {name for name, step in inspect.getmembers(WorkerMachine) if hasattr(step, RULE_MARKER)}
    assert "a_worker_is_killed" in every
    assert every - fired.keys() == set(), "these never happened: nothing was shown of them"
    assert fired["begin"] >= EXAMPLES
    assert sum(fired.values()) > EXAMPLES * STEPS / 2


def test_the_machine_would_show_that_a_guard_is_gone() -> None:
    with pytest.raises(AssertionError, match="which is not its own"):
        run_state_machine_as_test(WithoutToken, settings=settings(CHECKED, phases=(Phase.generate,)))
