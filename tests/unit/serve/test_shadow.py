"""What becomes of a shadow's scores when a scorer ends: each is finished and logged, or counted as dropped; and no row counts twice."""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from serve_rig import TIP, ServeRig, models_in, train
from structlog.testing import capture_logs
from unit.serve.test_releases import Released, released, until
from unit.serve.test_versions import NOW, OF_BEFORE, OF_NOW, apply, changed, row, scored

from featureflow.errors import ModelError, UnavailableError
from featureflow.models.manifest import as_added
from featureflow.serve.metrics import Metrics
from featureflow.serve.upkeep import Upkeep


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two versions of ``tip``."""
    store = models_in(tmp_path_factory.mktemp("versions"))
    train(store, TIP, 1)
    return store.path


@pytest.fixture
def folder(two_versions: Path, tmp_path: Path) -> Path:
    shutil.copytree(two_versions, tmp_path / "models")
    return tmp_path


@contextmanager
def occupied(serve: ServeRig) -> Iterator[threading.Event]:
    """The shadow's thread does something else until this is set."""
    gate, busy = threading.Event(), threading.Event()

    def wait() -> None:
        busy.set()
        gate.wait(60.0)

    serve.scorer.shadows._thread.submit(wait)
    assert busy.wait(60.0)
    try:
        yield gate
    finally:
        gate.set()


def outcomes(metrics: Metrics) -> dict[str, int]:
    """Outcome -> rows of the shadow of ``tip``."""
    found = re.findall(rb'featureflow_shadow_rows_total\{model="tip",outcome="(\w+)",version="\d"\} (\d+)', metrics.text())
    return {outcome.decode(): int(rows) for outcome, rows in found}


def counted(serve: ServeRig) -> dict[str, int]:
    return outcomes(serve.metrics)


async def shadowed(here: Released, stable: str = "1", shadow: str = "2") -> None:
    here.releasing.release(TIP, stable)
    here.releasing.shadow(TIP, shadow)
    await here.follow()


def test_what_a_shadow_has_to_score_when_a_scorer_ends_is_scored_and_logged_within_the_time_that_there_is(folder: Path) -> None:
    async def go() -> None:
        async with released(folder) as here:
            await shadowed(here)
            with occupied(here.serve) as gate:
                answers = [await here.ask("ada", "bob"), await here.ask("eve")]
                ending = asyncio.ensure_future(here.serve.scorer.shadows.drain(60.0))
                await asyncio.sleep(0)
                assert not ending.done()
                gate.set()
                await ending
            here.serve.scorer.shadows.close()
            assert counted(here.serve) == {"scored": 3}
            names = {f"{name}.shadow" for answer in answers for name in answer["prediction_ids"]}
            assert names < {one["prediction_id"] for one in here.serve.logged()}

    asyncio.run(go())


def test_shadow_scores_that_are_not_there_when_a_scorer_has_to_end_are_counted_and_said(folder: Path) -> None:
    async def go() -> None:
        async with released(folder) as here:
            await shadowed(here)
            await here.ask("ada")                                  # which loads it
            await until(lambda: counted(here.serve) == {"scored": 1})
            with occupied(here.serve) as gate, capture_logs() as lines:
                await here.ask("ada", "bob")
                await here.ask("eve")
                shadows = here.serve.scorer.shadows
                await shadows.drain(0.0)
                shadows.close()
                assert counted(here.serve) == {"scored": 1, "shutdown": 3}
                await here.ask("ada")                              # nobody scores it any more
                assert counted(here.serve) == {"scored": 1, "shutdown": 4}
                gate.set()
                await asyncio.get_running_loop().run_in_executor(None, shadows._thread.shutdown)
                here.serve.scorer.close()
                await asyncio.sleep(0)
            assert counted(here.serve) == {"scored": 1, "shutdown": 4}, "each row once"
            (line,) = [line for line in lines if line["event"] == "shadow_dropped"]
            assert (line["model"], line["version"], line["rows"], line["reason"]) == ("tip", "2", 3, "shutdown")
            assert sum(str(one["prediction_id"]).endswith(".shadow") for one in here.serve.logged()) == 1

    asyncio.run(go())


def test_rows_that_a_shadow_reads_features_for_when_a_scorer_has_to_end_are_counted(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            await shadowed(here)
            serve = here.serve
            await scored(serve, {"rows": [row("ada", amount=1.0)]})
            await until(lambda: counted(serve) == {"scored": 1})
            read, reads = serve.scorer.way._read, asyncio.Event()

            async def never(*_: object) -> None:
                reads.set()
                await asyncio.Event().wait()

            serve.scorer.way._read = never  # type: ignore[method-assign,assignment]
            await scored(serve, {"rows": [row("ada", amount=1.0), row("bob", amount=1.0)]})
            await scored(serve, OF_BEFORE)                         # lacks what it reads: nothing is to be read for it
            await reads.wait()
            await until(lambda: counted(serve).get("lacking") == 1)
            serve.scorer.shadows.close()
            assert counted(serve) == {"scored": 1, "lacking": 1, "shutdown": 2}
            serve.scorer.way._read = read  # type: ignore[method-assign]

    asyncio.run(go())


def test_of_a_turn_that_a_shadow_fails_at_the_rows_that_lack_what_it_reads_are_not_counted_twice(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            await shadowed(here)

            async def away(*_: object) -> None:
                raise UnavailableError("away")

            here.serve.scorer.way._read = away  # type: ignore[method-assign,assignment]
            together = [here.serve.begin("tip", body) for body in (OF_BEFORE, {"rows": [row("ada", amount=1.0), row("bob", amount=1.0)]})]
            for one in together:
                await one
            await until(lambda: "failed" in counted(here.serve))
            assert counted(here.serve) == {"lacking": 1, "failed": 2}

    asyncio.run(go())


def test_a_shadow_whose_feature_is_gone_fails_at_what_is_answered_and_says_once_what_apply_warned_of(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            await shadowed(here, stable="2", shadow="1")
            await scored(here.serve, {"rows": [row("ada", amount=1.0)]})
            await until(lambda: counted(here.serve) == {"scored": 1})
            without = msgspec.structs.replace(NOW, views=NOW.views[:1])
            with pytest.raises(ModelError) as warned:
                as_added(here.serve.models.manifest("tip", "1"), without)
            with capture_logs() as lines:
                await apply(here.serve, without)
                for failed in (1, 2):
                    told = await scored(here.serve, {"entities": {"rider": "ada"}, "context": OF_NOW["context"]})
                    assert told["version"] == "2"
                    await until(lambda failed=failed: counted(here.serve) == {"scored": 1, "failed": failed})
            (line,) = [line for line in lines if line["event"] == "shadow_failed"]
            assert (line["model"], line["version"], line["error"]) == ("tip", "1", str(warned.value))
            assert "the feature zone_now:last_n is not in the definitions" in line["error"]
            upkeep = Upkeep(here.serve.scorer, here.serve.rig.log)
            assert upkeep.ready().warnings == {"shadow of tip": str(warned.value)}
            here.releasing.shadow(TIP, None)
            await here.follow()
            assert upkeep.ready().warnings == {}
            await apply(here.serve, NOW)
            here.releasing.shadow(TIP, "1")
            await here.follow()
            await scored(here.serve, {"rows": [row("ada", amount=1.0)]})
            await until(lambda: counted(here.serve) == {"scored": 2, "failed": 2})
            assert upkeep.ready().warnings == {}

    asyncio.run(go())
