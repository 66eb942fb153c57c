"""The ids that tell duplicates, in the real store."""

from __future__ import annotations

import pytest
import redis
from unit.ingest.test_ids import produce, rig_of
from worker_rig import SECOND_US

from featureflow.ingest import ids
from featureflow.store.log.protocol import Record
from featureflow.store.online.redis import RedisOnlineStore


def test_ids_are_kept_go_with_their_tile_and_are_dropped_with_their_view(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "VALUE_ROWS", 20)
    store = RedisOnlineStore(redis_url)
    rig, written = rig_of(30 * SECOND_US, online=store), list[Record]()
    for _ in range(4):
        produce(rig, 100, written)
        rig.drain(rig.started())                               # each goes on where the one before it stood
    assert rig.agrees()
    with redis.Redis.from_url(redis_url) as client:
        held = list(client.scan_iter(match="ids:*"))
        tiles = {key.split(b":")[-2] for key in held}
        assert 1 <= len(tiles) <= 4                           # two of each partition
        assert all(client.ttl(key) == -1 for key in held)
        for view in rig.project.views:
            store.drop_view(view.id)
        assert list(client.scan_iter(match="*:trip:*")) == []
    store.close()
