"""The online store: an entity's state and the offset it was folded to, moved in one atom.

A state key holds one entity's rows for one view version and one source (and, where the source is not keyed by the
entity, one partition). An entity's id puts it into a bucket. An offset record stands beside the states of each bucket, one per
(view version, source, partition, bucket): **state and offset are changed by the same call or not at all**, and only by the holder
of the record's token. Buckets move on their own: one that is behind another is folded from where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from featureflow.errors import UnavailableError
from featureflow.store.keys import ONE, Bucket
from featureflow.store.online.writes import Writes

DROPPED = -2                               # as ``dirty``: the view's state is being dropped, and this record will be made anew


class Track(NamedTuple):
    """What has an offset of its own in a partition: one view version's entities of one bucket."""

    view_id: str
    bucket: Bucket = ONE


@dataclass(frozen=True)
class OffsetRecord:
    """How far one track has come in one partition. ``encode``/``decode`` stand in ``store.online.record``."""

    token: bytes                           # 16 random bytes of the last claim; zeros before the first
    offset: int                            # the next offset to fold
    dirty: int                             # -1, or the offset a commit was moving to when it broke; or DROPPED
    max_time_us: int                       # running maximum of accepted event times; NO_TIME_US before the first
    committed_ms: int                      # the store's own clock at the last commit
    topic_id: str
    complete_ms: int = 0                   # by that clock: all that the log held then is folded; 0: not known of any instant


@dataclass(frozen=True)
class Claim:
    """The right to commit one partition, until somebody else claims it."""

    source: str
    partition: int
    token: bytes
    records: dict[Track, OffsetRecord]     # as they stood when the claim was made


@dataclass(frozen=True)
class Advance:
    """The offset of one track moving on."""

    view_id: str
    from_offset: int
    to_offset: int
    bucket: Bucket = ONE

    @property
    def track(self) -> Track:
        """What moves."""
        return Track(self.view_id, self.bucket)


@dataclass(frozen=True)
class Commit:
    """Of one bucket, or of several of one server. ``advances`` all go to the same offset: they share ``max_time_us``, the running maximum
    there, and ``complete_ms``, an instant of the store's clock at which the log ended there or before (0: none is known; the newest one
    told is kept)."""

    source: str
    partition: int
    token: bytes
    advances: tuple[Advance, ...]
    max_time_us: int
    writes: Writes
    complete_ms: int = 0


@dataclass(frozen=True)
class Committed:
    """It was applied, all of it."""

    committed_ms: int                      # the store's own clock; by it a life was renewed or not. 0: not known


@dataclass(frozen=True)
class Refused:
    """Nothing was written.

    ``dropped``: the view is being rebuilt. ``fenced``: the token is not the stored one. ``unknown``: it may arrive yet, behind one that
    was refused.
    ``offset``: an offset is not ``from_offset``, or absent. ``dirty``: an
    earlier commit broke half way. ``mismatch``: a state key's length or header differs. ``expired``: keys at ``keys``
    are absent where rows were expected (their TTL passed): the same commit may be sent again with those written whole.
    """

    reason: str
    detail: str
    keys: tuple[int, ...] = field(default=())   # places in Commit.writes


Answer = Committed | Refused | UnavailableError
"""What became of one commit of several. UnknownOutcomeError: its reply was lost. Any other UnavailableError: it was not applied."""


def answered(commit: Callable[[Commit], Committed | Refused], one: Commit) -> Answer:
    """The answer of a store that takes commits one by one."""
    try:
        return commit(one)
    except UnavailableError as error:
        return error


class Pipeline(Protocol):
    """Commits on their way to the store: one behind the other, none of them waited for before the last is sent.

    Those that move one track arrive in the order in which they were sent. Where one is refused or lost, each behind it that starts from
    where that one was to go is refused too, by its offset.
    """

    def send(self, commits: Sequence[Commit]) -> None:
        """Write them out. What a server does not take is among the answers."""
        ...

    def answers(self) -> list[Answer]:
        """What became of each that was sent, in that order. The last call: nothing is sent after it."""
        ...


class OneByOne:
    """The pipeline of a store that takes commits one by one."""

    def __init__(self, commit: Callable[[Commit], Committed | Refused]) -> None:
        self._commit, self._answers = commit, list[Answer]()

    def send(self, commits: Sequence[Commit]) -> None:
        self._answers += [answered(self._commit, commit) for commit in commits]

    def answers(self) -> list[Answer]:
        return self._answers


class OnlineStore(Protocol):
    """Used by the worker and the command line, from one thread. Every method may raise UnavailableError."""

    @property
    def one_server(self) -> bool:
        """Whether all buckets are on one, so that a commit may move several of them."""
        ...

    def create_offsets(
        self, view_id: str, source: str, topic_id: str, offsets: dict[int, int], of: int = 1
    ) -> list[int]:
        """Make offset records that do not exist yet, or that ``drop_view`` left, in each of so many buckets; ``apply`` and ``rebuild`` do.

        The partitions of which all were made. Cut short, it is run again.
        """
        ...

    def drop_view(self, view_id: str, *, for_good: bool = True, places: Collection[tuple[str, int]] = (), of: int = 1) -> int:
        """Delete a view version's state and offset records: for good, or to begin anew. How many keys went.

        (1) its offset records are marked: from here on no commit and no claim succeeds
        (2) its state goes, and in the same atom its bucket's records are marked, so that no failover loses the mark alone
        (3) its offset records go; where it begins anew they stay, marked, until ``create_offsets`` makes them

        What it published goes with its state where it begins anew; else it stays for ``withdraw``, since another version of the view
        may have published it since.

        ``places``: (source, partition) of its offset records in each of so many buckets; others are looked for. All is gone over again
        until nothing is found and no slot has moved meanwhile; raises UnavailableError, with what to run, where that does not come.

        Cut short, it is run again.
        """
        ...

    def withdraw(self, live: Collection[str]) -> int:
        """Delete what any view version but these has published. How many keys went."""
        ...

    def claim(self, source: str, partition: int, view_ids: Sequence[str], topic_id: str, of: int = 1) -> Claim:
        """Take the partition with a fresh random token: the views' records in each of so many buckets, all or none of a bucket.

        Where that is cut short, some buckets have the new token and others the old one: whoever held the partition is refused in the
        former, and claims again.

        Raises OffsetMissingError where a record is absent, dirty, of another topic or format: a claim never creates.
        Raises BeingRebuiltError where ``drop_view`` has marked one.
        """
        ...

    def commit(self, commit: Commit) -> Committed | Refused:
        """(1) check everything, (2) mark dirty, (3) write state, (4) move offsets and clear the mark. One atom.

        Raises UnknownOutcomeError when the reply is lost; never retries by itself.
        """
        ...

    def pipeline(self) -> Pipeline:
        """For many commits, each done as ``commit`` does, while the caller goes on."""
        ...

    def now_ms(self) -> int:
        """The store's own clock: the one that ``committed_ms`` and ``complete_ms`` are told by."""
        ...

    def offsets(self, source: str, partition: int, view_ids: Sequence[str], bucket: Bucket = ONE) -> dict[str, OffsetRecord | None]:
        """Raises OffsetMissingError where a record has another format."""
        ...

    def visible(self, view_id: str, source: str, partition: int, bucket: Bucket = ONE) -> list[tuple[int, int]]:
        """(store's time in ms, offset) of the last commits that moved it, oldest first; VISIBILITY_ENTRIES or so in all buckets."""
        ...

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of state keys and offset records alike; those of one bucket in one atomic read."""
        ...

    def put_meta(self, name: str, value: bytes) -> None:
        """Mirror a registry document (definitions, and what readers must know: partitions, buckets)."""
        ...

    def get_meta(self, name: str) -> bytes | None:
        """What ``put_meta`` wrote last by that name; None where there is nothing."""
        ...

    def share(self, name: str, member: str, value: bytes, life_ms: int, most: int) -> list[bytes]:
        """Put what this member has to say of ``name`` in place of what it said before; what the others have said. One atom.

        What was not said again within ``life_ms``, by the store's clock, is gone. Where ``most`` others have spoken it is not put: they are
        as many as anybody hears.
        """
        ...

    def check(self) -> list[str]:
        """What is wrong with the server's settings, each with its fix. Empty: all well.

        A line that starts with ``warning:`` costs time after a crash; any other loses state: no worker commits.
        """
        ...

    def ping(self) -> str:
        """The server's name and version, or UnavailableError."""
        ...

    def close(self) -> None:
        """Close the connections. The store is not used after it."""
        ...
