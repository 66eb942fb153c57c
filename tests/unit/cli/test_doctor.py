"""What the doctor says of the log that the applied definitions are folded from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from serve_rig import TIP, WITH_MODELS, models_in, train
from trips import PROJECT

from featureflow.cli.context import Context
from featureflow.cli.doctor import Finding, examine
from featureflow.clock import SystemClock
from featureflow.errors import StateError
from featureflow.models.releasing import Releasing
from featureflow.store.history.sql import SqlHistory
from featureflow.store.keys import Keys
from featureflow.store.log.memory import MemoryLog
from featureflow.store.mirror import RELEASES_DOCUMENT
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


def test_a_release_is_told_and_one_that_the_mirror_or_the_model_folder_lacks_is_an_error(tmp_path: Path) -> None:
    with closing(SqlHistory(f"sqlite:///{tmp_path}/history.db")) as history:
        (tmp_path / "featureflow.toml").write_text('[project]\nname = "default"\n')
        here = Context(tmp_path, {})
        here.history, here.online, here.log, here.written = history, MemoryOnlineStore(SystemClock()), MemoryLog(), WITH_MODELS  # type: ignore[misc]
        here.registry = Registry(history, here.online, here.log)
        here.registry.apply(WITH_MODELS)
        store = models_in(tmp_path / "models")
        train(store, TIP, 1)

        def said() -> list[tuple[str, str]]:
            return [(finding.state, finding.said) for finding in examine(here) if finding.part == "releases"]

        assert said() == []
        Releasing(here.registry.releases, here.online, store, SystemClock(), WITH_MODELS).canary(TIP, "2", 500, stable="1")
        assert said() == [("ok", "tip: release 2, 1 95 %, 2 5 %")]
        here.online.damage(Keys("default").meta(RELEASES_DOCUMENT), None)  # type: ignore[attr-defined]  # of the one in memory
        assert [state for state, _ in said()] == ["error", "ok"]
        here.registry.releases.mirror()
        shutil.rmtree(store.path / "tip" / "2")
        ((state, what),) = said()
        assert (state, what) == ("error", "tip@2 is not in the store here; put the released one there")


def test_definitions_that_the_online_store_lost_are_not_taken_for_none_that_were_applied(here: Context) -> None:
    assert here.mirrored() == PROJECT
    here.online = MemoryOnlineStore(SystemClock())         # type: ignore[misc]
    here.registry = Registry(here.history, here.online, here.log)      # type: ignore[misc]
    with pytest.raises(StateError, match="it was emptied.*Run `featureflow rebuild`"):
        here.mirrored()


def test_before_anything_is_applied_nothing_is_mirrored_and_nothing_lost(tmp_path: Path) -> None:
    here = Context(tmp_path, {})
    with closing(SqlHistory(f"sqlite:///{tmp_path}/history.db")) as history:
        here.online = MemoryOnlineStore(SystemClock())     # type: ignore[misc]
        here.registry = Registry(history, here.online, MemoryLog())    # type: ignore[misc]
        assert here.mirrored() is None


def test_a_variable_that_is_nearly_a_setting_is_a_warning(here: Context) -> None:
    here.environment = {"FEATUREFLOW_SERVE_PROT": "1"}
    said = [(finding.state, finding.said) for finding in examine(here) if finding.part == "settings"]
    prot = "the environment variable FEATUREFLOW_SERVE_PROT is no setting, and changes nothing; did you mean FEATUREFLOW_SERVE_PORT?"
    assert said[1:] == [("warning", prot)]


def test_a_model_that_answers_and_was_made_for_other_inputs_is_an_error(here: Context, tmp_path: Path) -> None:
    store = models_in(tmp_path / "models")
    other = msgspec.structs.replace(TIP, inputs=TIP.inputs[:-1])
    changed = msgspec.structs.replace(WITH_MODELS, models=(other,))
    here.written = changed                 # type: ignore[misc]
    here.registry.apply(changed)

    def said() -> list[tuple[str, str]]:
        return [(finding.state, finding.said) for finding in examine(here) if finding.part == "models"]

    ((state, what),) = said()
    assert state == "error"
    assert "model tip@1 does not fit its definition: paris is not in the definition" in what
    train(store, other)
    assert said() == [("ok", "tip: in the store, version 2 answers")]
    Releasing(here.registry.releases, here.online, store, SystemClock(), changed).release(other, "2")
    train(store, TIP)
    assert said() == [("ok", "tip: in the store, version 2 answers")], "the latest does not fit, and 2 is released"
