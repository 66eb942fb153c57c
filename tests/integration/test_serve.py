"""The scorer as it runs: on real servers, as a process, when a server goes away and when it is told to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import msgspec
import pytest
import redis
from ports import free_port
from serve_rig import WITH_MODELS, Rig, models_in, served
from serve_rig import fed_into as fed
from worker_rig import RIDERS

from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import SettingsError, UnavailableError
from featureflow.models.store import ModelStore
from featureflow.serve import deadline
from featureflow.serve.app import ServeOptions, Server
from featureflow.store.keys import Keys
from featureflow.store.log.memory import MemoryLog
from featureflow.store.mirror import PROJECT_DOCUMENT
from featureflow.store.online.embedded import EmbeddedServer
from featureflow.store.online.redis import RedisOnlineStore

PREDICTIONS = system.predictions(DEFAULT_PROJECT)

BODY = {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}
OPTIONS = ServeOptions(port=0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return models_in(tmp_path_factory.mktemp("models"))


async def fetch(client: aiohttp.ClientSession, url: str, body: object = None) -> tuple[int, Any]:
    how = client.get(url) if body is None else client.post(url, data=json.dumps(body))
    async with how as response:
        return response.status, await response.json(content_type=None)


async def until(true: Callable[[], Any], within_s: float = 90.0) -> None:
    """Wait for something that will come true by itself."""
    end = monotonic() + within_s
    while not await true():
        assert monotonic() < end, "it did not come true"
        await asyncio.sleep(0.02)


def test_what_is_served_is_what_the_log_says(redis_url: str, models: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "FETCH_MOST_S", 60.0)            # nothing here is to be told from a server that hangs

    async def go() -> None:
        rig = fed(redis_url)
        async with served(redis_url, rig, models) as (address, client, _):
            q = rig.clock.now_us()
            for view in WITH_MODELS.views:
                ids: list[Any] = list(RIDERS) if view.entity == "rider" else [7, -3]
                status, answer = await fetch(client, f"{address}/v1/features/{view.name}", {"entities": ids, "at": q})
                assert status == 200
                expected = rig.expected(view, q)
                flat = [
                    [x for v in row["values"] for x in (v if isinstance(v, list) else [v])] for row in answer["rows"]
                ]
                assert flat == [[None if v != v else v for v in row] for row in expected.values.tolist()]
                assert answer["applied"] == {"trip": {str(p): o for p, o in rig.log.topic("trips").end.items()}}
            answers = await asyncio.gather(*(fetch(client, f"{address}/v1/score/tip", BODY) for _ in range(50)))
            assert {status for status, _ in answers} == {200}
            scores = [answer["scores"][0] for _, answer in answers]
            assert scores == pytest.approx([scores[0]] * 50, rel=1e-5)     # batch sizes may differ in the last bits
            assert all(answer["degraded"] == [] for _, answer in answers)
            async with client.get(f"{address}/metrics") as response:
                text = await response.text()
            for name in (
                "pending_stream_count 0.0",
                "model_active_streams 0.0",
                "inference_latency_p95",
                "featureflow_prediction_log_waiting",
            ):
                assert name in text
        assert sum(rig.log.topic(PREDICTIONS.topic).end.values()) == 50

    asyncio.run(go())


def test_a_store_that_is_down_at_start_is_an_error_that_names_its_setting(models: ModelStore) -> None:
    async def go() -> None:
        url = f"redis://127.0.0.1:{free_port()}/0"
        server = Server(
            project=DEFAULT_PROJECT, online_url=url, log_store=MemoryLog(), models=models, clock=Rig().clock, options=OPTIONS
        )
        with pytest.raises(UnavailableError, match=r"online\.url"):
            await server.start()

    asyncio.run(go())


def test_a_port_that_is_taken_is_an_error_that_names_its_setting(embedded_redis_url: str, models: ModelStore) -> None:
    async def go() -> None:
        rig = fed(embedded_redis_url, 5)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            options = ServeOptions(port=taken.getsockname()[1])
            server = Server(
                project=DEFAULT_PROJECT, online_url=embedded_redis_url, log_store=rig.log, models=models, clock=rig.clock, options=options
            )
            with pytest.raises(SettingsError, match=r"serve\.port"):
                await server.start()

    asyncio.run(go())


def test_a_scorer_without_definitions_serves_nothing_says_why_and_begins_when_they_are_applied(
    embedded_redis_url: str, models: ModelStore
) -> None:
    async def go() -> None:
        rig = fed(embedded_redis_url, 5)
        online = rig.online
        assert isinstance(online, RedisOnlineStore)
        with redis.Redis.from_url(embedded_redis_url) as client:
            client.delete(Keys(DEFAULT_PROJECT).meta(PROJECT_DOCUMENT))
        async with served(embedded_redis_url, rig, models) as (address, client, _):
            status, ready = await fetch(client, f"{address}/readyz")
            assert status == 503
            assert "featureflow apply" in ready["down"]["definitions"]
            assert (await fetch(client, f"{address}/v1/score/tip", BODY))[0] == 503
            online.put_meta(PROJECT_DOCUMENT, msgspec.json.encode(WITH_MODELS))

            async def ready_now() -> bool:
                return (await fetch(client, f"{address}/readyz"))[0] == 200

            await until(ready_now)
            assert (await fetch(client, f"{address}/v1/score/tip", BODY))[0] == 200

    asyncio.run(go())


def test_a_store_that_hangs_degrades_answers_and_readiness_until_it_is_back(tmp_path: Path, models: ModelStore) -> None:
    async def go() -> None:
        with EmbeddedServer(tmp_path) as embedded:
            rig = fed(embedded.url)
            async with served(embedded.url, rig, models) as (address, client, _):
                os.kill(embedded.pid, signal.SIGSTOP)
                try:
                    status, answer = await fetch(client, f"{address}/v1/score/tip", BODY)
                    assert (status, answer["degraded"][0]) == (200, "fetch:timeout")
                    status, problem = await fetch(client, f"{address}/v1/score/strict", {"entities": BODY["entities"]})
                    assert (status, problem["status"]) == (503, 503)

                    async def down() -> bool:
                        status, ready = await fetch(client, f"{address}/readyz")
                        return status == 503 and "online.url" in ready["down"]["online store"]

                    await until(down)
                finally:
                    os.kill(embedded.pid, signal.SIGCONT)

                async def back() -> bool:
                    ready = (await fetch(client, f"{address}/readyz"))[0] == 200
                    return ready and not (await fetch(client, f"{address}/v1/score/tip", BODY))[1]["degraded"]

                await until(back)

    asyncio.run(go())


PROCESS = """
    import sys
    from pathlib import Path
    from featureflow.clock import SystemClock
    from featureflow.define.system import predictions
    from featureflow.models.store import ModelStore
    from featureflow.serve.app import ServeOptions, run
    from featureflow.store.log.memory import MemoryLog

    PREDICTIONS = predictions("default")

    class SlowLog(MemoryLog):
        def close(self):
            print("logged", sum(self.topic(PREDICTIONS.topic).end.values()), flush=True)

    log = SlowLog()
    log.ensure_topic(PREDICTIONS.topic, 1)
    run(project="default", online_url=sys.argv[1], log_store=log, models=ModelStore(Path(sys.argv[2]), provider="cpu"), clock=SystemClock(),
        options=ServeOptions(port=0), started=lambda url: print(url, flush=True))
    log.close()
"""


def test_sigterm_finishes_the_requests_under_way_logs_them_and_ends_with_0(
    embedded_redis_url: str, models: ModelStore
) -> None:
    fed(embedded_redis_url)
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), embedded_redis_url, str(models.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.stderr and process.stderr.read()

        async def go() -> list[int]:
            statuses: list[int] = []

            async def ask(client: aiohttp.ClientSession) -> None:
                while True:
                    try:
                        status, answer = await fetch(client, f"{address}/v1/score/tip", BODY)
                    except aiohttp.ClientConnectionError:
                        return  # not accepted any more: nothing was promised
                    assert status == 200 or answer["status"] == 503
                    statuses.append(status)
                    if status == 200 == statuses.count(200):
                        process.send_signal(signal.SIGTERM)

            async with aiohttp.ClientSession() as client:
                await asyncio.gather(*(ask(client) for _ in range(8)))
            return statuses

        statuses = asyncio.run(go())
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert statuses.count(200) >= 200
        logged = int(out.split()[1])
        assert logged >= statuses.count(200)
        lines = [json.loads(line) for line in err.splitlines()]
        assert [line["event"] for line in lines][-2:] == ["draining", "ended"]
    finally:
        process.kill()
        process.communicate()
