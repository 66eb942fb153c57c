"""What is served of a view while it is still catching up with the log."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from serve_rig import Rig, serving
from worker_rig import PROJECT, SECOND_US, TRIP

from featureflow import limits
from featureflow.models.store import ModelStore
from featureflow.serve.answer import Answer

_, ZONE = PROJECT.views
ASKED = {"entities": {"rider": "ada", "zone": 7}, "explain": True}


def test_a_view_that_still_folds_the_past_of_the_log_is_stale_until_it_has_caught_up(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAST_RECORDS", 10)

    async def go() -> None:
        rig = Rig()
        rig.produce(60)
        before = rig.worker()
        before.open()
        rig.drain(before)
        before.close()
        topic_id = rig.log.topic(TRIP.topic).topic_id
        rig.online.drop_view(ZONE.id)                             # as a rebuild does
        rig.online.create_offsets(ZONE.id, "trip", topic_id, dict.fromkeys(range(rig.partitions), 0))
        worker = rig.worker()
        worker.open()
        end, seen = rig.log.topic(TRIP.topic).end, []
        async with serving(models, rig=rig, stale_after_us=30 * SECOND_US) as serve:
            for _ in range(40):
                worker.step(timeout_s=0.0)
                rig.clock.advance(SECOND_US // 2)
                answered = await serve.ask("strict", ASKED)
                assert isinstance(answered, Answer)
                answer = msgspec.json.decode(answered.body)
                at = [rig.online.offsets("trip", partition, [ZONE.id])[ZONE.id] for partition in end]
                whole = all(stored is not None and stored.offset == end[partition] for partition, stored in enumerate(at))
                stale = {name for name, f in answer["features"][0].items() if f["status"] == "stale"}
                seen.append((whole, bool([name for name in stale if name.startswith("zone_now")])))
                assert not whole or "rider_now:stale" not in answer["degraded"]
        assert (False, True) in seen
        assert (False, False) not in seen, "it is not all counted, and not said"
        assert seen[-1] == (True, False)

    asyncio.run(go())
