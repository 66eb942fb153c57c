"""The log in memory with a consumer group: who has which partition, what each member has heard of it, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from featureflow import limits
from featureflow.errors import UnavailableError
from featureflow.store.log.memory import MemoryConsumer, MemoryLog
from featureflow.store.log.protocol import Assignment, Partition, Polled, Record, TopicState
from simulate.process import Fate, Point, Reach

DOWN = "no broker answers; see log.url"
PAST_RECORDS = 5                           # in one poll of the past, so that a view is behind for a while


@dataclass
class Member:
    """Partition -> the round of the group in which it was given to this member; as the group has it, and as was heard."""

    given: dict[Partition, int] = field(default_factory=dict)
    heard: dict[Partition, int] = field(default_factory=dict)


class Group:
    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self._round = 0

    def give(self, given: dict[str, list[Partition]]) -> None:
        """A rebalance. A member keeps what it had and has again; one that had lost a partition has it anew."""
        self._round += 1
        for name, member in self.members.items():
            member.given = {partition: member.given.get(partition, self._round) for partition in given.get(name, [])}


class SimulatedLog:
    """The log as one process reaches it."""

    def __init__(self, log: MemoryLog, group: Group, member: str, reach: Reach, happened: Counter[str]) -> None:
        self._log, self._group, self._member, self._reach, self._happened = log, group, member, reach, happened

    def consumer(self, group: str, sources: dict[str, str], *, member: str | None = None) -> GroupConsumer:
        known = self._group.members.setdefault(self._member, Member())
        known.heard = {}
        return GroupConsumer(self._log.reader(sources), self._group, self._member, self._reach)

    def reader(self, sources: dict[str, str]) -> Reader:
        return Reader(self._log.reader(sources), self._reach)

    def topic(self, topic: str) -> TopicState:
        if self._reach(Point("read", "topic")) is not Fate.FINE:
            raise UnavailableError(DOWN)
        return self._log.topic(topic)

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        fate = self._reach(Point("append", topic))
        if fate in (Fate.AWAY, Fate.LOST_BACK):
            self._happened["appends that failed"] += 1
        if fate is Fate.AWAY:
            raise UnavailableError(DOWN)
        places = self._log.append(topic, records)
        if fate is Fate.LOST_BACK:
            raise UnavailableError(DOWN)
        return places

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class Reader:
    """A consumer of no group: it reads the past."""

    def __init__(self, reader: MemoryConsumer, reach: Reach) -> None:
        self._reader, self._reach = reader, reach

    def poll(self, *, timeout_s: float, max_records: int, max_bytes: int) -> Polled:
        if self._reach(Point("poll", "the past")) is Fate.AWAY:
            raise UnavailableError(DOWN)
        return self._reader.poll(timeout_s=0.0, max_records=min(max_records, PAST_RECORDS), max_bytes=max_bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class GroupConsumer:
    """A member. What it was given and what was taken from it it hears at a poll, sooner or later; until then it reads on."""

    def __init__(self, reader: MemoryConsumer, group: Group, member: str, reach: Reach) -> None:
        self._reader, self._group, self._member, self._reach = reader, group, member, reach
        self._reader.poll(timeout_s=0.0, max_records=1, max_bytes=limits.POLL_BYTES)    # it may read all; we say which

    def poll(self, *, timeout_s: float, max_records: int, max_bytes: int) -> Polled:
        fate = self._reach(Point("poll"))
        if fate is Fate.AWAY:
            raise UnavailableError(DOWN)
        if fate is not Fate.DEAF and (assignment := self._hear()):
            return Polled(assignment, ())
        polled = self._reader.poll(timeout_s=0.0, max_records=max_records, max_bytes=max_bytes)
        return replace(polled, assignment=Assignment())

    def seek(self, partition: Partition, offset: int) -> None:
        if partition in self._known.heard:
            self._reader.seek(partition, offset)

    def pause(self, partition: Partition) -> None:
        self._reader.pause(partition)

    def resume(self, partition: Partition) -> None:
        if partition in self._known.heard:
            self._reader.resume(partition)

    def commit_advisory(self, offsets: dict[Partition, int]) -> None:
        """Nobody reads it."""

    def close(self) -> None:
        self._group.members.pop(self._member, None)
        self._reader.close()

    @property
    def _known(self) -> Member:
        return self._group.members.setdefault(self._member, Member())

    def _hear(self) -> Assignment:
        known = self._known
        lost = tuple(p for p, turn in known.heard.items() if known.given.get(p) != turn)
        new = tuple(p for p, turn in known.given.items() if known.heard.get(p) != turn)
        for partition in (*lost, *new):
            self._reader.pause(partition)  # until it is sought
        known.heard = dict(known.given)
        return Assignment(assigned=new, lost=lost)
