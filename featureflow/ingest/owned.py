"""A partition that was claimed: where each of its tracks stands, and so what is to be read and folded next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featureflow.ingest.ends import Ends
from featureflow.store.keys import Bucket
from featureflow.store.log.protocol import Batch, Partition
from featureflow.store.online.protocol import Advance, Commit, Track
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


def is_behind(held: Mapping[Partition, Owned], batches: Sequence[Batch], most: int) -> bool:
    """Whether there is more in the log than these, as far as is known: a poll may bring no more than ``most`` records, or the log was seen
    to go on after one of them."""
    return sum(map(len, batches)) >= most or any(
        (owned := held.get(Partition(batch.source, batch.partition))) is not None and owned.ends.newest > batch.next for batch in batches
    )
