"""Send commits and find out what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from featureflow.errors import UnavailableError, UnknownOutcomeError
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.store.keys import Bucket
from featureflow.store.online.protocol import (
    Answer,
    Commit,
    Committed,
    OffsetRecord,
    OnlineStore,
    Refused,
    Track,
    answered,
)

ATTEMPTS = 3                               # of one commit whose reply is lost each time
Lane = tuple[str, int, Track]
"""What commits follow one another in: a track of a partition."""


class Sending:
    """Commits, and what became of each. ``Refused`` means: what was folded is void; forget it and read again.

    (1) send them, one behind the other; then of each, in that order:
    (2) applied: done
    (3) refused: so be it. Those of the same tracks behind it, which start from where it was to go, are refused too; one of which
        the reply was lost may yet arrive, so its tracks may not go on with this token
    (4) the reply was lost: read token and offsets. Mine and at ``to`` or beyond, where only the commits behind it can have moved
        them: it was applied. Mine and at ``from``: send the identical bytes again; if both arrive, the offset refuses the second.
        Anything else: somebody else's now.

    What becomes of one says nothing of another of other tracks.
    """

    def __init__(self, online: OnlineStore, failpoint: Failpoint = unarmed) -> None:
        self._online, self._failpoint, self._pipeline = online, failpoint, online.pipeline()
        self._sent: list[Commit] = []

    def send(self, commits: Sequence[Commit]) -> None:
        """Write the commits out, in order: those of one track each from where the one before it is to go. Waits for no answer."""
        self._failpoint("before_commit")
        self._pipeline.send(commits)                                                         # (1)
        self._sent += commits

    def outcomes(self) -> Iterator[Committed | Refused]:
        """Of each that was sent, in that order.

        Raises UnknownOutcomeError where the replies of all attempts were lost, UnavailableError where one was not taken or (4) could
        not read: the caller must then drop and claim again, for it does not know what the store holds.
        """
        void: set[Lane] = set()
        for commit, answer in zip(self._sent, self._pipeline.answers(), strict=True):
            lanes = {(commit.source, commit.partition, advance.track) for advance in commit.advances}
            outcome = _void(answer) if lanes & void else _settled(self._online, commit, answer, self._failpoint)
            if isinstance(outcome, Refused):
                void |= lanes
            self._failpoint("after_commit")
            yield outcome


def _void(answer: Answer) -> Refused:
    """Of a commit behind one that was refused."""
    if isinstance(answer, Refused):
        return answer
    return Refused("unknown", "the commit before it was refused, and it was not: whether it arrives yet is not known")


def _settled(online: OnlineStore, commit: Commit, answer: Answer, failpoint: Failpoint) -> Committed | Refused:
    attempt = 1
    while isinstance(answer, UnavailableError):
        if not isinstance(answer, UnknownOutcomeError):
            raise answer
        match outcome(commit, _stored(online, commit)):                                      # (4)
            case "applied", committed_ms:
                answer = Committed(committed_ms)
            case "not applied", _ if attempt < ATTEMPTS:
                attempt += 1
                failpoint("before_commit")
                answer = answered(online.commit, commit)
            case "not applied", _:
                raise answer
            case _:
                return Refused("fenced", "the reply was lost, and the partition is another worker's since")
    return answer                                                                            # (2) (3)


def _stored(online: OnlineStore, commit: Commit) -> dict[Track, OffsetRecord | None]:
    """The records that it moves, bucket by bucket: one that arrives between two reads looks like neither, and is ``lost``."""
    views: dict[Bucket, list[str]] = {}
    for advance in commit.advances:
        views.setdefault(advance.bucket, []).append(advance.view_id)
    return {
        Track(view_id, bucket): record
        for bucket, view_ids in views.items()
        for view_id, record in online.offsets(commit.source, commit.partition, view_ids, bucket).items()
    }


def outcome(commit: Commit, stored: dict[Track, OffsetRecord | None]) -> tuple[Literal["applied", "not applied", "lost"], int]:
    """What became of a commit whose reply was lost, from the offset records as they are now, and the store's time of it: 0 where
    others have moved them since."""
    pairs = [(advance, stored[advance.track]) for advance in commit.advances]
    records = [record for _, record in pairs if record is not None and record.token == commit.token and record.dirty == -1]
    if len(records) == len(pairs):
        if all(record.offset >= advance.to_offset for record, advance in zip(records, commit.advances, strict=True)):
            return "applied", records[0].committed_ms if records[0].offset == commit.advances[0].to_offset else 0
        if all(record.offset == advance.from_offset for record, advance in zip(records, commit.advances, strict=True)):
            return "not applied", 0
    return "lost", 0
