"""What the doctor says of the log that the applied definitions are folded from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from trips import PROJECT

from featureflow.cli.context import Context
from featureflow.cli.doctor import Finding, examine
from featureflow.clock import SystemClock
from featureflow.store.history.sql import SqlHistory
from featureflow.store.log.memory import MemoryLog
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.registry import Registry


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Context]:
    """Applied, over stores of this process."""
    (tmp_path / "featureflow.toml").write_text('[project]\nname = "default"\n')
    here = Context(tmp_path, {})
    with closing(SqlHistory(f"sqlite:///{tmp_path}/history.db")) as history:
        here.history, here.online, here.log, here.written = history, MemoryOnlineStore(SystemClock()), MemoryLog(), PROJECT  # type: ignore[misc]
        here.registry = Registry(history, here.online, here.log)
        here.registry.apply(PROJECT)
        yield here


def applied(here: Context) -> list[Finding]:
    return [finding for finding in examine(here) if finding.part == "applied"]


def test_a_topic_that_was_created_again_is_an_error_that_names_both(here: Context) -> None:
    assert [finding.state for finding in applied(here)] == ["ok"]
    before = here.log.topic("departures").topic_id
    here.log.delete_topic("departures")  # type: ignore[attr-defined]  # of the one in memory
    here.log.ensure_topic("departures", 1)
    (finding,) = applied(here)
    assert finding.state == "error"
    assert f"was deleted and created again (id {here.log.topic('departures').topic_id}, was {before})" in finding.said
    assert "featureflow apply" in finding.said
