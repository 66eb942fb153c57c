"""An ensemble answers as a model does: in the same turn, with its members' scores and versions beside its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
from serve_rig import STRICT, TIP, WITH_MODELS, fed, listening, models_in, serving, train

from featureflow.define.spec import Call, Column, Ensemble, Input, Literal, Model, Project, Rule
from featureflow.models.store import ModelStore
from featureflow.serve.answer import Answer, Shed

TIP_SCORE, STRICT_SCORE, BUSY = Column("tip.score"), Column("strict.score"), Column("rule.busy")
MIXED = Call("add", (Call("mul", (TIP_SCORE, Literal(0.75))), Call("mul", (STRICT_SCORE, Literal(0.25)))))
RULES = Ensemble(
    members=("tip", "strict"),
    rules=(Rule(name="busy", expr=BUSY), Rule(name="mixed", expr=MIXED)),
    score=Call("when", (BUSY, Literal(1.0), MIXED)),
)


def ensemble(rules: Ensemble = RULES, over: float = 1e9) -> Model:
    """Of both models, and of a rule that holds where a rider has had more than ``over`` rides in the hour."""
    inputs = [
        msgspec.structs.replace(one, name=f"{member.name}.{one.name}") for member in (TIP, STRICT) for one in member.inputs
    ]
    busy = Input(name="rule.busy", expr=Call("gt", (Column("rider_now:count_1h"), Literal(over))))
    return Model(name="both", inputs=(*inputs, busy), deadline_us=60_000_000, drift=0.0, ensemble=rules)


def project(both: Model) -> Project:
    return msgspec.structs.replace(WITH_MODELS, models=(both, *WITH_MODELS.models))


ROWS = [{"entities": {"rider": rider, "zone": 7}, "context": {"hour": 17}} for rider in ("ada", "bob", "nobody")]
BODY = {"rows": ROWS, "explain": True}


def answered(answer: Answer | Shed) -> dict[str, object]:
    assert isinstance(answer, Answer), answer
    decoded: dict[str, object] = msgspec.json.decode(answer.body)
    return decoded


def test_the_score_is_the_rules_of_the_members_scores_and_explain_shows_them(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(), project=project(ensemble())) as serve:
            without_context = {"rows": [{"entities": row["entities"]} for row in ROWS]}
            futures = [serve.begin("tip", {"rows": ROWS}), serve.begin("strict", without_context), serve.begin("both", BODY)]
            (tip, _), (alone, _), (_, answer) = [(np.array(one["scores"]), one) for one in [answered(await f) for f in futures]]
            assert np.allclose(answer["scores"], 0.75 * tip + 0.25 * alone, rtol=1e-6)
            assert answer["members"] == {"tip": "1", "strict": "1"}
            assert (answer["model"], answer["variant"], answer["provider"]) == ("both", "ensemble", "cpu")
            parts = answer["parts"]
            assert [list(part) for part in parts] == [["tip@1", "strict@1", "busy", "mixed"]] * 3
            assert np.allclose([part["tip@1"] for part in parts], tip, rtol=1e-6)
            assert [part["busy"] for part in parts] == [0.0, 0.0, 0.0]
            assert {"rider_now:count_1h", "zone_now:last_n"} <= set(answer["features"][0])
            without = answered(await serve.ask("both", {"rows": ROWS}))
            assert "parts" not in without
            assert without["members"] == {"tip": "1", "strict": "1"}
            plain = answered(await serve.ask("tip", {"rows": ROWS}))
            assert "members" not in plain

    asyncio.run(go())


def test_a_rule_over_features_decides_row_by_row(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(), project=project(ensemble(over=0))) as serve:
            answer = answered(await serve.ask("both", BODY))
            ada, _, nobody = answer["scores"]
            assert (ada, answer["parts"][0]["busy"]) == (1.0, 1.0)
            assert (nobody, answer["parts"][2]["busy"]) == (answer["parts"][2]["mixed"], 0.0)

    asyncio.run(go())


def test_the_prediction_log_keeps_the_parts(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(), project=project(ensemble())) as serve:
            answer = answered(await serve.ask("both", BODY))
            await serve.ask("tip", {"rows": ROWS[:1]})
            by_id = {row["prediction_id"]: row for row in serve.logged()}
            ours = [by_id.pop(prediction_id) for prediction_id in answer["prediction_ids"]]
            assert [msgspec.json.decode(row["parts"]) for row in ours] == answer["parts"]
            assert {(row["model"], row["model_version"], row["variant"]) for row in ours} == {("both", answer["version"], "ensemble")}
            assert [("parts" in row) for row in by_id.values()] == [False]

    asyncio.run(go())


def test_a_new_version_of_a_member_is_another_version_of_the_ensemble(tmp_path: Path) -> None:
    async def go() -> None:
        store = models_in(tmp_path)
        async with serving(store, rig=fed(), project=project(ensemble())) as serve:
            before = answered(await serve.ask("both", BODY))
            assert answered(await serve.ask("both", BODY))["version"] == before["version"]
            train(store, TIP, seed=5)
            await serve.scorer.models.refresh()
            after = answered(await serve.ask("both", BODY))
            assert after["members"] == {"tip": "2", "strict": "1"}
            assert after["version"] != before["version"]
            assert after["scores"] != before["scores"]

    asyncio.run(go())


def test_it_waits_for_a_member_that_has_no_version_and_says_which(tmp_path: Path) -> None:
    async def go() -> None:
        store = ModelStore(tmp_path, provider="cpu")
        train(store, TIP)
        async with serving(store, rig=fed(), project=project(ensemble())) as serve:
            shed = await serve.ask("both", BODY)
            assert isinstance(shed, Shed)
            assert "strict" in shed.detail
            assert "strict" in (serve.scorer.models.problem("both") or "")
            train(store, STRICT)
            await serve.scorer.models.refresh()
            assert serve.scorer.models.problem("both") is None
            assert answered(await serve.ask("both", BODY))["members"] == {"tip": "1", "strict": "1"}

    asyncio.run(go())


def test_a_row_whose_score_is_undefined_is_refused_and_takes_no_other_along(models: ModelStore) -> None:
    undefined = msgspec.structs.replace(RULES, score=Call("div", (TIP_SCORE, BUSY)))

    async def go() -> None:
        async with serving(models, rig=fed(), project=project(ensemble(undefined, over=0))) as serve:
            good, bad = (serve.begin("both", {**ROWS[i], "explain": True}) for i in (0, 2))
            assert answered(await good)["parts"][0]["busy"] == 1.0
            shed = await bad
            assert isinstance(shed, Shed)
            assert "undefined" in shed.detail
            assert "tip@1" in shed.detail

    asyncio.run(go())


def test_it_has_no_version_to_be_asked_for_and_is_listed_with_the_others(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(), project=project(ensemble())) as serve, listening(serve) as http:
            async with http.client.post(f"{http.url}/v1/score/both@1", json=BODY) as response:
                assert response.status == 404
                assert "tip, strict" in (await response.json())["detail"]
            async with http.client.get(f"{http.url}/v1/models") as response:
                listed = {one["name"]: one for one in (await response.json())["models"]}
                assert listed["both"]["loaded"]["variant"] == "ensemble"
                assert listed["both"]["problem"] is None

    asyncio.run(go())
