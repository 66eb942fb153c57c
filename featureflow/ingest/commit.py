"""Send commits and find out what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from featureflow.errors import UnavailableError, UnknownOutcomeError
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.store.online.protocol import Answer, Commit, Committed, OffsetRecord, OnlineStore, Refused

ATTEMPTS = 3                               # of one commit whose reply is lost each time


def send(online: OnlineStore, commits: Sequence[Commit], failpoint: Failpoint = unarmed) -> list[Committed | Refused]:
    """The outcome of each commit. ``Refused`` means: what was folded is void; forget it and read again.

    (1) send all of them; then of each:
    (2) applied: done
    (3) refused: so be it
    (4) the reply was lost: read token and offsets. Mine and at ``to``: it was applied. Mine and at ``from``: send the
        identical bytes again; if both arrive, the offset refuses the second. Anything else: somebody else's now.

    They are of different buckets or views: what becomes of one says nothing of another. Raises UnknownOutcomeError where the
    replies of all attempts were lost, UnavailableError where one was not taken or (4) could not read: the caller must then drop
    and claim again, for it does not know what the store holds.
    """
    failpoint("before_commit")
    answers = online.commit_all(commits)                                                     # (1)
    return [_settled(online, commit, answer, failpoint) for commit, answer in zip(commits, answers, strict=True)]


def _settled(online: OnlineStore, commit: Commit, answer: Answer, failpoint: Failpoint) -> Committed | Refused:
    attempt = 1
    while isinstance(answer, UnavailableError):
        if not isinstance(answer, UnknownOutcomeError):
            raise answer
        stored = online.offsets(commit.source, commit.partition, views(commit), commit.bucket)          # (4)
        match outcome(commit, stored):
            case "applied", committed_ms:
                answer = Committed(committed_ms)
            case "not applied", _ if attempt < ATTEMPTS:
                attempt += 1
                failpoint("before_commit")
                (answer,) = online.commit_all((commit,))
            case "not applied", _:
                raise answer
            case _:
                return Refused("fenced", "the reply was lost, and the partition is another worker's since")
    failpoint("after_commit")
    return answer                                                                            # (2) (3)


def views(commit: Commit) -> list[str]:
    return [advance.view_id for advance in commit.advances]


def outcome(commit: Commit, stored: dict[str, OffsetRecord | None]) -> tuple[Literal["applied", "not applied", "lost"], int]:
    """What became of a commit whose reply was lost, from the offset records as they are now, and the store's time of it."""
    pairs = [(advance, stored[advance.view_id]) for advance in commit.advances]
    records = [record for _, record in pairs if record is not None and record.token == commit.token and record.dirty == -1]
    if len(records) == len(pairs):
        if all(record.offset == advance.to_offset for record, advance in zip(records, commit.advances, strict=True)):
            return "applied", records[0].committed_ms
        if all(record.offset == advance.from_offset for record, advance in zip(records, commit.advances, strict=True)):
            return "not applied", 0
    return "lost", 0
