"""Whole installations that the end-to-end tests run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World, embedded, production

from servers import Services


@pytest.fixture(params=["embedded", "production"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """An installation with nothing applied yet: once on a laptop, once on real Kafka, Redis and MySQL."""
    if request.param == "embedded":
        made = embedded(tmp_path / "project")
    else:
        services: Services = request.getfixturevalue("services")
        urls = (request.getfixturevalue(f"{name}_url") for name in ("production_redis", "mysql"))
        made = production(tmp_path / "project", services, *urls)
    with made:
        yield made
