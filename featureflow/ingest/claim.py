"""Take a partition: the right to commit it, and the offset to read on from."""

from __future__ import annotations

from collections.abc import Sequence

from featureflow.errors import LogError, OffsetOutOfRangeError, StateError
from featureflow.ingest.backfill import Backfill
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.ingest.owned import Owned
from featureflow.store.log.loss import created_again, truncated
from featureflow.store.log.protocol import Log, Partition, TopicState
from featureflow.store.mirror import partitions_document
from featureflow.store.online.loss import emptied
from featureflow.store.online.protocol import OnlineStore


def take(
    log: Log,
    online: OnlineStore,
    partition: Partition,
    topic: str,
    view_ids: Sequence[str],
    buckets: int,
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
    claim = online.claim(partition.source, partition.partition, view_ids, known.topic_id, buckets)    # (2)
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
