"""Hypothesis drives the worker: it chooses what happens next from all that can, and makes what fails short.

The same worlds as ``make simulate``, chosen otherwise: there a seed throws dice for a whole run, here each step is one of Hypothesis'.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
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

fired = Counter[str]()


class WorkerMachine(RuleBasedStateMachine):
    """Everything that may happen to workers, log and store; in the end every value is the oracle's."""

    store_class: type[MemoryOnlineStore] = MemoryOnlineStore

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self._fired("an example")
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
    def records_arrive_in_any_order(self, count: int) -> None:
        self._fired("records arrive")
        self.world.produce(count, poison=0.0, again=0.0)

    @rule()
    def a_record_arrives_twice(self) -> None:
        self._fired("a record twice")
        self.world.produce(2, poison=0.0, again=0.9)

    @rule()
    def something_arrives_that_is_no_event(self) -> None:
        self._fired("no event")
        self.world.produce(1, poison=1.0)

    # -- what processes do ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self._awake())
    @rule(place=PLACES, calls=CALLS)
    def a_worker_goes_on(self, place: int, calls: int) -> None:
        self._fired("a worker goes on")
        process = self._pick(self._awake(), place)
        for _ in range(calls):
            if not process.ended:
                self.world.go_on(process)

    @precondition(lambda self: self._awake())
    @rule(place=PLACES)
    def a_worker_finishes_its_turn(self, place: int) -> None:
        self._fired("a turn")
        self.world.turn(self._pick(self._awake(), place))

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(FATES["commit"]))
    def something_becomes_of_a_commit(self, place: int, fate: Fate) -> None:
        self.world.produce(2, poison=0.0, again=0.0)
        self._meets("commit", place, fate)

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(FATES["claim"]))
    def something_becomes_of_a_claim(self, place: int, fate: Fate) -> None:
        self.world.rebalance()
        self._meets("claim", place, fate)

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(FATES["append"]))
    def something_becomes_of_dead_letters(self, place: int, fate: Fate) -> None:
        self.world.produce(2, poison=1.0)
        self._meets("append", place, fate)

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(FATES["read"]))
    def something_becomes_of_a_read(self, place: int, fate: Fate) -> None:
        self._meets("read", place, fate)

    @precondition(lambda self: self._at_work())
    @rule(place=PLACES, fate=st.sampled_from(sorted(set(FATES["poll"]), key=str)))
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
                self._fired(f"{kind} {fate.name}")
                self.world.go_on(process, fate)
                return
            self.world.go_on(process)

    @precondition(lambda self: self._midway())
    @rule(place=PLACES)
    def a_worker_is_killed(self, place: int) -> None:
        self._fired("a kill")
        self.world.kill(self._pick(self._midway(), place))

    @precondition(lambda self: set(self._midway()) - self.world.asleep)
    @rule(place=PLACES)
    def a_worker_stands_still_and_the_group_thinks_it_dead(self, place: int) -> None:
        self._fired("a sleep")
        process = self._pick([p for p in self._midway() if p not in self.world.asleep], place)
        self.world.asleep.add(process)
        self.world.rebalance(without=process)

    @precondition(lambda self: self.world.asleep)
    @rule(place=PLACES)
    def a_zombie_wakes_up(self, place: int) -> None:
        self._fired("a zombie")
        process = self._pick(sorted(self.world.asleep, key=lambda p: p.name), place)
        self.world.asleep.discard(process)
        self.world.turn(process)

    @precondition(lambda self: len(self.world.processes) < MOST_PROCESSES)
    @rule()
    def a_worker_comes_up(self) -> None:
        self._fired("a start")
        self.world.turn(self.world.start())
        self.world.rebalance()

    @precondition(lambda self: self._awake())
    @rule(place=PLACES)
    def a_worker_is_told_to_end(self, place: int) -> None:
        self._fired("a departure")
        self.world.leave(self._pick(self._awake(), place))

    @rule()
    def the_group_rebalances(self) -> None:
        self._fired("a rebalance")
        self.world.rebalance()

    # -- time and servers ----------------------------------------------------------------------------------------------

    @rule(us=st.sampled_from([1_000, 200_000, 1_100_000, 3_000_000]))
    def time_passes(self, us: int) -> None:
        self._fired("time passes")
        self.world.pass_time(us)

    @rule()
    def hours_pass(self) -> None:
        self._fired("hours pass")
        self.world.jump()

    @rule()
    def the_disk_has_what_the_store_holds(self) -> None:
        self._fired("a durable state")
        self.world.server.persist()

    @rule()
    def the_store_falls_back(self) -> None:
        self._fired("a rollback")
        self.world.server.roll_back(self.luck)

    @precondition(lambda self: len(self.world.server.tags) > 1)
    @rule(place=PLACES)
    def one_bucket_falls_back(self, place: int) -> None:
        self._fired("a rollback of one bucket")
        tags = self.world.server.tags
        self.world.server.roll_back(self.luck, tags[place % len(tags)])

    @precondition(lambda self: self.world.server.flying or self.world.server.wires)
    @rule()
    def a_message_arrives_late(self) -> None:
        self._fired("a late message")
        self.world.deliver()

    # -- definitions ---------------------------------------------------------------------------------------------------

    @rule()
    def a_view_is_applied(self) -> None:
        self._fired("a view applied")
        self.world.apply()

    @rule()
    def a_view_is_rebuilt(self) -> None:
        self._fired("a view rebuilt")
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

    def _fired(self, name: str) -> None:
        fired[name] += 1

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
    every |= {
        "records arrive", "a record twice", "no event", "a worker goes on", "a turn", "a kill", "a sleep", "a zombie", "a start",
        "a departure", "a rebalance", "time passes", "hours pass", "a durable state", "a rollback",
        "a rollback of one bucket", "a late message", "a view applied", "a view rebuilt",
    }  # fmt: skip
    assert every - fired.keys() == set(), "these never happened: nothing was shown of them"
    assert fired["an example"] >= EXAMPLES
    assert sum(fired.values()) > EXAMPLES * STEPS / 2


def test_the_machine_would_show_that_a_guard_is_gone() -> None:
    with pytest.raises(AssertionError, match="which is not its own"):
        run_state_machine_as_test(WithoutToken, settings=settings(CHECKED, phases=(Phase.generate,)))
