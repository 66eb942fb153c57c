"""Scores of the same inputs: remembered where a model says so, and never across versions or definitions."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from serve_rig import TIP, WITH_MODELS, ServeRig, fed, models_in, serving, train

from featureflow import limits
from featureflow.define.spec import Project
from featureflow.models.loaded import LoadedModel
from featureflow.models.store import ModelStore
from featureflow.serve.answer import Answer
from featureflow.serve.score_cache import ENTRY_BYTES, Scores
from featureflow.store.mirror import PROJECT_DOCUMENT


def project(cache_scores: int) -> Project:
    models = tuple(msgspec.structs.replace(model, cache_scores=cache_scores) for model in WITH_MODELS.models)
    return msgspec.structs.replace(WITH_MODELS, models=models)


async def ask(serve: ServeRig, *hours: int) -> dict[str, Any]:
    rows = [{"entities": {"rider": "ada", "zone": 7}, "context": {"hour": hour}} for hour in hours]
    answer = await serve.ask("tip", {"rows": rows})
    assert isinstance(answer, Answer), answer
    decoded: dict[str, Any] = msgspec.json.decode(answer.body)
    return decoded


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows went through a session, batch by batch."""
    found: list[int] = []
    score = LoadedModel.score

    def counted(self: LoadedModel, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        found.append(len(inputs))
        return score(self, inputs)

    monkeypatch.setattr(LoadedModel, "score", counted)
    return found


def test_only_inputs_that_are_not_known_are_scored(models: ModelStore, scored: list[int]) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50), project=project(100)) as serve:
            scored.clear()
            first = await ask(serve, 1, 2)
            assert (await ask(serve, 2, 1))["scores"] == first["scores"][::-1]
            three = await ask(serve, 1, 3, 2)
            assert three["scores"][::2] == first["scores"]
            assert scored == [2, 1]
            assert (serve.scorer.way.score_cache.hits, serve.scorer.way.score_cache.misses) == (4, 3)
            serve.rig.clock.advance(7_200_000_000)
            await ask(serve, 1)
            assert scored == [2, 1, 1], "the features are others by now"
            assert len(set(three["prediction_ids"])) == 3
            assert len(serve.logged()) == 8, "each answer is logged, whoever scored it"

    asyncio.run(go())


def test_another_version_and_another_definition_begin_empty(tmp_path: Path, scored: list[int]) -> None:
    async def go() -> None:
        store = models_in(tmp_path)
        async with serving(store, rig=fed(50), project=project(100)) as serve:
            before = await ask(serve, 1)
            still_there = [serve.scorer.models.latest("tip"), serve.scorer.served.current().models["tip"]]  # as beside a candidate
            train(store, TIP, seed=9)
            await serve.scorer.models.refresh()
            scored.clear()
            after = await ask(serve, 1)
            assert (scored, after["version"] != before["version"], after["scores"] != before["scores"]) == ([1], True, True)
            changed = msgspec.structs.replace(project(100), requests=(*WITH_MODELS.requests, *()), models=project(99).models)
            serve.rig.online.put_meta(PROJECT_DOCUMENT, msgspec.json.encode(changed))
            assert await serve.scorer.refresh()
            scored.clear()
            assert (await ask(serve, 1))["scores"] == after["scores"]
            assert scored == [1]
            still_there.clear()
            gc.collect()
            assert len(serve.scorer.way.score_cache) == 1, "what nobody can ask for is gone"

    asyncio.run(go())


def test_nothing_is_remembered_unless_a_model_says_so(models: ModelStore, scored: list[int]) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50)) as serve:
            scored.clear()
            await ask(serve, 1)
            await ask(serve, 1)
            assert (scored, len(serve.scorer.way.score_cache)) == ([1, 1], 0)

    asyncio.run(go())


def test_a_row_that_the_model_refuses_is_refused_each_time_and_takes_nobody_along(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50), project=project(100)) as serve:
            good, bad = ({"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 1, "weight": weight}} for weight in (1.0, 9e18))
            known = [await serve.ask("tip", good) for _ in range(2)]
            for _ in range(2):
                both = await asyncio.gather(serve.begin("tip", bad), serve.begin("tip", good))
                assert isinstance(both[1], Answer)
                assert msgspec.json.decode(both[1].body)["scores"] == msgspec.json.decode(known[0].body)["scores"]  # type: ignore[union-attr]

    asyncio.run(go())


def test_scores_are_bounded_in_number_and_bytes_and_those_not_used_go_first() -> None:
    scores = Scores(3, width=1)
    for number in range(4):
        scores.put(b"%d" % number, float(number))
        scores.get(b"0")
    assert [scores.get(b"%d" % number) for number in range(4)] == [0.0, None, 2.0, 3.0]
    wide = 100_000
    scores = Scores(1_000_000, wide)
    for number in range(200):
        scores.put(b"%d" % number, 0.0)
    assert len(scores) == limits.CACHED_SCORES_BYTES // (ENTRY_BYTES + 8 * wide)
