"""A server that is down: at start a clear error that names its setting; while running it is waited for, and nothing is lost."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from ports import free_port
from processes import Process, until
from proxy import Proxy
from world import MODEL, SECOND_US, Http, World, check_state, metric, production

from featureflow.store.log.protocol import Record
from servers import Services

RIDERS = 20


def test_each_command_that_needs_a_server_which_is_down_says_which_setting_points_to_it(
    tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    down = {
        "log.url": ("FEATUREFLOW_LOG_URL", f"kafka://{nowhere}"),
        "online.url": ("FEATUREFLOW_ONLINE_URL", f"redis://:secret@{nowhere}/0"),
        "history.url": ("FEATUREFLOW_HISTORY_URL", f"mysql+pymysql://somebody:secret@{nowhere}/nothing"),
    }
    needs = {
        "apply": ("log.url", "online.url", "history.url"),
        "ingest": ("log.url", "online.url"),
        "history": ("log.url", "online.url", "history.url"),
        "serve": ("log.url", "online.url"),
    }
    with production(tmp_path / "project", services, production_redis_url, mysql_url) as world:
        world.featureflow("apply")
        def start(verb: str, setting: str) -> Process:
            variable, url = down[setting]
            return world.start(verb, **{variable: url, "FEATUREFLOW_SERVE_PORT": str(free_port())})

        def refused(verb: str, setting: str, process: Process) -> None:
            until(lambda: not process.running(), f"{verb} ends without {setting}")
            assert process.wait() != 0, (verb, setting)
            said = process.err()
            assert setting in said, (verb, setting, said[-2000:])
            assert nowhere in said, (verb, setting, said[-2000:])
            assert "Traceback" not in said, (verb, setting, said[-2000:])
            assert "secret" not in said, (verb, setting, said[-2000:])

        started = [(verb, setting, start(verb, setting)) for verb, settings in needs.items() for setting in settings]
        for verb, setting, process in started:
            refused(verb, setting, process)
        for setting in down:               # of which a folder takes one at a time
            refused("up", setting, start("up", setting))


class Behind:
    """A world whose processes have their servers taken away one by one; the test itself goes straight to them."""

    def __init__(self, world: World, proxies: dict[str, Proxy]) -> None:
        self.world, self.proxies = world, proxies
        self.sent = 0

    def produce(self, count: int = 60) -> None:
        now_us = time.time_ns() // 1000
        records = []
        for n in range(count):
            rider, value = f"r{n % RIDERS}", {"at": now_us - n % 7 * SECOND_US, "zone": n % 3, "fare": n / 3, "cash": n % 2 == 0}
            records.append(Record(json.dumps({**value, "rider": rider}).encode(), rider.encode()))
        self.world.context.log.append(self.world.topic_of("ride"), records)
        self.sent += count


@pytest.fixture
def behind(tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str) -> Iterator[Behind]:
    with ExitStack() as exits:
        proxies = {"log": exits.enter_context(Proxy())}
        settings = {"FEATUREFLOW_LOG_URL": f"kafka://{services.kafka}?proxy_url=http://127.0.0.1:{proxies['log'].port}"}
        for name, variable, url in (("online", "ONLINE", production_redis_url), ("history", "HISTORY", mysql_url)):
            parts = urlsplit(url)
            assert parts.hostname is not None and parts.port is not None
            proxies[name] = exits.enter_context(Proxy((parts.hostname, parts.port)))
            place = parts.netloc.replace(f":{parts.port}", f":{proxies[name].port}").replace(parts.hostname, "127.0.0.1")
            settings[f"FEATUREFLOW_{variable}_URL"] = parts._replace(netloc=place).geturl()
        world = exits.enter_context(production(tmp_path / "project", services, production_redis_url, mysql_url))
        world.settings |= settings         # of processes started from here on
        yield Behind(world, proxies)


def text_of(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def test_a_server_that_goes_away_is_waited_for_and_said_and_nothing_is_lost(behind: Behind) -> None:
    world = behind.world
    world.featureflow("apply")
    world.add_model()
    ports = {"ingest": free_port(), "history": free_port()}
    ingest = world.start("ingest", FEATUREFLOW_INGEST_METRICS_PORT=str(ports["ingest"]))
    history = world.start("history", FEATUREFLOW_HISTORY_WRITER_METRICS_PORT=str(ports["history"]))
    server, scorer = world.serve()
    behind.produce()
    settled(behind, scorer)

    def ingest_ready() -> float:
        return metric(text_of(ports["ingest"]), "featureflow_ingest_ready")

    def history_up() -> float:
        return metric(text_of(ports["history"]), "featureflow_history_up")

    def down(part: str) -> bool:
        return part in scorer.get("/readyz")[1]["down"]

    until(ingest_ready, "a worker that says that it is ready")
    noticed: dict[str, list[Callable[[], bool]]] = {
        "online": [lambda: not ingest_ready(), lambda: scorer.get("/readyz")[0] == 503 and down("online store"), lambda: degraded(scorer)],
        "history": [lambda: not history_up()],
        "log": [lambda: not ingest_ready(), lambda: not history_up(), lambda: down("log")],
    }
    for name, proxy in behind.proxies.items():
        proxy.take_away()
        behind.produce()
        for i, notices in enumerate(noticed[name]):
            until(notices, f"somebody says that {name} is away ({i})")
        tried = proxy.refused
        until(lambda p=proxy, n=tried: p.refused >= n + 3, f"{name} is tried again")  # type: ignore[misc]  # bound now
        proxy.give_back()
        back = time.monotonic()
        behind.produce()
        settled(behind, scorer)
        until(lambda: ingest_ready() and history_up(), "everybody says that it is back")
        print(f"{name}: caught up {time.monotonic() - back:.1f} s after it was back")
        assert ingest.running() and history.running() and server.running()
    assert [process.told_to_end() for process in (ingest, history, server)] == [0, 0, 0]
    records = world.records()
    assert len(records) == behind.sent
    ride = world.project.source("ride")
    pages = (page for partition in range(3) for page in world.context.history.scan(ride, partition=partition, columns=()))
    assert sum(len(page.events) for page in pages) == behind.sent
    assert check_state(world, records, [max(record.time_us for record in records) + SECOND_US]) > 50


def settled(behind: Behind, scorer: Http) -> None:
    until(behind.world.folded, "the end of the log in the online store")
    until(behind.world.recorded, "the end of the log in history")
    until(scorer.ready, "/readyz")
    until(lambda: scorer.get("/readyz")[1]["down"] == {}, "nothing is down")
    until(lambda: not degraded(scorer), "a score with its features")


def degraded(scorer: Http) -> bool:
    """A score is answered all the same, and says what it lacks."""
    status, answer = scorer.post(f"/v1/score/{MODEL}", {"entities": {"rider": "r1", "zone": 1}, "context": {"hour": 1}})
    assert status == 200, answer
    return any(what.startswith("fetch:") for what in answer["degraded"])


def test_an_emptied_online_store_is_called_so_and_history_goes_on_without_it(
    tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str
) -> None:
    with production(tmp_path / "project", services, production_redis_url, mysql_url) as world:
        world.featureflow("apply")
        with redis.Redis.from_url(production_redis_url) as emptied:
            emptied.flushdb()
        history, ingest = world.start("history"), world.start("ingest")
        world.context.log.append(world.topic_of("ride"), [Record(b"{}", partition=0)])
        until(lambda: not ingest.running(), "ingest ends")
        assert ingest.wait() == 1
        assert "it was emptied, or online.url points at another one. Run `featureflow rebuild`" in ingest.err()
        until(lambda: any(e.next for e in world.context.history.extents("ride").values()), "history takes the event")
        assert history.running(), history.err()
        world.featureflow("rebuild")
        again = world.start("ingest")
        again.wait_for("claimed")
        assert [process.told_to_end() for process in (history, again)] == [0, 0]
