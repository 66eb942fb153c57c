"""docker-compose.yml, which cannot be run everywhere, is checked as data."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE = REPOSITORY / "docker-compose.yml"
SERVERS = ("kafka", "redis", "mysql")
OURS = ("apply", "ingest", "history", "watch", "serve")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    parsed: dict[str, Any] = YAML(typ="safe").load(COMPOSE.read_text())["services"]
    return parsed


def test_the_file_is_valid_by_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_starts_the_three_servers_and_the_five_parts(services: dict[str, Any]) -> None:
    assert set(services) == {*SERVERS, *OURS}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_pinned_to_a_version_and_watched(services: dict[str, Any], name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+", services[name]["image"])
    assert services[name]["healthcheck"]["test"][0] == "CMD"


def test_kafka_is_the_version_that_runs_without_docker_too(services: dict[str, Any]) -> None:
    script = (REPOSITORY / "scripts" / "service_downloads.py").read_text()
    [version] = re.findall(r'^KAFKA_VERSION = "(.+)"$', script, re.MULTILINE)
    assert services["kafka"]["image"] == f"apache/kafka:{version}"


def test_redis_never_evicts(services: dict[str, Any]) -> None:
    words = services["redis"]["command"]
    assert words[words.index("--maxmemory-policy") + 1] == "noeviction"
    assert words[words.index("--appendonly") + 1] == "yes"


def test_nothing_is_reachable_from_another_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", OURS)
def test_our_own_parts_are_built_from_the_dockerfile_and_wait_for_what_they_need(
    services: dict[str, Any], name: str
) -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert services[name]["build"]["target"] == stages[-1]
    waits = services[name]["depends_on"]
    if name == "apply":
        assert waits == {server: {"condition": "service_healthy"} for server in SERVERS}
    else:
        assert waits == {"apply": {"condition": "service_completed_successfully"}}


@pytest.mark.parametrize("name", OURS)
def test_every_setting_that_is_passed_exists(services: dict[str, Any], name: str) -> None:
    from featureflow.settings import load

    environment = services[name]["environment"]
    settings = load(REPOSITORY / "featureflow" / "cli" / "template", environment)  # what is mounted unless told otherwise
    assert settings.log.url == "kafka://kafka:29092"
    assert settings.serve.host == "0.0.0.0"
    sections = ("log", "online", "history")
    assert all(getattr(settings, section).url != "embedded" for section in sections)
