"""State that was read before, beside real servers: kept true by what they tell, and taken where they do not answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import redis
from serve_rig import PREDICTIONS, WITH_MODELS, fed_into, fold, models_in, served
from worker_rig import RIDERS

from featureflow.models.store import ModelStore
from featureflow.reading import fetch
from featureflow.reading.feature_cache import FeatureCache
from featureflow.serve import deadline
from featureflow.store.online.embedded import EmbeddedServer

MINUTE_US = 60_000_000


def project(**options: int) -> Any:
    return msgspec.structs.replace(WITH_MODELS, models=tuple(msgspec.structs.replace(model, **options) for model in WITH_MODELS.models))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return models_in(tmp_path_factory.mktemp("models"))


async def ask(client: aiohttp.ClientSession, address: str, *riders: str, model: str = "tip") -> tuple[int, Any]:
    context = {"context": {"hour": 17}} if model == "tip" else {}
    rows = [{"entities": {"rider": rider, "zone": 7}, **context} for rider in riders]
    async with client.post(f"{address}/v1/score/{model}", data=json.dumps({"rows": rows, "explain": True})) as response:
        return response.status, await response.json(content_type=None)


async def until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await is_so():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("told", [True, False], ids=["told", "unguarded"])
def test_an_entity_that_has_not_changed_is_not_read_again_and_one_that_has_is(
    embedded_redis_url: str, models: ModelStore, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """An hour of max_age, kept true by the server; without hearing it, what changed would be taken as it was."""
    if not told:
        monkeypatch.setattr(FeatureCache, "changed", lambda *anything: None)
    monkeypatch.setattr(deadline, "FETCH_MOST_S", 60.0)
    monkeypatch.setattr(fetch, "RECORDS_S", 0.0)

    async def go() -> None:
        rig = fed_into(embedded_redis_url, project=project(max_age_us=60 * MINUTE_US))
        async with served(embedded_redis_url, rig, models) as (address, client, server):
            cache = server.scorer.fetcher.cache
            await ask(client, address, *RIDERS)
            assert (cache.hits, cache.misses) == (0, len(RIDERS) + 1)
            await ask(client, address, *RIDERS)
            assert (cache.hits, cache.misses) == (len(RIDERS) + 1, len(RIDERS) + 1)
            rig.append([rig.trip(rider="ada", zone=-3, at=rig.clock.now_us())])
            fold(rig, 0)
            hits = cache.hits
            _, answer = await ask(client, address, *RIDERS)
            found = [row["rider_now:count_1h"]["value"] for row in answer["features"]]
            rider = WITH_MODELS.views[0]
            column = rider.spans[[feature.reference for feature in rider.features].index("rider_now:count_1h")].start
            expected = rig.expected(rider, rig.clock.now_us()).values[:, column].tolist()
            assert (found == expected) == told
            assert cache.hits - hits == len(RIDERS) + (0 if told else 1), "all but ada's"
        end = rig.log.topic(PREDICTIONS.topic).end
        logged = [msgspec.json.decode(value) for batch in rig.read(PREDICTIONS.topic, end) for value in batch.values if value]
        upto = [sum(msgspec.json.decode(row["applied"])["rider_now"]["trip"].values()) for row in logged]
        assert sorted(upto) == [200] * 8 + [201] * 4, "the offsets are those of now, though the states of three were not read"

    asyncio.run(go())


def test_a_store_that_stops_and_is_killed_leaves_stale_state_a_refusal_for_the_rest_and_nothing_once_it_is_back(
    tmp_path: Path, models: ModelStore
) -> None:
    async def go() -> None:
        with EmbeddedServer(tmp_path) as embedded:
            with redis.Redis.from_url(embedded.url) as raw:
                raw.config_set("appendfsync", "always")  # what a server that is killed loses is another test's
            rig = fed_into(embedded.url, project=project(stale_for_us=60 * MINUTE_US, deadline_us=2_000_000))
            async with served(embedded.url, rig, models) as (address, client, server):
                async def ready() -> bool:
                    async with client.get(f"{address}/readyz") as response:
                        return response.status == 200

                async def whole() -> bool:
                    return await ready() and not (await ask(client, address, "ada"))[1]["degraded"]

                await until(whole)
                os.kill(embedded.pid, signal.SIGSTOP)
                try:
                    for _ in range(3):
                        status, answer = await ask(client, address, "ada")
                        assert (status, answer["degraded"][1:]) == (200, ["rider_now:stale", "zone_now:stale"])
                        assert answer["degraded"][0] in ("fetch:timeout", "fetch:unavailable", "fetch:circuit_open")
                    status, answer = await ask(client, address, "ada", "é*")
                    assert [row["rider_now:count_1h"]["status"] for row in answer["features"]] == ["stale", "missing"]
                    assert (await ask(client, address, "ada", model="strict"))[0] == 200
                    assert (await ask(client, address, "é*", model="strict"))[0] == 503

                    async def open_circuit() -> bool:
                        degraded = (await ask(client, address, "ada"))[1]["degraded"]
                        async with client.get(f"{address}/readyz") as response:
                            told = await response.json()
                        return degraded[0] == "fetch:circuit_open" and told["breakers"]["online store"] != "closed"

                    await until(open_circuit)
                finally:
                    os.kill(embedded.pid, signal.SIGCONT)
                await until(whole)
                os.kill(embedded.pid, signal.SIGKILL)

                async def stale() -> bool:
                    return "rider_now:stale" in (await ask(client, address, "ada"))[1]["degraded"]

                await until(stale)
                with EmbeddedServer(tmp_path):
                    await until(whole)
                    async with client.get(f"{address}/metrics") as response:
                        text = await response.text()
                    assert 'featureflow_breaker_state{dependency="online store",state="closed"} 1.0' in text
                    assert 'featureflow_breaker_calls_total{dependency="log",outcome="error"} 0.0' in text
                    assert server.scorer.fetcher.cache.bytes > 0

    asyncio.run(go())
