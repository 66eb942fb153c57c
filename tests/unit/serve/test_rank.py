"""Candidates of several recalls, merged and weighted; scored in one read and one inference, as rows of a score request would be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from serve_rig import WITH_MODELS, Listening, listening, serving
from trips import LIFETIME
from unit.serve.test_ensemble import ensemble
from unit.serve.test_routes import post
from worker_rig import PROJECT, RIDERS, TRIP, ZONES, Rig, with_vector

from featureflow import limits
from featureflow.define.spec import Aggregation, Column, Project, View
from featureflow.define.version import with_version
from featureflow.errors import UnavailableError
from featureflow.models.store import ModelStore
from featureflow.reading import fetch
from featureflow.serve.vector_indexes import VectorIndexes
from featureflow.store.vectors.folder import VectorStore


def recent(name: str, entity: str, field: str, width: int = 0) -> View:
    """The ids of the last five trips of an entity."""
    last = Aggregation(
        name="recent", op="last_n", source="trip", value=Column(field), where=None, windows=(LIFETIME,), bare=True, size=5, width=width
    )
    view = View(name=name, entity=entity, join_key=entity, keys={"trip": entity}, aggregations=(last,), ttl_us=86_400_000_000)
    return with_version(view, {"trip": TRIP})


VIEWS = (*PROJECT.views, recent("zone_riders", "zone", "rider", 16), recent("rider_zones", "rider", "zone"))
FOLDED: Project = msgspec.structs.replace(PROJECT, views=VIEWS)
RANKING: Project = msgspec.structs.replace(WITH_MODELS, views=VIEWS, models=(*WITH_MODELS.models, ensemble()))
HERE = {"zone": 7}
CONTEXT = {"hour": 17}


@pytest.fixture(scope="module")
def rig() -> Rig:
    rig = Rig(project=FOLDED)
    rig.produce(300)
    worker = rig.worker()
    worker.open()
    rig.drain(worker)
    return rig


def ask(*recalls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"entities": HERE, "context": CONTEXT, "recalls": list(recalls), "k": 1_000, **more}


async def scores_of(server: Listening, riders: list[str]) -> dict[str, float]:
    rows = [{"entities": {"rider": rider, **HERE}, "context": CONTEXT} for rider in riders]
    _, answer, _ = await post(server, "/v1/score/tip", {"rows": rows})
    return dict(zip(riders, answer["scores"], strict=True))


def test_every_candidate_is_ranked_once_by_its_score_and_its_largest_weight(rig: Rig, models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=rig, project=RANKING) as serve, listening(serve) as server:
            riders = [*RIDERS, "nobody"]
            body = ask(
                {"source": "search", "ids": [*RIDERS, "ada"]},
                {"source": "pinned", "weight": 2.5, "ids": ["nobody", "ada"]},
                {"source": "low", "weight": 0.5, "ids": ["ada", "bob:{0}"]},
            )
            serve.reader.reads.clear()
            status, answer, _ = await post(server, "/v1/rank/tip", body)
            assert status == 200, answer
            assert len(serve.reader.reads) == 1, "one read for all candidates"
            assert (answer["candidate"], answer["candidates"]) == ("rider", 5)
            assert answer["recalled"] == {"search": 4, "pinned": 2, "low": 2}
            scores = await scores_of(server, riders)
            weights = {rider: 2.5 if rider in ("ada", "nobody") else 1.0 for rider in riders}
            found = {one["id"]: one for one in answer["ranked"]}
            assert found.keys() == set(riders)
            for rider, one in found.items():
                assert one["score"] == pytest.approx(scores[rider], rel=1e-6)
                assert one["weight"] == weights[rider]
                assert one["value"] == one["score"] * one["weight"]
            values = [one["value"] for one in answer["ranked"]]
            assert values == sorted(values, reverse=True)
            assert found["ada"]["sources"] == ["search", "pinned", "low"]
            assert found["bob:{0}"]["sources"] == ["search", "low"]
            _, few, _ = await post(server, "/v1/rank/tip", {**body, "k": 2, "exclude": [answer["ranked"][0]["id"]]})
            assert [one["id"] for one in few["ranked"]] == [one["id"] for one in answer["ranked"][1:3]]
            assert few["candidates"] == 4

    asyncio.run(go())


TIP = RANKING.model("tip")
KEPT = msgspec.structs.replace(TIP, max_age_us=60_000_000, stale_for_us=600_000_000)
KEEPING: Project = msgspec.structs.replace(RANKING, models=tuple(KEPT if one is TIP else one for one in RANKING.models))
BY_FEATURE = ask({"source": "here", "feature": "zone_riders:recent"}, {"source": "given", "ids": ["nobody"]})


def test_a_recall_takes_state_of_before_where_the_model_does(rig: Rig, models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=rig, project=KEEPING) as serve, listening(serve) as server:
            status, first, _ = await post(server, "/v1/rank/tip", BY_FEATURE)
            assert status == 200, first
            serve.reader.reads.clear()
            _, again, _ = await post(server, "/v1/rank/tip", BY_FEATURE)
            assert serve.reader.reads == [], "all of it is known"
            assert [one["id"] for one in again["ranked"]] == [one["id"] for one in first["ranked"]]
            assert (again["recalled"], again["degraded"]) == (first["recalled"], [])
            other = {**BY_FEATURE, "entities": {"zone": 3}}
            assert (await post(server, "/v1/rank/tip", other))[0] == 200
            assert len(serve.reader.reads) == 2, "another zone is read, for its recall and for its scores"
            strict = {name: value for name, value in BY_FEATURE.items() if name != "context"}
            serve.reader.reads.clear()
            for _ in range(2):
                assert (await post(server, "/v1/rank/strict", strict))[0] == 200
            assert len(serve.reader.reads) == 4, "a model that is not declared to take any reads"

    asyncio.run(go())


def test_a_recall_goes_by_what_was_read_before_where_the_store_does_not_answer(
    rig: Rig, models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [1_000.0]
    monkeypatch.setattr(fetch, "monotonic", lambda: now_s[0])

    async def go() -> None:
        async with serving(models, rig=rig, project=KEEPING) as serve, listening(serve) as server:
            _, first, _ = await post(server, "/v1/rank/tip", BY_FEATURE)
            now_s[0] += 61.0                                      # longer than it is taken without reading it again
            serve.reader.fail = UnavailableError("gone")
            status, answer, _ = await post(server, "/v1/rank/tip", BY_FEATURE)
            assert status == 200, answer
            assert {one["id"] for one in answer["ranked"]} == {one["id"] for one in first["ranked"]}
            assert "zone_riders:stale" in answer["degraded"] and "fetch:unavailable" in answer["degraded"]
            _, answer, _ = await post(server, "/v1/rank/tip", {**BY_FEATURE, "entities": {"zone": 5}})
            assert [one["id"] for one in answer["ranked"]] == ["nobody"]
            assert "recall:here" in answer["degraded"]            # of a zone that nobody asked about before nothing is known

    asyncio.run(go())


def test_candidates_come_from_a_feature_of_the_request_s_own_entity(rig: Rig, models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=rig, project=RANKING) as serve, listening(serve) as server:
            _, recent, _ = await post(server, "/v1/features/zone_riders", {"entities": [7]})
            riders = [rider for rider in recent["rows"][0]["values"][0] if rider is not None]
            body = ask({"source": "here", "feature": "zone_riders:recent"}, {"source": "given", "ids": ["nobody"]})
            serve.reader.reads.clear()
            status, answer, _ = await post(server, "/v1/rank/tip", body)
            assert status == 200, answer
            assert len(serve.reader.reads) == 2, "one for the recalls, one for all candidates"
            assert {one["id"] for one in answer["ranked"]} == {*riders, "nobody"}
            assert answer["recalled"] == {"here": len(set(riders)), "given": 1}
            assert answer["degraded"] == []
            zones = {"entities": {"rider": "ada"}, "context": CONTEXT, "recalls": [{"source": "been", "feature": "rider_zones:recent"}]}
            _, answer, _ = await post(server, "/v1/rank/tip", zones)
            assert {one["id"] for one in answer["ranked"]} <= set(ZONES)
            assert answer["ranked"]
            assert answer["candidate"] == "zone"

    asyncio.run(go())


def test_a_recall_that_cannot_be_read_is_said_and_the_others_are_ranked(rig: Rig, models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=rig, project=RANKING) as serve, listening(serve) as server:
            serve.reader.fail = UnavailableError("the store is down")
            here = {"source": "here", "feature": "zone_riders:recent"}
            status, answer, _ = await post(server, "/v1/rank/tip", ask(here, {"source": "given", "ids": ["ada"]}))
            assert (status, [one["id"] for one in answer["ranked"]]) == (200, ["ada"])
            assert "recall:here" in answer["degraded"]
            assert "fetch:unavailable" in answer["degraded"]
            status, problem, headers = await post(server, "/v1/rank/tip", ask(here))
            assert status == 503
            assert "here" in problem["detail"]
            assert headers["Retry-After"] == "1"
            assert b'featureflow_shed_total{reason="missing"} 1.0' in serve.metrics.text()

    asyncio.run(go())


def test_explain_and_the_prediction_log_say_of_each_candidate_what_a_score_says(rig: Rig, models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=rig, project=RANKING) as serve, listening(serve) as server:
            body = ask({"source": "all", "ids": [*RIDERS, "nobody"]}, explain=True, k=2)
            status, answer, _ = await post(server, "/v1/rank/both", body)
            assert status == 200, answer
            assert answer["members"] == {"tip": "1", "strict": "1"}
            best = answer["ranked"][0]
            assert set(best["parts"]) == {"tip@1", "strict@1", "busy", "mixed"}
            score = {"entities": {"rider": best["id"], **HERE}, "context": CONTEXT, "explain": True}
            _, alone, _ = await post(server, "/v1/score/both", score)
            assert best["features"] == alone["features"][0]
            logged = {row["prediction_id"]: row for row in serve.logged()}
            of_request = [row for row in logged.values() if row["request_id"] == answer["request_id"]]
            assert len(of_request) == answer["candidates"] == 5
            row = logged[best["prediction_id"]]
            assert msgspec.json.decode(row["entities"]) == {"rider": best["id"], **HERE}
            assert msgspec.json.decode(row["context"]) == CONTEXT
            assert row["score"] == best["score"]

    asyncio.run(go())


def test_a_candidate_may_have_request_inputs_of_its_own(rig: Rig, models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=rig, project=RANKING) as serve, listening(serve) as server:
            own = [{"id": "ada", "context": {"weight": 80.0}}, "bob:{0}"]
            _, answer, _ = await post(server, "/v1/rank/tip", ask({"source": "given", "ids": own}, {"source": "again", "ids": ["ada"]}))
            rows = [
                {"entities": {"rider": "ada", **HERE}, "context": {**CONTEXT, "weight": 80.0}},
                {"entities": {"rider": "bob:{0}", **HERE}, "context": CONTEXT},
            ]
            _, alone, _ = await post(server, "/v1/score/tip", {"rows": rows})
            found = {one["id"]: one["score"] for one in answer["ranked"]}
            assert np.allclose([found["ada"], found["bob:{0}"]], alone["scores"], rtol=1e-6)
            bad = ask({"source": "given", "ids": [{"id": "ada", "context": {"weight": "heavy"}}]})
            status, problem, _ = await post(server, "/v1/rank/tip", bad)
            assert status == 422
            assert "candidate 'ada': context.weight must be float" in problem["detail"]

    asyncio.run(go())


GIVEN = {"source": "given", "ids": ["ada"]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (ask({"source": "none", "ids": []}), "found none"),
        (ask(GIVEN, exclude=["ada"]), "found none"),
        (ask(GIVEN, GIVEN), "two recalls are called 'given'"),
        (ask({"source": "empty"}), "either ids or feature"),
        (ask({**GIVEN, "feature": "zone_riders:recent"}), "either ids or feature"),
        (ask({"source": "wrong", "ids": [7]}), "must be a string"),
        (ask({"source": "many", "ids": [f"r{i}" for i in range(600)]}, {"source": "more", "ids": [f"s{i}" for i in range(401)]}), "1001"),
        (ask({"source": "many", "ids": ["a"] * 1_001}), "length <= 1000"),
        (
            ask({"source": "full", "ids": [f"r{i}" for i in range(996)]}, {"source": "here", "feature": "zone_riders:recent"}),
            "up to 5 of features",
        ),
        (ask({"source": "here", "feature": "zone_riders:nothing"}), "there are zone_riders:recent"),
        (ask({"source": "here", "feature": "nowhere:recent"}), "views: rider_now"),
        (ask({"source": "here", "feature": "zone_now:last_n"}), "holds numbers"),
        (ask({"source": "here", "feature": "rider_zones:recent"}), "which entities does not name"),
        (ask({"source": "near", "index": "riders", "near": [1.0, 0.0]}), "there are: none"),
        (ask({"source": "near", "index": "riders"}), "index and near"),
        (ask(GIVEN, entities={}), "leaves out rider, zone"),
        (ask(GIVEN, entities={"rider": "ada", "zone": 7}), "leave one of them out, whose ids are ranked"),
        (ask(GIVEN, entities={"zone": "seven"}), "entities.zone must be a whole number"),
        (ask(GIVEN, entities={"zone": 7, "driver": 3}), "not known: driver"),
        (ask(GIVEN, context={}), "context.hour is absent"),
        (ask({**GIVEN, "weight": -1}), "> 0"),
        (ask(GIVEN, k=0), ">= 1"),
        (ask(GIVEN, nonsense=1), "nonsense"),
        (b"{", "truncated"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_what_to_change(rig: Rig, models: ModelStore, body: Any, said: str) -> None:
    async def go() -> None:
        async with serving(models, rig=rig, project=RANKING) as serve, listening(serve) as server:
            status, problem, _ = await post(server, "/v1/rank/tip", body)
            assert status == (400 if body == b"{" else 422), problem
            assert said in problem["detail"]

    asyncio.run(go())


def test_it_takes_part_in_admission_and_keeps_its_deadline(rig: Rig, models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=rig, project=RANKING) as serve, listening(serve) as server:
            full = {"source": "all", "ids": [f"r{i}" for i in range(limits.CANDIDATES)]}
            status, answer, _ = await post(server, "/v1/rank/tip", ask(full))
            assert (status, answer["candidates"]) == (200, limits.CANDIDATES)
            status, problem, _ = await post(server, "/v1/rank/tip", ask(full, deadline_ms=0.001))
            assert status == 503
            assert "late" in problem["title"].lower() or "in time" in problem["title"]
            status, _, _ = await post(server, "/v1/rank/nothing", ask(full))
            assert status == 404
            status, _, _ = await post(server, "/v1/rank/tip@17", ask(full))
            assert status == 404

    asyncio.run(go())


@pytest.mark.parametrize("by_feature", [False, True])
def test_candidates_come_from_an_index_of_vectors_near_one(tmp_path: Path, models: ModelStore, by_feature: bool) -> None:
    async def go() -> None:
        folded = with_vector(2)
        rig = Rig(project=folded)
        rig.append([rig.trip(rider="ada", at=rig.clock.now_us(), zone=7, fare=3.0, drift=[0.9, 0.1])])
        worker = rig.worker()
        worker.open()
        rig.drain(worker)
        store = VectorStore(tmp_path)
        store.add("zones", [7, -3, 12, 40], np.array([[1, 0], [0, 1], [0.7, 0.7], [-1, 0]]))
        ranking = msgspec.structs.replace(WITH_MODELS, sources=folded.sources, views=folded.views)
        async with serving(models, rig=rig, project=ranking) as serve, listening(serve) as server:
            serve.scorer.vectors = VectorIndexes(store)
            await serve.scorer.vectors.refresh()
            near = "rider_now:drift_lifetime" if by_feature else [0.9, 0.1]
            recalls = [{"source": "near", "index": "zones", "near": near, "n": 2}, {"source": "given", "ids": [40]}]
            body = {"entities": {"rider": "ada"}, "context": CONTEXT, "recalls": recalls}
            status, answer, _ = await post(server, "/v1/rank/tip", body)
            assert status == 200, answer
            assert {one["id"]: one["sources"] for one in answer["ranked"]} == {7: ["near"], 12: ["near"], 40: ["given"]}
            assert not [said for said in answer["degraded"] if said.startswith("recall")]
            nobody = {**body, "entities": {"rider": "nobody"}}
            status, answer, _ = await post(server, "/v1/rank/tip", nobody)
            assert answer["recalled"] == {"near": 0 if by_feature else 2, "given": 1}
            for wrong, said in (({"near": [1.0]}, "must be 2 numbers"), ({"near": "rider_now:count_1h"}, "must be 2 numbers")):
                status, problem, _ = await post(server, "/v1/rank/tip", {**body, "recalls": [{**recalls[0], **wrong}]})
                assert (status, said in problem["detail"]) == (422, True), problem
            riders = {"entities": HERE, "context": CONTEXT, "recalls": recalls[:1]}
            status, problem, _ = await post(server, "/v1/rank/tip", riders)
            assert (status, "ids of the index are of type int" in problem["detail"]) == (422, True), problem
            store.add("zones", [12], np.array([[1, 0]]))
            await serve.scorer.vectors.refresh()
            status, answer, _ = await post(server, "/v1/rank/tip", body)
            assert {one["id"] for one in answer["ranked"]} == {12, 40}, "the newest version answers"
            serve.scorer.vectors.close()

    asyncio.run(go())
