from __future__ import annotations

import pytest

from featureflow.clock import ManualClock
from featureflow.errors import LogError
from featureflow.ingest.backfill import Backfill
from featureflow.ingest.lookout import LOOK_US, Lookout
from featureflow.ingest.owned import Owned
from featureflow.ingest.problems import Problems
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Partition
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Track


def test_a_topic_that_was_made_anew_with_fewer_partitions_is_told_loudly() -> None:
    clock, last = ManualClock(0), Partition("trip", 3)
    log = MemoryLog(clock)
    log.ensure_topic("trips", 4)
    track = Track("rider@1")
    held = {last: Owned(last, bytes(16), log.topic("trips").topic_id, {track: 0}, {track: 0}, {track: 0})}
    lookout = Lookout(log, MemoryOnlineStore(clock), {"trip": "trips"}, Backfill(None, {}, clock), clock, held, Problems("not started"))
    lookout.look()
    assert held[last].ends.newest == 0
    log.delete_topic("trips")
    log.ensure_topic("trips", 2)
    clock.advance(LOOK_US)
    with pytest.raises(LogError, match="topic 'trips' of event .* was deleted and created again"):
        lookout.look()
