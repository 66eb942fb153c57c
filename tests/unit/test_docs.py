"""What the documents name exists: make targets, commands and their options, settings, files, links, routes, metrics."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import CollectorRegistry

import featureflow
from featureflow.breaker import Breaker
from featureflow.cli.main import app
from featureflow.define.project import load
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.kernel.aggregation.table import AGGREGATIONS
from featureflow.kernel.finalize import Status
from featureflow.reading.feature_cache import FeatureCache
from featureflow.serve.kept_metrics import BreakerMetrics, CacheMetrics
from featureflow.serve.metrics import Metrics
from featureflow.serve.openapi import document
from featureflow.serve.release_metrics import ReleaseMetrics
from featureflow.serve.score_cache import ScoreCache
from featureflow.settings import Settings
from featureflow.watch.metrics import WatchMetrics

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "featureflow" / "cli" / "template" / "README.md"]
)
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"[\w.\-]+(?:/[\w.\-]+)*(?:/|\.(?:py|md|lua|sql|toml|yml|json))")
FOLDERS = ("", "featureflow/", "featureflow/store/online/", "docs/")
MADE = re.compile(  # what commands make, and files of a user's own project
    r"spine\.csv|manifest\.json|transforms\.json|train\.py|produce\.py|features\.py|featureflow\.toml|openapi\.json"
)
SCRIPTS = ("scripts/services.py", "scripts/environment.py", "docker-compose.yml")
TABLE_ROW = re.compile(r"^\| `([a-z_]+\.[a-z_]+)` \| `([^`]+)` \|", re.MULTILINE)
METRIC = re.compile(r"`((?:featureflow_(?:ingest|history|[a-z]+)_|model_|inference_|pending_)[a-z0-9_]+)`")


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(text: str) -> Iterator[str]:
    """Lines of fenced code, and code spans."""
    for block in FENCE.findall(text):
        yield from block.splitlines()
    yield from SPAN.findall(FENCE.sub("", text))


def setting_keys() -> set[str]:
    settings = Settings()
    return {
        f"{section}.{name}"
        for section in Settings.__struct_fields__
        if section != "folder"
        for name in getattr(settings, section).__struct_fields__
    }


@pytest.fixture(params=DOCUMENTS, ids=names)
def text(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text("utf-8")


def test_every_make_target_that_is_named_exists(text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for line in code(text) for target in re.findall(r"\bmake ([a-z][a-z-]*)", line)}
    assert named <= targets


def test_every_command_and_option_that_is_named_exists(text: str) -> None:
    for line in code(text):
        if not re.match(r"(?:\$ )?featureflow( |$)", line):
            continue
        words = shlex.split(line, comments=True)
        words = words[words.index("featureflow") + 1 :]
        command: Any = typer.main.get_command(app)
        while words and hasattr(command, "get_command"):
            if words[0] in ("--project", "-p"):
                words = words[2:]
            elif words[0] == "..." or words[0].startswith("-"):
                break
            else:
                verb = command.get_command(None, words[0])
                assert verb is not None, f"{line}: there is no {words[0]}"
                command, words = verb, words[1:]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_file_and_folder_that_is_named_exists(text: str) -> None:
    for span in SPAN.findall(FENCE.sub("", text)):
        if PATH.fullmatch(span) and not MADE.fullmatch(span) and not span.startswith("models/<"):
            assert any((ROOT / folder / span).exists() for folder in (*FOLDERS, *rooms())), span


def rooms() -> list[str]:
    return [f"{folder.relative_to(ROOT)}/" for folder in (ROOT / "featureflow").iterdir() if folder.is_dir()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_setting_that_is_named_exists(text: str) -> None:
    keys = setting_keys()
    sections = {key.partition(".")[0] for key in keys} - {"models", "project"}  # also the names of rooms and classes
    for span in SPAN.findall(FENCE.sub("", text)):
        section, _, name = span.partition(".")
        if (
            section in sections
            and re.fullmatch(r"[a-z_]+", name)
            and name != "py"
            and f"{section}/{name}.py" not in modules()
        ):
            assert span in keys


def modules() -> set[str]:
    return {str(path.relative_to(ROOT / "featureflow")) for path in (ROOT / "featureflow").rglob("*.py")}


def test_every_variable_that_is_named_is_read_somewhere(text: str) -> None:
    known = {f"FEATUREFLOW_{key.replace('.', '_').upper()}" for key in setting_keys()}
    for file in SCRIPTS:
        known |= set(re.findall(r"FEATUREFLOW_[A-Z_]+", (ROOT / file).read_text()))
    known |= {f"FEATUREFLOW_{server}_PORT" for server in ("KAFKA", "REDIS", "MYSQL")}
    named = {name for line in code(text) for name in re.findall(r"FEATUREFLOW_[A-Z_]+[A-Z]", line)}
    assert named - {"FEATUREFLOW_"} <= known


def test_the_table_of_settings_is_the_settings_with_their_defaults() -> None:
    settings = Settings()
    expected = {}
    for key in setting_keys():
        section, _, name = key.partition(".")
        value = getattr(getattr(settings, section), name)
        expected[key] = f'"{value}"' if isinstance(value, str) else str(value).lower()
    assert dict(TABLE_ROW.findall((ROOT / "docs" / "operations.md").read_text())) == expected


def test_the_tables_of_routes_are_the_routes() -> None:
    rows = re.findall(r"^\| `(/[^`]*)` \| (GET|POST) \|", (ROOT / "docs" / "http.md").read_text(), re.MULTILINE)
    served = {(path, method.upper()) for path, methods in document("0")["paths"].items() for method in methods}
    assert set(rows) == served


def test_the_tables_of_metrics_are_the_metrics() -> None:
    worker, history, releases, watch = (CollectorRegistry() for _ in range(4))
    WorkerMetrics(worker)
    HistoryMetrics(history)
    ReleaseMetrics(releases)
    WatchMetrics(watch)
    releases.register(CacheMetrics(FeatureCache(), ScoreCache()))
    releases.register(BreakerMetrics([Breaker("store")]))
    kept = {
        family.name + ("_total" if family.type == "counter" else "")
        for registry in (worker, history, Metrics().registry, releases, watch)
        for family in registry.collect()
    }
    written = (ROOT / "featureflow" / "serve" / "app.py").read_text()
    kept |= set(re.findall(r"metrics\.gauge\(\s*\"(\w+)\"", written))
    kept |= {f"{name}_total" for name in re.findall(r"metrics\.counts\(\s*\"(\w+)\"", written)}
    named = set()
    for document_name in ("operations.md", "http.md"):
        text = (ROOT / "docs" / document_name).read_text()
        named |= {m for row in text.splitlines() if row.startswith("| `") for m in METRIC.findall(row.split("|")[1])}
    assert named == kept


def test_every_name_of_the_package_aggregation_and_status_is_described() -> None:
    spans = set(re.findall(r"[a-z_]\w*", " ".join(SPAN.findall((ROOT / "docs" / "definitions.md").read_text())), re.I))
    assert {*featureflow.__all__, *AGGREGATIONS, *(status.name.lower() for status in Status)} <= spans


def test_the_definitions_file_of_the_readme_is_right(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (file := tmp_path / "features.py").write_text(blocks[0])
    assert [model.name for model in load(file).models] == ["fraud"]
