"""What a consumer's start costs, as structure: a killed one is back in the moment that its imports take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from world import TESTS, embedded

IMPORTED = "import json, sys; print(json.dumps(sorted(sys.modules)))"
OPENED = "import featureflow.store.log.open, featureflow.store.online.open, featureflow.store.online.redis, featureflow.settings"
# each takes as long as all that folding needs of a library, or longer
NOT_FOR_FOLDING = (
    "sqlalchemy", "pymysql", "alembic", "aiohttp", "onnx", "onnxruntime", "pyarrow", "pandas", "rich.progress", "hypothesis",
)


def imported(*modules: str) -> set[str]:
    """By a new interpreter that imports these, and what opening a log and an online store imports."""
    code = f"import {', '.join(modules)}; {OPENED}; {IMPORTED}"
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, timeout=300, check=True)
    return set(json.loads(done.stdout))


def test_a_worker_imports_nothing_that_only_others_need() -> None:
    found = imported("featureflow.cli.main", "featureflow.cli.ingest")
    assert {"featureflow.ingest.worker", "kafka", "redis"} <= found
    assert [name for name in NOT_FOR_FOLDING if name in found] == []
    assert "sqlalchemy" in imported("featureflow.cli.ingest", "featureflow.store.history.sql")      # it would be seen


def test_a_watched_worker_imports_no_more_than_one_that_is_not() -> None:
    """Or its recoveries would be told longer than they are."""
    own = {name for name in imported("watched") if name.partition(".")[0] not in sys.stdlib_module_names}
    assert own - imported("featureflow.cli.main", "featureflow.cli.ingest") == {"watched"}


def test_a_process_of_a_world_has_bytecode_whatever_this_one_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    ask = [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]
    with embedded(tmp_path) as world:
        assert subprocess.check_output(ask, env=world.environment(), text=True) == "False\n"
    assert subprocess.check_output(ask, text=True) == "True\n"
