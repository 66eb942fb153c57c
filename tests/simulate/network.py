"""The online store behind a network: what becomes of a call, what arrives late, what a server forgets."""

from __future__ import annotations

import random
import secrets
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from featureflow.errors import BeingRebuiltError, UnavailableError, UnknownOutcomeError
from featureflow.store.keys import Bucket, buckets, tag_of
from featureflow.store.online.memory import MemoryOnlineStore, Snapshot
from featureflow.store.online.protocol import Answer, Claim, Commit, Committed, OffsetRecord, Refused, Track, answered
from simulate.process import Fate, Point, Reach

DURABLE = 6                                # states that a server may fall back to

Note = Callable[..., None]


class Server:
    """One store, and the messages on their way to it. ``watched``: that no offset goes back, that none moves without its token, and
    that a refusal changes nothing."""

    def __init__(self, store: MemoryOnlineStore, happened: Counter[str], note: Note, *, watched: bool = True) -> None:
        self.store, self.happened, self.note, self._watched = store, happened, note, watched
        self.flying: list[tuple[str, Callable[[], object]]] = []
        self.wires: list[deque[Message]] = []          # of each connection, what was written to it and has yet to arrive
        self.wrong: list[str] = []
        self._durable: dict[bytes, list[Snapshot]] = {}

    # -- what arrives --------------------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> Committed | Refused:
        before = self.store.snapshot()
        answer = self.store.commit(commit)
        self.happened[f"refused: {answer.reason}" if isinstance(answer, Refused) else "commits"] += 1
        self.note("%s: %s", said(commit), answer.reason if isinstance(answer, Refused) else "applied")
        if self._watched:
            self._watch(commit, answer, before, self.store.snapshot())
        return answer

    def _watch(self, commit: Commit, answer: Committed | Refused, before: Snapshot, after: Snapshot) -> None:
        if isinstance(answer, Refused) and not after.values.items() <= before.values.items():
            self.wrong.append(f"{said(commit)} was refused and changed something")
        moved = {key: value for key, value in after.values.items() if value is not before.values.get(key)}
        was = Snapshot({key: before.values[key] for key in moved if key in before.values}, {}).offsets()
        for key, record in Snapshot(moved, {}).offsets().items():
            if was[key].token != commit.token:
                self.wrong.append(f"{said(commit)} moved {key.decode()}, which is not its own")
            if record.offset < was[key].offset:
                self.wrong.append(f"{said(commit)} moved {key.decode()} back from {was[key].offset} to {record.offset}")

    def claim(
        self, source: str, partition: int, view_ids: Sequence[str], topic_id: str, bucket: Bucket, token: bytes
    ) -> dict[Track, OffsetRecord]:
        records = self.store.claim_bucket(source, partition, view_ids, topic_id, bucket, token)
        self.happened["claims"] += 1
        offsets = {track.view_id: record.offset for track, record in records.items()}
        self.note("claim of %s/%s, bucket %s: %s at %s", source, partition, bucket, token.hex()[:4], offsets)
        return records

    def arrive(self, wire: deque[Message]) -> None:
        """The first of what is on its way on a connection."""
        message = wire.popleft()
        message.answer = answered(self.commit, message.commit)
        if not wire:
            self.wires = [other for other in self.wires if other is not wire]

    def deliver(self, place: int) -> None:
        """One message that was thought lost, or that was sent twice, arrives; or one of those on their way on some connection."""
        if place >= len(self.flying):
            self.happened["commits that arrive before their answer is waited for"] += 1
            return self.arrive(self.wires[place - len(self.flying)])
        kind, arrive = self.flying.pop(place)
        self.note("arrives late:")
        self.happened[f"late {kind}s"] += 1
        with suppress(BeingRebuiltError):  # nobody waits for the answer
            arrive()
        return None

    # -- what it forgets -----------------------------------------------------------------------------------------------

    @property
    def tags(self) -> list[bytes]:
        """Of the buckets."""
        return sorted({tag_of(key) for key in self.store.snapshot().offsets()})

    def persist(self, *, only: bool = False) -> None:
        """What it holds now is on its disk; ``only``: and it will never fall back behind it."""
        now = self.store.snapshot()
        for tag in {tag_of(key) for key in now.values}:
            kept = [] if only else self._durable.get(tag, [])
            self._durable[tag] = [*kept[-DURABLE + 1 :], now]

    def roll_back(self, luck: random.Random, tag: bytes | None = None) -> None:
        """Fall back to an earlier state: all of it, or the bucket of this tag alone."""
        if tag is None:
            tags = list(self._durable)
            shared = [s for s in self._durable[tags[0]] if all(any(s is t for t in self._durable[tag]) for tag in tags)]
            if not shared:
                return
            to = luck.choice(shared)
        else:
            to, tags = luck.choice(self._durable[tag]), [tag]
        for each in tags:
            kept = self._durable[each]
            self._durable[each] = kept[: next(i for i, s in enumerate(kept) if s is to) + 1]
        self.store.roll_back(to, tag)
        self.happened["rollbacks" if tag is None else "rollbacks of one bucket"] += 1
        self.note("THE STORE FALLS BACK%s: %s", "" if tag is None else f" in {tag.decode()}", places(self.store.snapshot()))


@dataclass
class Message:
    """A commit on its way. ``lost``: its answer will not be heard."""

    commit: Commit
    answer: Answer | None = None
    lost: bool = False


class SimulatedPipeline:
    """One connection. What is written to it arrives in that order, at once, sometime, or when the answers are waited for; a process that
    is killed leaves it on its way. Where an answer is lost, so are all behind it."""

    def __init__(self, server: Server, reach: Reach) -> None:
        self._server, self._reach = server, reach
        self._sent: list[Message] = []
        self._wire: deque[Message] = deque()
        self._cut: Fate | None = None

    def send(self, commits: Sequence[Commit]) -> None:
        """Each has a fate of its own, and the process may be killed between two of them."""
        for commit in commits:
            fate = self._reach(Point("commit", said(commit)))
            self._sent.append(message := Message(commit))
            self._send(message, self._cut or fate)

    def _send(self, message: Message, fate: Fate) -> None:
        server, commit = self._server, message.commit
        if fate is Fate.AWAY:
            message.answer = UnavailableError("the server takes no writes; see online.url")
            return
        if fate in (Fate.LOST_THERE, Fate.LOST_BACK, Fate.LOST_BACK_COPIED):
            self._cut, message.lost = fate, True
        if fate in (Fate.COPIED, Fate.LOST_THERE, Fate.LOST_BACK_COPIED):
            server.flying.append(("commit", lambda: server.commit(commit)))
        if fate is Fate.LOST_THERE:
            return
        if not self._wire:
            server.wires.append(self._wire)
        self._wire.append(message)
        if fate is Fate.ARRIVED:
            self._flush()

    def answers(self) -> list[Answer]:
        self._server.happened["commits on their way at once"] += len(self._sent) > 1
        self._reach(Point("answers"))
        self._flush()
        return [self._answer(message) for message in self._sent]

    def _flush(self) -> None:
        while self._wire:
            self._server.arrive(self._wire)

    def _answer(self, message: Message) -> Answer:
        if message.lost:
            return UnknownOutcomeError("lost on the way; see online.url")
        assert message.answer is not None
        return message.answer


class Link:
    """The store as one process reaches it."""

    def __init__(self, server: Server, reach: Reach) -> None:
        self._server, self._reach = server, reach
        self.one_server = server.store.one_server

    def pipeline(self) -> SimulatedPipeline:
        return SimulatedPipeline(self._server, self._reach)

    def commit(self, commit: Commit) -> Committed | Refused:
        server = self._server
        fate = self._reach(Point("commit", said(commit)))
        if fate is Fate.AWAY:
            raise UnavailableError("the network is down; see online.url")
        if fate in (Fate.COPIED, Fate.LOST_THERE, Fate.LOST_BACK_COPIED):
            server.flying.append(("commit", lambda: server.commit(commit)))
        if fate is Fate.LOST_THERE:
            raise UnknownOutcomeError("lost on the way there; see online.url")
        answer = server.commit(commit)
        if fate in (Fate.LOST_BACK, Fate.LOST_BACK_COPIED):
            raise UnknownOutcomeError("lost on the way back; see online.url")
        return answer

    def claim(self, source: str, partition: int, view_ids: Sequence[str], topic_id: str, of: int = 1) -> Claim:
        """Bucket by bucket, and anything may happen between two of them."""
        token, records = secrets.token_bytes(16), dict[Track, OffsetRecord]()
        for bucket in buckets(of):
            try:
                records |= self._claim_bucket(source, partition, view_ids, topic_id, bucket, token)
            except UnavailableError:
                self._server.happened["claims cut short"] += bool(records)
                raise
        return Claim(source, partition, token, records)

    def _claim_bucket(
        self, source: str, partition: int, view_ids: Sequence[str], topic_id: str, bucket: Bucket, token: bytes
    ) -> dict[Track, OffsetRecord]:
        server = self._server
        fate = self._reach(Point("claim", f"{source}/{partition}"))
        if fate is Fate.AWAY:
            raise UnavailableError("the network is down; see online.url")
        if fate is Fate.LOST_THERE:
            server.flying.append(("claim", lambda: server.claim(source, partition, view_ids, topic_id, bucket, token)))
            raise UnavailableError("lost on the way there; see online.url")
        records = server.claim(source, partition, view_ids, topic_id, bucket, token)
        if fate is Fate.LOST_BACK:
            raise UnavailableError("lost on the way back; see online.url")
        return records

    def __getattr__(self, name: str) -> Any:
        """Everything else is asked and answered, or not."""
        method = getattr(self._server.store, name)

        def ask(*args: Any, **kwargs: Any) -> Any:
            if self._reach(Point("read", name)) is not Fate.FINE:
                raise UnavailableError("the network is down; see online.url")
            return method(*args, **kwargs)

        return ask


def said(commit: Commit) -> str:
    moves = {(advance.from_offset, advance.to_offset) for advance in commit.advances}
    way = " ".join(f"{start}->{to}" for start, to in sorted(moves))
    place = f"{commit.source}/{commit.partition} bucket {' '.join(sorted({str(advance.bucket) for advance in commit.advances}))}"
    return f"commit {way} of {place} by {commit.token.hex()[:4]} with {len(commit.writes)} keys"


def places(snapshot: Snapshot) -> str:
    """Where every offset record stands."""
    stands = [(key.decode().partition("}")[2], record) for key, record in snapshot.offsets().items()]
    return ", ".join(f"{place} {record.token.hex()[:4]}@{record.offset}" for place, record in stands)
