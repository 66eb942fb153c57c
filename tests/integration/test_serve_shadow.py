"""A scorer that is told to end while a shadow has something to score."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from pathlib import Path

import aiohttp
import msgspec
import pytest
from integration.test_serve import BODY, PREDICTIONS, fetch, until
from serve_rig import TIP, WITH_MODELS, Rig, fed_into, models_in, served, train
from unit.serve.test_shadow import outcomes

from featureflow.models.releasing import Releasing
from featureflow.serve.app import Server
from featureflow.store.history.sql import SqlHistory
from featureflow.store.releases import Releases


def shadows_logged(rig: Rig) -> int:
    end = rig.memory_log.topic(PREDICTIONS.topic).end
    values = [value for batch in rig.read(PREDICTIONS.topic, end) for value in batch.values if value]
    return sum(msgspec.json.decode(value)["prediction_id"].endswith(".shadow") for value in values)


@pytest.mark.parametrize(("drain_s", "expected", "logged"), [(60.0, {"scored": 3}, 3), (0.0, {"scored": 1, "shutdown": 2}, 1)])
def test_what_a_shadow_has_to_score_is_logged_before_a_scorer_ends_or_counted_as_dropped(
    embedded_redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drain_s: float, expected: dict[str, int], logged: int
) -> None:
    monkeypatch.setattr("featureflow.serve.app.DRAIN_S", drain_s)
    rig, store = fed_into(embedded_redis_url), models_in(tmp_path / "models")
    train(store, TIP, 1)
    with closing(SqlHistory(f"sqlite:///{tmp_path / 'history.db'}")) as history:
        history.migrate()
        releasing = Releasing(Releases(history, rig.online), rig.online, store.apart(), rig.clock, WITH_MODELS)
        releasing.release(TIP, "1")
        releasing.shadow(TIP, "2")

    async def ask(client: aiohttp.ClientSession, address: str) -> None:
        assert (await fetch(client, f"{address}/v1/score/tip", BODY))[0] == 200

    async def go() -> Server:
        gate = threading.Event()
        async with served(embedded_redis_url, rig, store) as (address, client, server):

            async def loaded() -> bool:
                return outcomes(server.metrics) == {"scored": 1}

            await ask(client, address)
            await until(loaded)
            server.scorer.shadows._thread.submit(gate.wait, 60.0)
            try:
                await ask(client, address)
                await ask(client, address)
                ending = asyncio.ensure_future(server.stop())

                async def is_answered() -> bool:
                    return server._connections is None

                await until(is_answered)
                if drain_s:
                    assert shadows_logged(rig) <= 1
                    gate.set()
                await ending
            finally:
                gate.set()
        return server

    server = asyncio.run(go())
    assert outcomes(server.metrics) == expected
    assert shadows_logged(rig) == logged
