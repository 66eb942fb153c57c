"""Take a partition: the right to commit it, and the offset to read on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from featureflow.errors import LogError, OffsetOutOfRangeError, StateError
from featureflow.ingest.backfill import Backfill
from featureflow.ingest.ends import Ends
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.store.keys import Bucket
from featureflow.store.log.loss import created_again, truncated
from featureflow.store.log.protocol import Log, Partition, TopicState
from featureflow.store.mirror import partitions_document
from featureflow.store.online.loss import emptied
from featureflow.store.online.protocol import Advance, Commit, OnlineStore, Track
from featureflow.store.online.writes import Writes


@dataclass(frozen=True)
class Stand:
    """Tracks of one partition that stand at the same offset with the same running maximum: what the log says from there on is the same
    to all of them. They are folded together, and committed by shares of the buckets."""

    tracks: tuple[Track, ...]
    offset: int
    max_time_us: int
    until: int | None                      # where the next tracks stand; None: they are the foremost

    def numbers(self) -> dict[str, list[int]]:
        """View id -> the numbers of its buckets that stand here."""
        found: dict[str, list[int]] = {}
        for view_id, bucket in self.tracks:
            found.setdefault(view_id, []).append(bucket.number)
        return found


@dataclass
class Owned:
    """A claimed partition, as committed. The dicts are per track: next offset, running maximum of event time (us), and the
    worker's clock at the last commit (us)."""

    partition: Partition
    token: bytes
    topic_id: str
    offsets: dict[Track, int]
    maxima: dict[Track, int]
    committed_us: dict[Track, int]
    ends: Ends = field(default_factory=Ends)
    beginning: int = 0                     # of the log, as last seen: what is before it is in history only
    vouched: int = 0                       # a beginning up to which history was seen to hold what is missing

    @property
    def position(self) -> int:
        """The lowest offset: what is before it nobody needs."""
        return min(self.offsets.values())

    @property
    def foremost(self) -> Stand:
        """The tracks that are furthest: they follow the log."""
        return self._stand(*max(self._places), None)

    @property
    def cut_off(self) -> bool:
        """Whether the log begins after the foremost tracks: it cannot be followed before they have come to its beginning."""
        return max(self.offsets.values()) < self.beginning

    @property
    def behind(self) -> Stand | None:
        """Of the tracks that are not as far, those with the least to catch up; the foremost, where they are cut off.

        Tracks at the foremost's offset with another running maximum are not behind until it has moved on, and then fold what it has.
        """
        places = sorted(self._places, reverse=True)
        first = places[0][0]
        if first < self.beginning:
            return self._stand(*places[0], self.beginning)
        return next((self._stand(*place, first) for place in places if place[0] < first), None)

    @property
    def _places(self) -> set[tuple[int, int]]:
        """(offset, running maximum) of each track.

        Tracks that have read the same log have the same maximum at an offset. One that began where events were deleted before has
        not, until a newer one comes: it never takes that of the others, which nobody could tell from what is left.
        """
        return {(offset, self.maxima[track]) for track, offset in self.offsets.items()}

    def _stand(self, offset: int, max_time_us: int, until: int | None) -> Stand:
        tracks = tuple(track for track, at in self.offsets.items() if at == offset and self.maxima[track] == max_time_us)
        return Stand(tracks, offset, max_time_us, until)

    def moved(self, commit: Commit, now_us: int) -> None:
        """The commit was applied."""
        for advance in commit.advances:
            self.offsets[advance.track] = advance.to_offset
            self.maxima[advance.track] = commit.max_time_us
            self.committed_us[advance.track] = now_us

    def beats(self, before_us: int, *, one_server: bool) -> list[Commit]:
        """Empty commits for the tracks whose last one is older: one for each offset and running maximum that tracks stand at, and for
        each bucket where they are not on one server."""
        due: dict[tuple[int, int, Bucket | None], list[Track]] = {}
        for track, at_us in self.committed_us.items():
            if at_us <= before_us:
                due.setdefault((self.offsets[track], self.maxima[track], None if one_server else track.bucket), []).append(track)
        source, partition = self.partition.source, self.partition.partition
        return [
            Commit(
                source, partition, self.token, tuple(Advance(view_id, offset, offset, bucket) for view_id, bucket in tracks), max_time_us,
                Writes(), self.ends.complete_ms(offset),
            )
            for (offset, max_time_us, _), tracks in due.items()
        ]


def take(
    log: Log,
    online: OnlineStore,
    partition: Partition,
    topic: str,
    view_ids: Sequence[str],
    of: int,
    now_us: int,
    backfill: Backfill,
    failpoint: Failpoint = unarmed,
) -> Owned:
    """Claim the partition for all views of its source, in as many buckets as the store has.

    (1) the store is fit to hold state, and the partition is one that readers know of
    (2) claim: a fresh token in the offset record of every view and bucket, or OffsetMissingError
    (3) the log, and history before its beginning, still hold everything from the lowest offset on

    Raises StateError, OffsetMissingError, LogError, OffsetOutOfRangeError: nothing that waiting will cure. UnavailableError.
    """
    fit(online)                                                                              # (1)
    known = log.topic(topic)
    listed(online, partition, known)
    claim = online.claim(partition.source, partition.partition, view_ids, known.topic_id, of)    # (2)
    failpoint("in_claim")
    owned = Owned(
        partition,
        claim.token,
        known.topic_id,
        {track: record.offset for track, record in claim.records.items()},
        {track: record.max_time_us for track, record in claim.records.items()},
        dict.fromkeys(claim.records, now_us),
    )
    at_ms, known = online.now_ms(), log.topic(topic)                                         # (3) asked anew: its end has moved
    readable(owned, topic, known, backfill)
    owned.ends.saw(at_ms, known.end[partition.partition])
    return owned


def fit(online: OnlineStore) -> list[str]:
    """The store's warnings. Raises StateError where its settings lose state."""
    found = online.check()
    losing = [problem for problem in found if not problem.startswith("warning:")]
    if losing:
        raise StateError("the online store may not hold state as it is set up: " + "; ".join(losing))
    return found


def listed(online: OnlineStore, partition: Partition, topic: TopicState) -> None:
    """A reader merges as many partitions as the document says; one that is not listed would be folded and never read."""
    document = online.get_meta(partitions_document(partition.source))
    if document is None:
        raise StateError(emptied(f"the partitions of source {partition.source}"))
    count = int(document)
    if not partition.partition < count or topic.partitions != count:
        raise StateError(
            f"source {partition.source} is applied with {count} partitions, its topic has {topic.partitions}: run "
            f"`featureflow apply`, which lists the new ones"
        )


def readable(owned: Owned, topic: str, state: TopicState, backfill: Backfill) -> None:
    """Take note of where the log begins.

    Raises OffsetOutOfRangeError where events were deleted before they were folded and history does not hold them, LogError where
    the log went back, HistoryAwayError where that cannot be told now.
    """
    partition = owned.partition
    place = f"{topic}/{partition.partition}"
    if state.topic_id != owned.topic_id:
        raise LogError(created_again(f"topic {topic!r} of event {partition.source!r}", state.topic_id, owned.topic_id))
    begin, end = state.beginning[partition.partition], state.end[partition.partition]
    owned.beginning = begin
    if owned.position < begin != owned.vouched:
        held = backfill.extent(partition)
        if not held.first <= owned.position <= begin <= held.next:
            behind = next(track.view_id for track, offset in owned.offsets.items() if offset == owned.position)
            raise OffsetOutOfRangeError(
                f"{place} begins at {begin}, but view {behind} has folded it only up to {owned.position}, and history holds "
                f"{held.first} to {held.next}: events were deleted before they were folded; "
                f"run `featureflow rebuild {behind.partition('@')[0]}`"
            )
        owned.vouched = begin
    ahead, furthest = max(owned.offsets.items(), key=lambda item: item[1])
    if furthest > end:                     # also where another view is behind: this one would skip what is written there now
        raise LogError(truncated(place, end, f"view {ahead.view_id} has folded it", furthest))
