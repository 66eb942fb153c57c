"""``featureflow ingest`` and ``history`` with a note of what they have in hand, in a file that outlives them.

The verbs are the real ones, each in a process of its own: ``python -m watched --project FOLDER VERB``, or, where many are started, one of
``forked``. FEATUREFLOW_TEST_HAND names the file. How long such a process takes to start is measured, so it imports nothing of the
tests: no more than what the command imports.

The note says how many records were polled and are not known to be committed. It is written by the process itself, in memory that
it shares with the file, so that a SIGKILL at any instruction leaves it as it was. With FEATUREFLOW_TEST_STOP naming a file that exists,
the process stops itself (SIGSTOP) right before it sends its next commit that writes state, and removes the file.
FEATUREFLOW_TEST_TRAP names a file like the note, in which a failpoint is armed and disarmed while the process runs. To the file of
FEATUREFLOW_TEST_OPERATIONS each commit is appended, as one line. FEATUREFLOW_TEST_WITHOUT names a guard of the worker's own that the
process goes without: to show what it is for.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from featureflow.cli import main as cli
from featureflow.cli.context import Context
from featureflow.define.spec import Source
from featureflow.errors import UnknownOutcomeError
from featureflow.ingest import failpoint, ids
from featureflow.kernel.events import Events
from featureflow.store.history.protocol import HistoryStore
from featureflow.store.keys import Bucket
from featureflow.store.log.protocol import Consumer, Log, Polled
from featureflow.store.online.protocol import Answer, Commit, Committed, OnlineStore, Pipeline, Refused

NOTE = struct.Struct("<qqqq")              # polls that brought records, records in hand, records committed, commits refused


class Hand:
    """Shared by the process and whoever watches it. ``in_flight``: commits of the process are on their way."""

    in_flight = False

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(NOTE.size))
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), NOTE.size)

    def read(self) -> tuple[int, int, int]:
        """Polls that brought records, records in hand, records committed."""
        polls, held, committed, _ = NOTE.unpack(self._memory[:])
        return polls, held, committed

    @property
    def refused(self) -> int:
        """Commits that the store refused."""
        refused: int = NOTE.unpack(self._memory[:])[3]
        return refused

    def clear(self) -> None:
        self._memory[:] = bytes(NOTE.size)

    def polled(self, records: int) -> None:
        polls, held, committed, refused = NOTE.unpack(self._memory[:])
        kept = held if self.in_flight else 0
        self._memory[:] = NOTE.pack(polls + (records > 0), kept + records, committed, refused)

    def settled(self, records: int) -> None:
        polls, held, committed, refused = NOTE.unpack(self._memory[:])
        self._memory[:] = NOTE.pack(polls, held - records, committed + records, refused)

    def was_refused(self) -> None:
        polls, held, committed, refused = NOTE.unpack(self._memory[:])
        self._memory[:] = NOTE.pack(polls, held, committed, refused + 1)


TRAP = struct.Struct("<qqq")               # the armed failpoint's place in NAMES (-1: none), passes left, where it died (-1: it did not)


class Trap:
    """A failpoint that is armed from outside, in memory shared through a file; in the process it is what the failpoints call."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(TRAP.pack(-1, 0, -1))
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), TRAP.size)

    def arm(self, name: failpoint.Name, nth: int = 1) -> None:
        """SIGKILL when it passes ``name`` for the ``nth`` time from now on."""
        self._memory[:] = TRAP.pack(failpoint.NAMES.index(name), nth, -1)

    @property
    def died_at(self) -> failpoint.Name | None:
        died = TRAP.unpack(self._memory[:])[2]
        return None if died < 0 else failpoint.NAMES[died]

    def __call__(self, name: failpoint.Name) -> None:
        armed, left, _ = TRAP.unpack(self._memory[:])
        if armed >= 0 and failpoint.NAMES[armed] == name:
            died = armed if left == 1 else -1
            self._memory[:] = TRAP.pack(armed if left > 1 else -1, left - 1, died)
            if left == 1:
                os.kill(os.getpid(), signal.SIGKILL)


class _Wrapped:
    def __init__(self, inner: Any, hand: Hand) -> None:
        self._inner, self._hand = inner, hand

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WatchedConsumer(_Wrapped):
    def poll(self, **bounds: Any) -> Polled:
        self._hand.polled(0)               # what the last poll brought is committed or was dropped, but for what is on its way
        polled: Polled = self._inner.poll(**bounds)
        self._hand.polled(sum(batch.next - batch.first for batch in polled.batches))
        return polled


class WatchedLog(_Wrapped):
    def consumer(self, group: str, sources: dict[str, str], *, member: str | None = None) -> Consumer:
        made: Consumer = WatchedConsumer(self._inner.consumer(group, sources, member=member), self._hand)  # type: ignore[assignment]  # delegates the rest
        return made


class WatchedStore(_Wrapped):
    before: Callable[[Commit], None]
    note: Callable[[str, int, int, int, str], None]

    def in_flight(self, so: bool) -> None:
        self._hand.in_flight = so

    def pipeline(self) -> WatchedPipeline:
        return WatchedPipeline(self._inner.pipeline(), self)

    @cached_property
    def bounds(self) -> dict[tuple[str, int], dict[Bucket, tuple[int, int]]]:
        """Of each partition and bucket, from where and to where it was committed."""
        return defaultdict(dict)

    def told(self, commit: Commit, answer: Answer | None) -> None:
        first, to = min(advance.from_offset for advance in commit.advances), commit.advances[0].to_offset
        outcome = "committed" if isinstance(answer, Committed) else answer.reason if isinstance(answer, Refused) else "unknown"
        self.note(commit.source, commit.partition, first, to, outcome)
        if isinstance(answer, Committed):
            self._hand.settled(self._committed(commit, first, to))
        elif isinstance(answer, Refused):
            self._hand.was_refused()

    def _committed(self, commit: Commit, first: int, to: int) -> int:
        """Records that every bucket has now: the last to come settles them."""
        bounds = self.bounds[commit.source, commit.partition]
        moved = {advance.bucket for advance in commit.advances}
        if any(bucket in bounds and bounds[bucket][1] != first for bucket in moved):
            bounds.clear()                 # somebody else had the partition in between
        for bucket in moved:
            bounds[bucket] = bounds.get(bucket, (first, first))[0], to
        if len(bounds) < commit.advances[0].bucket.of:
            return 0
        begun, reached = max(begun for begun, _ in bounds.values()), min(to for _, to in bounds.values())
        if reached <= begun:
            return 0
        for bucket, (_, at) in bounds.items():
            bounds[bucket] = reached, at
        return reached - begun


class WatchedPipeline:
    def __init__(self, inner: Pipeline, store: WatchedStore) -> None:
        self._inner, self._store = inner, store
        self._sent: list[Commit] = []

    def send(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            self._store.before(commit)
        self._sent += commits
        self._store.in_flight(True)
        self._inner.send(commits)

    def answers(self) -> list[Answer]:
        answers: list[Answer] | None = None
        try:
            answers = self._inner.answers()
        finally:
            self._store.in_flight(False)
            for place, commit in enumerate(self._sent):
                self._store.told(commit, None if answers is None else answers[place])
        return answers


class WatchedHistory(_Wrapped):
    note: Callable[[str, int, int, int, str], None]

    def append(self, source: Source, partition: int, events: Events, from_offset: int, to_offset: int, *refused: Any) -> None:
        outcome = "failed"
        try:
            self._inner.append(source, partition, events, from_offset, to_offset, *refused)
            outcome = "committed"
        except UnknownOutcomeError:
            outcome = "unknown"
            raise
        finally:
            self.note(source.name, partition, from_offset, to_offset, outcome)
        self._hand.settled(to_offset - from_offset)


class WatchedContext(Context):
    @cached_property
    def hand(self) -> Hand:
        hand = Hand(Path(self.environment["FEATUREFLOW_TEST_HAND"]))
        hand.clear()
        return hand

    @cached_property
    def log(self) -> Log:
        made: Log = WatchedLog(super().log, self.hand)  # type: ignore[assignment]  # delegates the rest
        return made

    @cached_property
    def online(self) -> OnlineStore:
        store = WatchedStore(super().online, self.hand)
        store.before, store.note = self._before, self._note
        made: OnlineStore = store  # type: ignore[assignment]  # delegates the rest
        return made

    @cached_property
    def history(self) -> HistoryStore:
        store = WatchedHistory(super().history, self.hand)
        store.note = self._note
        made: HistoryStore = store  # type: ignore[assignment]  # delegates the rest
        return made

    @cached_property
    def _noted(self) -> int | None:
        file = self.environment.get("FEATUREFLOW_TEST_OPERATIONS")
        return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if file else None

    def _note(self, source: str, partition: int, from_offset: int, to_offset: int, outcome: str) -> None:
        if self._noted is not None and (to_offset > from_offset or outcome != "committed"):
            line = f"{time.time():.6f} {os.getpid()} {source}/{partition} {from_offset}..{to_offset} {outcome}\n"
            os.write(self._noted, line.encode())

    @cached_property
    def failpoint(self) -> failpoint.Failpoint:  # type: ignore[override]  # a property, computed once
        trap = self.environment.get("FEATUREFLOW_TEST_TRAP")
        return Trap(Path(trap)) if trap else failpoint.unarmed

    def _before(self, commit: Commit) -> None:
        stop = self.environment.get("FEATUREFLOW_TEST_STOP")
        if stop and commit.writes and os.path.exists(stop):
            os.unlink(stop)
            os.kill(os.getpid(), signal.SIGSTOP)


def _forgotten(at: int, offset: int) -> bool:
    return False


GUARDS: dict[str, tuple[object, str, object]] = {
    "ids": (ids, "counts", _forgotten),    # the ids that tell duplicates are not taken back with a claim
}


def main() -> None:
    if guard := os.environ.get("FEATUREFLOW_TEST_WITHOUT", ""):
        module, name, instead = GUARDS[guard]
        setattr(module, name, instead)
    cli.Context = WatchedContext  # type: ignore[misc]  # the verbs are the real ones
    cli.main()


if __name__ == "__main__":
    main()
