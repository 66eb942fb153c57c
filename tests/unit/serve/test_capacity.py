"""What a process says that it can do of a model is what it measured."""

from __future__ import annotations

import asyncio
import json

import msgspec
from serve_rig import TIP, WITH_MODELS, at_rest, fed, listening, serving

from featureflow.models.store import ModelStore
from featureflow.serve import capacity
from featureflow.serve.admission import Took
from featureflow.serve.metrics import STAGES

BODY = {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}


def test_before_a_turn_nothing_is_known_and_after_one_each_stage_is(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            path = f"{server.url}/v1/models/tip/capacity"
            async with server.client.get(path) as response:
                before = json.loads(await response.read())
            assert (before["req_s"], before["stages"], before["batches"]) == (None, [], [])
            for _ in range(3):
                await serve.ask("tip", BODY)
                await at_rest(serve.scorer.lanes)
            async with server.client.get(path) as response:
                after = json.loads(await response.read())
            assert after["req_s"] > 0
            assert [stage["stage"] for stage in after["stages"]] == ["read", *STAGES, "other"]
            assert after["limit"] == max(after["stages"], key=lambda stage: stage["typical_ms"])["stage"]
            assert after["limit"] in after["why"]
            assert [batch["rows"] for batch in after["batches"]] == [1]
            for wrong in ("tip/speed", "nothing/capacity"):
                async with server.client.get(f"{server.url}/v1/models/{wrong}") as response:
                    assert response.status == 404

    asyncio.run(go())


def test_a_deadline_is_told_as_it_is_declared(models: ModelStore) -> None:
    async def go() -> None:
        declared = msgspec.structs.replace(TIP, deadline_us=50_000)      # 50,000 * 1e-6 * 1e3 is 49.99999999999999
        async with serving(models, project=msgspec.structs.replace(WITH_MODELS, models=(declared,))) as serve:
            assert capacity.of(serve.scorer, "tip").deadline_ms == 50

    asyncio.run(go())


def test_capacity_is_that_of_the_largest_turn_that_fits_twice_into_the_deadline(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models) as serve:
            admission = serve.scorer.lanes.quick.admission
            for rows, seconds in ((1, 6.0), (2, 7.0), (4, 9.0), (16, 20.0), (64, 60.0)):
                admission.ended(seconds, [Took("tip", rows, seconds)])
            found = capacity.of(serve.scorer, "tip")  # within 60 s
            assert (found.rows_per_turn, found.turn_ms, found.req_s) == (16, 20_000.0, 0.8)
            assert "fits 2 times into 60000 ms" in found.why
            assert [(batch.rows, batch.rows_s) for batch in found.batches][-1] == (64, 1.1)

    asyncio.run(go())
