"""The servers and names that tests share.

``services`` are real Kafka, Redis and MySQL (``make services``); nothing here skips when they are absent, it fails and says so.
Each test gets its own topic names and its own database; a Redis URL is an empty database when the test starts. So several processes
may run tests on the same servers at once; a test that stops a server, or changes its settings, has one of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import sqlalchemy
from hypothesis import HealthCheck, settings
from redis_cluster import PATIENT_MS, RealCluster, running

from featureflow.store.log.kafka import KafkaLog
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Log
from featureflow.store.log.redis_streams import RedisStreamsLog
from featureflow.store.online.embedded import EmbeddedServer
from servers import Services

# how long an example takes says nothing on a machine that is busy with something else
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Services:
    """The running servers of this machine (FEATUREFLOW_SERVICES_DIR names another set)."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "services.py"), "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"the real servers are not up: run 'make services'\n{done.stdout}{done.stderr}", pytrace=False)
    rows = {row["name"]: row for row in json.loads(done.stdout)["services"]}
    place = {name: f"{row['host']}:{row['port']}" for name, row in rows.items()}
    # a kafka-python client that is closed while it connects leaves that socket to the garbage collector (inet.py, sock_connect)
    left = rf"ignore:unclosed <socket.socket .*raddr=\('{rows['kafka']['host']}', {rows['kafka']['port']}\)>:ResourceWarning"
    pytestconfig.addinivalue_line("filterwarnings", left)
    return Services(
        kafka=place["kafka"],
        redis=f"redis://{place['redis']}",
        mysql=f"mysql+pymysql://featureflow:featureflow@{place['mysql']}",
        versions={name: row["version"] for name, row in rows.items()},
        pids={name: row["pid"] for name, row in rows.items()},
    )


@pytest.fixture
def topic_name() -> Callable[[str], str]:
    """Makes topic names that no other test has: ``topic_name("orders")``."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def kafka_log(services: Services) -> Iterator[KafkaLog]:
    log = KafkaLog(services.kafka)
    yield log
    log.close()


@pytest.fixture
def kafka_by_record_log(services: Services) -> Iterator[KafkaLog]:
    """Kafka by kafka-python's public calls only."""
    log = KafkaLog(services.kafka, whole_batches=False)
    yield log
    log.close()


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("embedded")) as server:
        yield server


@pytest.fixture
def embedded_redis_url(embedded_server: EmbeddedServer) -> str:
    """An empty embedded server."""
    with redis.Redis.from_url(embedded_server.url) as client:
        client.flushall()
    return embedded_server.url


@pytest.fixture(scope="session")
def own_database(services: Services) -> Iterator[str]:
    """A database of the real Redis that no other process of tests has; database 0 keeps the list of them, benchmarks have the next 15."""
    with redis.Redis.from_url(services.redis) as client:
        count = int(client.config_get("databases")["databases"])
        taken = (n for n in range(16, count) if client.set(f"taken:{n}", os.getpid(), nx=True, ex=7200))
        number = next(taken, None)
        if number is None:
            pytest.fail(f"all {count} databases of {services.redis} are taken by test sessions")
        yield f"{services.redis}/{number}"
        with redis.Redis.from_url(f"{services.redis}/{number}") as own:
            own.flushdb()
        client.delete(f"taken:{number}")


@pytest.fixture
def production_redis_url(own_database: str) -> str:
    """An empty database of the real Redis."""
    with redis.Redis.from_url(own_database) as client:
        client.flushdb()
    return own_database


@pytest.fixture(scope="session")
def _own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with running(tmp_path_factory.mktemp("cluster"), PATIENT_MS) as cluster:
        yield cluster


@pytest.fixture
def cluster_redis_url(_own_cluster: RealCluster) -> str:
    """An empty Redis Cluster of three primaries, a replica each. No test that uses this one moves its slots or kills its servers."""
    _own_cluster.empty()
    return _own_cluster.url


@pytest.fixture(params=["embedded", "production"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """An empty online store; the test runs once on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_redis_url")
    return url


@pytest.fixture
def memory_log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def streams_log(embedded_redis_url: str) -> Iterator[RedisStreamsLog]:
    log = RedisStreamsLog(embedded_redis_url)
    yield log
    log.close()


@pytest.fixture(params=["memory", "streams", "kafka", "kafka_by_record"])
def log(request: pytest.FixtureRequest) -> Log:
    """An event log; the test runs once on each kind."""
    made: Log = request.getfixturevalue(f"{request.param}_log")
    return made


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'history.db'}"


@pytest.fixture
def mysql_url(services: Services) -> Iterator[str]:
    """A fresh MySQL database, dropped afterwards."""
    with fresh_database(services) as url:
        yield url


@contextlib.contextmanager
def fresh_database(services: Services) -> Iterator[str]:
    """A MySQL database that is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    engine = sqlalchemy.create_engine(services.mysql, isolation_level="AUTOCOMMIT")
    with engine.connect() as link:
        link.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    yield f"{services.mysql}/{name}"
    with engine.connect() as link:
        link.execute(sqlalchemy.text(f"DROP DATABASE {name}"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "mysql"])
def history_url(request: pytest.FixtureRequest) -> str:
    """A fresh history database; the test runs once on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
