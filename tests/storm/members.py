"""Consumers with durable names, killed and started again as a supervisor would."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import forked
from processes import Process, until
from watched import Hand
from world import World

from storm.operations import Operations

IN_HAND_S = 150.0                          # never waited for where events come


@dataclass
class Killed:
    """``in_hand``: records polled and not known to be committed at the instant of the kill."""

    member: str
    in_hand: int
    recovery_s: float | None = None        # from the start of the next process to its first commit of events


Launch = Callable[..., Process]
"""(world, verb, **settings) -> a watched process."""


def cold(world: World, verb: str, **settings: str) -> Process:
    """As an operator has it: a new interpreter, imports and all."""
    return world.start_cold("watched", verb, **settings)


def warm(world: World, verb: str, **settings: str) -> Process:
    """Forked from a process that has imported everything."""
    return forked.start(world, verb, **settings)


@dataclass
class Member:
    """One consumer. ``refused`` are the commits that the store refused to any of its processes."""

    launch: Launch

    world: World
    operations: Operations
    verb: str
    name: str
    settings: dict[str, str]
    kills: list[Killed] = field(default_factory=list)
    restarts: int = 0
    pauses: int = 0
    refused_before: int = 0
    process: Process | None = None

    @property
    def stop_file(self) -> Path:
        return self.world.folder / f"{self.name}.stop"

    @property
    def hand(self) -> Hand:
        return Hand(self.world.folder / f"{self.name}.hand")

    @property
    def refused(self) -> int:
        return self.refused_before + self.hand.refused

    def start(self) -> None:
        self.refused_before += self.hand.refused
        self.hand.clear()
        member = "FEATUREFLOW_INGEST_MEMBER" if self.verb == "ingest" else "FEATUREFLOW_HISTORY_WRITER_MEMBER"
        self.process = self.launch(
            self.world,
            self.verb,
            FEATUREFLOW_TEST_HAND=str(self.world.folder / f"{self.name}.hand"),
            FEATUREFLOW_TEST_STOP=str(self.stop_file),
            FEATUREFLOW_TEST_OPERATIONS=str(self.operations.folder / f"{self.name}.operations"),
            **{member: f"{self.world.topic}-{self.name}"},
            **self.settings,
        )

    def check(self) -> None:
        assert self.process is not None
        assert self.process.running(), f"{self.name} ended by itself:\n{self.process.said()[-3000:]}"

    def kill(self, *, with_events: bool) -> None:
        """SIGKILL at whatever instruction it is at, now or as soon as it has events in hand."""
        assert self.process is not None
        self.check()
        if with_events:
            until(self._stopped_with_events, f"events in the hands of {self.name}", seconds=IN_HAND_S, every=0.0003)
        in_hand = self.hand.read()[1]
        self.process.kill()
        self.kills.append(Killed(self.name, in_hand))
        self.operations.note(f"kill -9 {self.name} with {in_hand} events in hand")

    def _stopped_with_events(self) -> bool:
        """Whether it has events in hand, and goes on having them, since it is stopped."""
        self.check()
        assert self.process is not None
        if self.hand.read()[1] <= 0:
            return False
        self.process.signal(signal.SIGSTOP)
        until(lambda: self.process is not None and self.process.state() == "T", f"the stop of {self.name}", every=0.0)
        if self.hand.read()[1] > 0:
            return True
        self.process.signal(signal.SIGCONT)
        return False

    def start_again(self) -> None:
        """And wait for its first commit of events."""
        began = time.monotonic()
        self.start()
        self.restarts += 1

        def committed() -> bool:
            self.check()
            return self.hand.read()[2] > 0

        until(committed, f"the first commit of {self.name} after its start", every=0.005)
        if self.kills and self.kills[-1].recovery_s is None:
            self.kills[-1].recovery_s = time.monotonic() - began

    def stop_before_its_next_commit(self) -> None:
        """SIGSTOP with a commit ready to be sent."""
        self.stop_file.touch()

        def stopped() -> bool:
            self.check()
            return self.process is not None and self.process.state() == "T"

        until(stopped, f"the stop of {self.name}")
        self.pauses += 1

    def go_on(self) -> None:
        """SIGCONT, and wait until its late commit is refused."""
        assert self.process is not None
        before = self.hand.refused
        self.process.signal(signal.SIGCONT)

        def refused() -> bool:
            self.check()
            return self.hand.refused > before

        until(refused, f"the refusal of what {self.name} sent late")

    def ended(self) -> int | None:
        """Its exit code, if it has ended."""
        assert self.process is not None
        return None if self.process.running() else self.process.wait()

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGCONT)
            self.process.close()
