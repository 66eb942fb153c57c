"""Which partitions a consumer holds, and which it was assigned and has yet to take.

What is not held is *adrift*: its records are paused, and it is taken again, from where the store says, when its wait is over.
What is *held up* is held, with all that is kept of it: its records are paused for want of something else, and then read again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from featureflow.backoff import Backoff
from featureflow.clock import Clock
from featureflow.store.log.protocol import Assignment, Consumer, Partition

FIRST_WAIT_US, LONGEST_WAIT_US = 100_000, 5_000_000

T = TypeVar("T")


@dataclass
class HeldUp:
    """``due_us``: when its records are read again; None: they are, and whether it goes on is yet to be seen."""

    due_us: int | None
    problem: str


@dataclass
class Adrift:
    """``problem``: why, as a person is told. ``backoff``: of attempts to take it that find a server away."""

    due_us: int
    backoff: Backoff
    problem: str = "not claimed yet"


class Holding(Generic[T]):
    """``T`` is what is known of a held partition. ``gone`` is called for each that is neither held nor adrift as before: whatever
    was kept of it is void."""

    def __init__(self, clock: Clock, gone: Callable[[Partition], None], logger: str = "featureflow.ingest") -> None:
        self._clock, self._gone = clock, gone
        self._logger = structlog.get_logger(logger)
        self.held: dict[Partition, T] = {}
        self.adrift: dict[Partition, Adrift] = {}
        self.held_up: dict[Partition, HeldUp] = {}

    def assign(self, assignment: Assignment) -> None:
        """Drop what was revoked or lost; what was assigned is adrift, and due: the log keeps it paused until its first seek."""
        for kind, partitions in (("revoked", assignment.revoked), ("lost", assignment.lost)):
            for partition in partitions:
                self.forget(partition)
            if partitions:                 # to another member; on Redis Streams the newest has all, and this one waits for its turn
                self._logger.warning(kind, partitions=[f"{p.source}/{p.partition}" for p in partitions], held=len(self.held))
        for partition in assignment.assigned:
            self.forget(partition)
            self.adrift[partition] = Adrift(0, self._backoff())

    def due(self) -> list[Partition]:
        """Those adrift whose wait is over."""
        now_us = self._clock.now_us()
        return [partition for partition, adrift in self.adrift.items() if adrift.due_us <= now_us]

    def take(self, consumer: Consumer, partition: Partition, known: T, offset: int) -> None:
        """It is held from now on, and read on from ``offset``."""
        del self.adrift[partition]
        self.held[partition] = known
        consumer.seek(partition, offset)
        consumer.resume(partition)

    def let_go(self, consumer: Consumer, partition: Partition, problem: str, wait_us: int = FIRST_WAIT_US) -> None:
        """It is adrift from now on."""
        self.forget(partition)
        consumer.pause(partition)
        self.adrift[partition] = Adrift(self._clock.now_us() + wait_us, self._backoff(), problem)
        self._logger.warning("adrift", source=partition.source, partition=partition.partition, problem=problem)

    def let_go_all(self, consumer: Consumer, problem: str) -> None:
        """A server is away: nothing that is held can be trusted, and everything waits for it."""
        for partition in list(self.held):
            self.let_go(consumer, partition, problem)
        for adrift in self.adrift.values():
            adrift.problem = problem

    def put_off(self, partition: Partition) -> None:
        """Taking it failed since a server is away: it finds out for all, and waits longer each time."""
        due_us = self._clock.now_us() + self.adrift[partition].backoff.failed()
        for other in self.adrift.values():
            other.due_us = max(other.due_us, due_us)

    def wait(self, partition: Partition, problem: str, wait_us: int) -> None:
        """Taking it failed, for a reason of its own that will pass."""
        adrift = self.adrift[partition]
        if adrift.problem != problem:
            self._logger.warning("waiting", source=partition.source, partition=partition.partition, problem=problem)
        adrift.due_us, adrift.problem = self._clock.now_us() + wait_us, problem

    def hold_up(self, consumer: Consumer, partition: Partition, problem: str, wait_us: int) -> None:
        """What is held of it stays; its records are not read for a while."""
        consumer.pause(partition)
        if (before := self.held_up.get(partition)) is None or before.problem != problem:
            self._logger.warning("held_up", source=partition.source, partition=partition.partition, problem=problem)
        self.held_up[partition] = HeldUp(self._clock.now_us() + wait_us, problem)

    def to_read_again(self) -> list[Partition]:
        """Those held up whose wait is over, each once: the caller reads on."""
        now_us = self._clock.now_us()
        over = [partition for partition, up in self.held_up.items() if up.due_us is not None and up.due_us <= now_us]
        for partition in over:
            self.held_up[partition].due_us = None
        return over

    def waits(self, partition: Partition) -> bool:
        """Whether its records are not to be read now."""
        return partition in self.held_up and self.held_up[partition].due_us is not None

    def goes_on(self, partition: Partition) -> None:
        """It was held up, and no longer is."""
        self.held_up.pop(partition, None)

    def forget(self, partition: Partition) -> None:
        """It is none of ours: what was kept of it is void."""
        self.held.pop(partition, None)
        self.held_up.pop(partition, None)
        self.adrift.pop(partition, None)
        self._gone(partition)

    def clear(self) -> None:
        """Nothing is ours: the consumer is about to leave its group."""
        for partition in (*self.held, *self.adrift):
            self.forget(partition)

    def _backoff(self) -> Backoff:
        return Backoff(self._clock, FIRST_WAIT_US, LONGEST_WAIT_US)
