from __future__ import annotations

import pytest

from featureflow.clock import ManualClock
from featureflow.errors import LogError, OffsetOutOfRangeError, StateError
from featureflow.ingest.backfill import Backfill
from featureflow.ingest.claim import listed, readable
from featureflow.ingest.owned import Owned
from featureflow.store.log.protocol import Partition, TopicState
from featureflow.store.mirror import partitions_document
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Track

PARTITION = Partition("departure", 0)
NO_HISTORY = Backfill(None, {}, ManualClock(0))


def owned(**offsets: int) -> Owned:
    tracks = {Track(f"{name}@1"): offset for name, offset in offsets.items()}
    return Owned(PARTITION, bytes(16), "id", tracks, dict.fromkeys(tracks, 0), dict.fromkeys(tracks, 0))


def state(beginning: int, end: int) -> TopicState:
    return TopicState(topic_id="id", partitions=1, beginning={0: beginning}, end={0: end})


def test_views_within_the_log_are_read_on() -> None:
    readable(owned(old=7, new=3), "departures", state(3, 7), NO_HISTORY)


def test_a_view_behind_the_logs_beginning_is_refused() -> None:
    with pytest.raises(OffsetOutOfRangeError, match="begins at 4.*view new@1.*up to 3.*rebuild new"):
        readable(owned(old=7, new=3), "departures", state(4, 7), NO_HISTORY)


def test_a_truncated_log_is_noticed_by_the_view_that_is_ahead_though_another_is_behind() -> None:
    with pytest.raises(LogError, match="ends at 6.*view old@1.*up to 7.*Give the event a new name"):
        readable(owned(old=7, new=3), "departures", state(0, 6), NO_HISTORY)


def test_a_store_without_the_partitions_was_emptied_and_one_with_others_is_to_be_applied_to() -> None:
    online, topic = MemoryOnlineStore(ManualClock(0)), state(0, 7)
    with pytest.raises(StateError, match="partitions of source departure any more: it was emptied.*`featureflow rebuild`"):
        listed(online, PARTITION, topic)
    online.put_meta(partitions_document("departure"), b"2")
    with pytest.raises(StateError, match="applied with 2 partitions, its topic has 1: run `featureflow apply`"):
        listed(online, PARTITION, topic)
    online.put_meta(partitions_document("departure"), b"1")
    listed(online, PARTITION, topic)
