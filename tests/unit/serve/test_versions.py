"""Versions of one model that read other things: each is asked with its own, and nobody is refused for what another one reads."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from serve_rig import ASK, INPUTS, TIP, WITH_MODELS, ServeRig, fed, listening, serving, train
from unit.serve.test_ensemble import RULES, ensemble
from unit.serve.test_releases import HALF, RIDERS, Released, until
from unit.serve.test_routes import post
from worker_rig import PROJECT

from featureflow.define.spec import Call, Column, Field, Input, Model, Project, Request
from featureflow.define.version import with_version
from featureflow.errors import ModelError, RequestError
from featureflow.models.loaded import LoadedModel
from featureflow.models.releasing import Releasing
from featureflow.models.store import ModelStore
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.shadow import Shadows
from featureflow.serve.upkeep import Upkeep
from featureflow.store.history.sql import SqlHistory
from featureflow.store.releases import Releases

# what is applied after version 1 was added: another field, a view less, an expression that is another under the name that it had
NOW_ASK = msgspec.structs.replace(ASK, fields=(*ASK.fields, Field(name="amount", type="float")))
NOW_TIP = msgspec.structs.replace(
    TIP,
    inputs=(
        Input(name="share", expr=Call("sub", (Column("rider_now:sum_1h"), Column("rider_now:sum_1m"))), default=-1.0),
        Input(name="amount", expr=Column("ask:amount")),
        Input(name="hour", expr=Column("ask:hour")),
    ),
)
NOW: Project = msgspec.structs.replace(WITH_MODELS, requests=(NOW_ASK,), models=(NOW_TIP,))
OF_BEFORE = {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17, "city": "Paris"}}
OF_NOW = {"entities": {"rider": "ada"}, "context": {"hour": 17, "amount": 2.5}}
OF_BOTH = {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17, "city": "Paris", "amount": 2.5}}


async def apply(serve: ServeRig, project: Project) -> None:
    serve.rig.online.put_meta("project", msgspec.json.encode(project))
    assert await serve.scorer.refresh()


@asynccontextmanager
async def changed(folder: Path, project: Project = NOW) -> AsyncIterator[Released]:
    """A scorer that has version 1 of before and version 2 of now, which is the latest."""
    store = ModelStore(folder / "inputs", provider="cpu")
    train(store, TIP, 1, WITH_MODELS)
    rig = fed(60)
    history = SqlHistory(f"sqlite:///{folder / 'releases.db'}")
    history.migrate()
    try:
        async with serving(store, rig=rig) as serve:
            await apply(serve, project)
            train(store, NOW_TIP, 2, NOW)
            await serve.scorer.models.refresh()
            yield Released(serve, Releasing(Releases(history, rig.online), rig.online, store.apart(), rig.clock, project))
    finally:
        history.close()


def answered(answer: Answer | Shed) -> dict[str, Any]:
    assert isinstance(answer, Answer), answer
    found: dict[str, Any] = msgspec.json.decode(answer.body)
    return found


async def scored(serve: ServeRig, body: object, ref: str = "", name: str = "tip") -> dict[str, Any]:
    """A version that is named is loaded first."""
    answer = await serve.ask(name, body, ref=ref)
    while ref and isinstance(answer, Shed) and answer.reason == "loading":
        await asyncio.sleep(0.01)
        answer = await serve.ask(name, body, ref=ref)
    return answered(answer)


def row(rider: str | None, **context: object) -> dict[str, Any]:
    return {"entities": {"rider": rider, "zone": 7}, "context": {"hour": 17, **context}}


# -- who answers -------------------------------------------------------------------------------------------------------


def test_when_the_definition_has_other_inputs_what_answers_goes_on_to_the_bit(tmp_path: Path) -> None:
    async def go() -> None:
        store = ModelStore(tmp_path / "inputs", provider="cpu")
        train(store, TIP, 1, WITH_MODELS)
        async with serving(store, rig=fed(60)) as serve:
            before = await scored(serve, {**OF_BEFORE, "explain": True})
            under_way = serve.begin("tip", OF_BEFORE)
            await apply(serve, NOW)
            after = await scored(serve, {**OF_BEFORE, "explain": True})
            assert (after["version"], after["scores"], after["features"]) == ("1", before["scores"], before["features"])
            assert answered(await under_way)["scores"] == before["scores"]
            train(store, NOW_TIP, 2, NOW)
            await serve.scorer.models.refresh()
            latest = await scored(serve, {**OF_NOW, "explain": True})
            assert latest["version"] == "2"
            assert list(latest["features"][0]) == ["rider_now:sum_1h", "rider_now:sum_1m"]
            assert (await scored(serve, OF_BEFORE, "1"))["scores"] == before["scores"]

    asyncio.run(go())


def test_versions_of_other_inputs_travel_in_one_turn_and_each_is_logged_with_what_it_read(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            await scored(here.serve, OF_BEFORE, "1")
            here.serve.reader.reads.clear()
            first, second = [answered(await one) for one in [here.serve.begin("tip", OF_BEFORE, ref="1"), here.serve.begin("tip", OF_NOW)]]
            assert len(here.serve.reader.reads) == 1
            logged = {one["prediction_id"]: one for one in here.serve.logged()}
            old, new = (logged[answer["prediction_ids"][0]] for answer in (first, second))
            assert (old["model_version"], new["model_version"]) == ("1", "2")
            assert list(msgspec.json.decode(old["views"])) == ["rider_now", "zone_now"]
            assert list(msgspec.json.decode(new["views"])) == ["rider_now"]
            assert len(old["statuses"]) > len(new["statuses"])

    asyncio.run(go())


def test_a_version_whose_feature_is_calculated_otherwise_does_not_answer_with_it(tmp_path: Path) -> None:
    rider, zone = PROJECT.views
    costly = Call("gt", (Column("fare"), Column("fare")))
    aggregations = tuple(msgspec.structs.replace(a, where=costly) if a.name == "count" else a for a in rider.aggregations)
    views = (with_version(msgspec.structs.replace(rider, aggregations=aggregations), {"trip": PROJECT.sources[0]}), zone)

    async def go() -> None:
        async with changed(tmp_path) as here:
            here.releasing.release(TIP, "1")
            await here.follow()
            assert (await scored(here.serve, OF_BEFORE))["version"] == "1"
            await apply(here.serve, msgspec.structs.replace(NOW, views=views))
            refused = await here.serve.ask("tip", OF_BEFORE)
            assert isinstance(refused, Shed)
            assert "tip@1 reads what is not there as it was when the version was added: the feature rider_now:count_1h is" in refused.detail
            assert (await scored(here.serve, OF_NOW, "2"))["version"] == "2", "which does not read that feature"
            await apply(here.serve, NOW)
            await here.serve.scorer.models.refresh()
            assert (await scored(here.serve, OF_BEFORE))["version"] == "1", "as it was: it goes on"

    asyncio.run(go())


def test_a_version_that_is_added_before_its_definitions_are_applied_answers_once_they_are(tmp_path: Path) -> None:
    async def go() -> None:
        store = ModelStore(tmp_path / "inputs", provider="cpu")
        train(store, TIP, 1, WITH_MODELS)
        async with serving(store, rig=fed(60)) as serve:
            train(store, NOW_TIP, 2, NOW)
            await serve.scorer.models.refresh()
            assert (await scored(serve, OF_BEFORE))["version"] == "1"
            assert "the request field ask:amount is not in the definitions" in (serve.scorer.models.problem("tip") or "")
            await apply(serve, NOW)
            assert (await scored(serve, OF_NOW))["version"] == "2"

    asyncio.run(go())


def test_where_what_answers_cannot_go_on_the_latest_takes_over_as_the_definitions_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was added for them before they were applied: between the two there is no moment in which nobody answers."""
    otherwise = msgspec.structs.replace(ASK, fields=(Field(name="hour", type="float"), *NOW_ASK.fields[1:]))
    tip = msgspec.structs.replace(NOW_TIP, inputs=(NOW_TIP.inputs[0], NOW_TIP.inputs[2]))
    project = msgspec.structs.replace(NOW, requests=(otherwise,), models=(tip,))

    async def go() -> None:
        store = ModelStore(tmp_path / "inputs", provider="cpu")
        train(store, TIP, 1, WITH_MODELS)
        async with serving(store, rig=fed(60)) as serve:
            train(store, tip, 2, project)
            await serve.scorer.models.refresh()
            serve.rig.online.put_meta("project", msgspec.json.encode(project))
            load, loads, may = store.load, threading.Event(), threading.Event()

            def slowly(*words: Any, **more: Any) -> LoadedModel:
                loads.set()
                may.wait(60.0)
                return load(*words, **more)

            monkeypatch.setattr(store, "load", slowly)
            applying = asyncio.create_task(serve.scorer.refresh())
            await until(loads.is_set)
            assert [(await scored(serve, OF_BEFORE))["version"] for _ in range(20)] == ["1"] * 20
            may.set()
            await applying
            assert (await scored(serve, OF_BEFORE))["version"] == "2"

    asyncio.run(go())


# -- what a body holds -------------------------------------------------------------------------------------------------


def test_a_body_may_hold_what_another_version_reads_and_must_hold_what_the_one_that_answers_does(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            serve = here.serve
            assert (await scored(serve, OF_BOTH))["scores"] == (await scored(serve, OF_NOW))["scores"]
            assert (await scored(serve, OF_BOTH))["scores"] == (await scored(serve, OF_NOW))["scores"]     # by the typed structs
            assert (await scored(serve, OF_BOTH, "1"))["scores"] == (await scored(serve, OF_BEFORE, "1"))["scores"]
            for body, ref, says in (
                (OF_BEFORE, "", "context.amount is absent"),
                (OF_NOW, "1", "absent: zone"),
                ({**OF_BOTH, "context": {**OF_BOTH["context"], "city": 7}}, "", "context.city must be str"),
                ({**OF_BOTH, "context": {**OF_BOTH["context"], "since": "noon"}}, "", "RFC 3339"),
                ({**OF_BOTH, "entities": {"rider": "ada", "zone": "x"}}, "", "entities.zone must be a whole number"),
                ({**OF_BOTH, "context": {**OF_BOTH["context"], "citty": "x"}}, "", "not known: citty"),
                ({**OF_BOTH, "entities": {"rider": "ada", "zonne": 7}}, "", "not known: zonne"),
            ):
                with pytest.raises(RequestError) as refused:
                    serve.begin("tip", body, ref=ref)
                assert refused.value.status == 422
                assert says in refused.value.detail
            logged = serve.logged()
            assert msgspec.json.decode(logged[0]["context"]) == OF_BOTH["context"]
            assert msgspec.json.decode(logged[0]["entities"]) == OF_BOTH["entities"]

    asyncio.run(go())


def test_a_body_that_is_none_is_said_to_be_before_the_version_is_there(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(ModelStore(tmp_path / "none", provider="cpu"), rig=fed(10)) as serve:
            with pytest.raises(RequestError) as refused:
                serve.begin("tip", b"{")
            assert refused.value.status == 400
            assert isinstance(await serve.ask("tip", OF_NOW), Shed)        # what fits is known with the version

    asyncio.run(go())


def test_the_openapi_document_says_what_the_version_takes_that_answers(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here, listening(here.serve) as server:

            async def context() -> dict[str, Any]:
                async with server.client.get(f"{server.url}/openapi.json") as response:
                    made = msgspec.json.decode(await response.read())
                schema = made["paths"]["/v1/score/tip"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"][0]
                return {"entities": schema["properties"]["entities"]["required"], **schema["properties"]["context"]}

            said = await context()
            assert (said["entities"], said["required"]) == (["rider"], ["amount", "hour"])
            assert {"city", "vip"} <= set(said["properties"])
            here.releasing.release(TIP, "1")
            await here.follow()
            said = await context()
            assert (said["entities"], said["required"]) == (["rider", "zone"], ["hour"])
            async with server.client.get(f"{server.url}/v1/models/tip") as response:
                told = msgspec.json.decode(await response.read())
            assert (told["inputs"], told["entities"]) == ([one.name for one in INPUTS], ["rider", "zone"])

    asyncio.run(go())


# -- on trial ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sticky", [None, "rider", "zone"])
def test_who_cannot_ask_the_candidate_is_answered_by_the_stable_version_and_counted(tmp_path: Path, sticky: str | None) -> None:
    """Of the two the candidate reads no zone: an entity keeps its version by what was sent."""

    async def go() -> None:
        async with changed(tmp_path) as here:
            here.releasing.canary(TIP, "2", HALF, stable="1", sticky=sticky)
            await here.follow()
            serve, arms = here.serve, Counter[tuple[str, str, bool]]()
            alone = {"1": (await scored(serve, OF_BOTH, "1"))["scores"], "2": (await scored(serve, OF_BOTH, "2"))["scores"]}
            assert alone["1"] != alone["2"]
            for i in range(60):
                for body, able in ((OF_BOTH, True), (OF_BEFORE, False)):
                    sent = msgspec.json.encode({**body, "entities": {"rider": RIDERS[i % 30], "zone": i}} if sticky else body)
                    future = serve.scorer.score("tip", "", sent, request_id=f"r{i}", since_s=asyncio.get_running_loop().time())[1]
                    told = answered(await future)
                    arms[told["version"], told["assignment"]["arm"], able] += 1
                    if sticky is None:
                        assert told["scores"] == alone[told["version"]]
            assert {key[:2] for key in arms} == {("1", "stable"), ("2", "canary")}
            assert arms["2", "canary", False] == 0
            assert arms["1", "stable", False] == 60
            assert arms["2", "canary", True] > 0
            (_, count) = serve.scorer.releases.carried["tip"].counts[1]
            assert (count.rows, count.lacking) == (arms["2", "canary", True], arms["2", "canary", True])
            assert b'featureflow_arm_lacking_rows_total{arm="canary",model="tip",version="2"} %d.0' % count.lacking in serve.metrics.text()
            ends = Counter[str]()
            for i, rider in enumerate(RIDERS):
                sent = msgspec.json.encode({"entities": {"rider": rider}, "context": OF_NOW["context"]})
                try:
                    future = serve.scorer.score("tip", "", sent, request_id=f"r{i}", since_s=asyncio.get_running_loop().time())[1]
                    ends[answered(await future)["version"]] += 1
                except RequestError as error:
                    ends[error.detail] += 1
            refused = 'entities: absent: zone. Send {"rider": string, "zone": integer} (an id may be null)'
            assert set(ends) == {"2", refused}, "what the stable version reads must be sent by whom it answers, and by nobody else"

    asyncio.run(go())


def test_rows_of_several_arms_are_each_asked_for_what_their_version_reads(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            here.releasing.canary(TIP, "2", HALF, stable="1", sticky="rider")
            await here.follow()
            rows = [row(rider, amount=1.5 + i) if i % 3 else row(rider) for i, rider in enumerate(RIDERS)]
            told = await scored(here.serve, {"rows": rows, "explain": True})
            arms = told["assignment"]["arms"]
            assert set(arms) == {"stable", "canary"}
            assert all(arm == "stable" for i, arm in enumerate(arms) if i % 3 == 0), "they lack the amount"
            alone = {ref: await scored(here.serve, {"rows": rows}, ref) for ref in ("1",)}
            with_amount = [one for i, one in enumerate(rows) if i % 3]
            by_two = iter((await scored(here.serve, {"rows": with_amount}, "2"))["scores"])
            second = [next(by_two) if i % 3 else None for i in range(len(rows))]
            assert told["scores"] == [
                pytest.approx(second[i] if arm == "canary" else alone["1"]["scores"][i], rel=1e-6) for i, arm in enumerate(arms)
            ]
            assert [len(features) for features in told["features"]] == [2 if arm == "canary" else 4 for arm in arms]
            many = [row(f"r{i}", amount=1.5) for i in range(100)]
            whose = (await scored(here.serve, {"rows": many}))["assignment"]["arms"]
            canaries = [one for one, arm in zip(many, whose, strict=True) if arm == "canary"][:3]
            mixed = await scored(here.serve, {"rows": [canaries[0], row(canaries[1]["entities"]["rider"]), canaries[2]]})
            assert mixed["assignment"]["arms"] == ["canary", "stable", "canary"], "each row by itself, also where all have one arm"
            with pytest.raises(RequestError, match=r"rows\[0\].context.hour"):
                here.serve.begin("tip", {"rows": [{"entities": rows[0]["entities"]}, *rows[1:]]})

    asyncio.run(go())


def test_one_version_ranks_and_a_candidate_that_cannot_be_asked_does_not(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here, listening(here.serve) as server:
            here.releasing.canary(TIP, "2", HALF, stable="1", sticky="zone")
            await here.follow()
            ranking = {"entities": {"zone": 7}, "recalls": [{"source": "all", "ids": ["ada", "bob"]}]}
            arms = set()
            for zone in range(24):
                body = {**ranking, "entities": {"zone": zone}, "context": {"hour": 17, "amount": 1.0}}
                _, told, _ = await post(server, "/v1/rank/tip", body)
                arms.add((told["version"], told["candidates"]))
                _, lacking, _ = await post(server, "/v1/rank/tip", {**body, "context": {"hour": 17}})
                assert lacking["version"] == "1", lacking
            assert arms == {("1", 2), ("2", 2)}
            status, told, _ = await post(server, "/v1/rank/tip@2", {**ranking, "context": {"hour": 17, "amount": 1.0}})
            assert (status, told["title"]) == (422, "Wrong entities"), "version 2 reads no zone, so nothing is left to rank"

    asyncio.run(go())


# -- beside ------------------------------------------------------------------------------------------------------------


def test_a_shadow_of_other_inputs_reads_its_own_and_is_logged_with_them(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            here.releasing.release(TIP, "1")
            here.releasing.shadow(TIP, "2")
            await here.follow()
            serve = here.serve
            answers = []
            line = b'featureflow_shadow_rows_total{model="tip",outcome="%s",version="2"} %d.0'
            for number in range(1, 4):
                answers.append(await scored(serve, {"rows": [row("ada", amount=1.0), row("nobody", amount=float(number))]}))
                await until(lambda number=number: line % (b"scored", 2 * number) in serve.metrics.text())
            assert {answer["version"] for answer in answers} == {"1"}
            await scored(serve, OF_BEFORE)
            await until(lambda: line % (b"lacking", 1) in serve.metrics.text())
            wanted = await scored(serve, {"rows": [row("ada", amount=1.0), row("nobody", amount=1.0)]}, "2")
            logged = {one["prediction_id"]: one for one in serve.logged()}
            beside = [logged[f"{name}.shadow"] for name in answers[0]["prediction_ids"]]
            assert [one["score"] for one in beside] == [pytest.approx(score, rel=1e-6) for score in wanted["scores"]]
            assert [list(msgspec.json.decode(one["views"])) for one in beside] == [["rider_now"]] * 2
            assert {one["model_version"] for one in beside} == {"2"}
            assert [one["request_id"] for one in beside] == ["r1"] * 2

    asyncio.run(go())


def test_when_definitions_change_a_shadow_goes_on_and_a_candidate_that_cannot_gives_way_to_the_stable_version(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            serve, scorer = here.serve, here.serve.scorer
            line = b'featureflow_shadow_rows_total{model="tip",outcome="scored",version="1"} %d.0'
            here.releasing.release(TIP, "2")
            here.releasing.shadow(TIP, "1")
            await here.follow()
            for number in (1, 2, 3):
                if number > 1:                 # to other inputs than either has, and back
                    inputs = NOW_TIP.inputs[:2] if number == 2 else NOW_TIP.inputs
                    await apply(serve, msgspec.structs.replace(NOW, models=(msgspec.structs.replace(NOW_TIP, inputs=inputs),)))
                assert (await scored(serve, OF_BOTH))["version"] == "2"
                await until(lambda number=number: line % number in serve.metrics.text())

            here.releasing.canary(TIP, "1", 9_999, sticky="rider")
            await here.follow()
            rows = {"rows": [row(rider, amount=1.0) for rider in RIDERS]}
            assert "1" in (await scored(serve, rows))["version"]
            await apply(serve, msgspec.structs.replace(NOW, views=NOW.views[:1]))
            told = await scored(serve, {"rows": [{"entities": {"rider": rider}, "context": OF_NOW["context"]} for rider in RIDERS]})
            assert told["version"] == "2", "the view of zones is gone"
            assert scorer.releases.carried["tip"].on_trial
            upkeep = Upkeep(scorer, serve.rig.log)
            assert list(upkeep.ready().warnings) == ["canary of tip"]
            assert "tip@1 reads what is not there" in upkeep.ready().warnings["canary of tip"]
            await apply(serve, NOW)
            await scorer.models.refresh()
            assert upkeep.ready().warnings == {}
            assert "1" in (await scored(serve, rows))["version"]

    asyncio.run(go())


def test_a_shadow_that_is_loaded_while_definitions_change_reads_by_those_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            serve, loading, free = here.serve, threading.Event(), threading.Event()
            line = b'featureflow_shadow_rows_total{model="tip",outcome="scored",version="2"} %d.0'
            here.releasing.release(TIP, "1")
            here.releasing.shadow(TIP, "2")
            await here.follow()
            load = Shadows._load

            def slowly(*asked: Any) -> LoadedModel:
                loading.set()
                free.wait(60)
                return load(*asked)

            monkeypatch.setattr(Shadows, "_load", slowly)
            await scored(serve, OF_BOTH)
            await until(loading.is_set)
            wider = msgspec.structs.replace(PROJECT.views[0], ttl_us=40 * 86_400_000_000)
            sources = {source.name: source for source in NOW.sources}
            again = with_version(wider, sources)
            assert again.version != PROJECT.views[0].version
            await apply(serve, msgspec.structs.replace(NOW, views=(again, *NOW.views[1:])))
            free.set()
            await until(lambda: line % 1 in serve.metrics.text())
            await scored(serve, OF_BOTH)
            await until(lambda: line % 2 in serve.metrics.text())
            beside = [one for one in serve.logged() if str(one["prediction_id"]).endswith(".shadow")]
            assert [msgspec.json.decode(one["views"])["rider_now"] for one in beside] == [again.version] * 2

    asyncio.run(go())


def test_an_ensemble_has_the_inputs_of_the_versions_that_its_members_have(tmp_path: Path) -> None:
    """Its definition has those of now, and version 1 of the one member answers."""
    both = ensemble(msgspec.structs.replace(RULES, members=("tip",), rules=RULES.rules[:1], score=Column("tip.score")))
    busy = both.inputs[-1]

    def of(model: Model, project: Project) -> Project:
        inputs = tuple(msgspec.structs.replace(one, name=f"tip.{one.name}") for one in model.inputs)
        made = msgspec.structs.replace(both, inputs=(*inputs, busy))
        return msgspec.structs.replace(project, models=(made, model))

    async def go() -> None:
        async with changed(tmp_path, of(NOW_TIP, NOW)) as here:
            assert (await scored(here.serve, OF_NOW, name="both"))["members"] == {"tip": "2"}
            here.releasing.release(TIP, "1")
            await here.follow()
            told = await scored(here.serve, {**OF_BEFORE, "explain": True}, name="both")
            alone = await scored(here.serve, OF_BEFORE)
            assert (told["members"], told["scores"]) == ({"tip": "1"}, [pytest.approx(alone["scores"][0], rel=1e-6)])
            assert told["parts"][0]["busy"] == 0.0
            assert "zone_now:last_n" in told["features"][0]

    asyncio.run(go())


def test_an_ensemble_whose_members_read_one_name_as_two_fields_is_refused_by_name(tmp_path: Path) -> None:
    other = Request(name="seen", fields=(Field(name="hour", type="float"),))
    late = Model(name="late", inputs=(Input(name="hour", expr=Column("seen:hour")),), deadline_us=60_000_000, drift=0.1)
    both = Model(
        name="both", deadline_us=60_000_000, drift=0.0,
        inputs=(Input(name="tip.amount", expr=Column("ask:amount")), Input(name="late.hour", expr=Column("seen:hour"))),
        ensemble=msgspec.structs.replace(RULES, members=("tip", "late"), rules=(), score=Column("tip.score")),
    )  # fmt: skip
    amount = msgspec.structs.replace(NOW_TIP, inputs=(NOW_TIP.inputs[1],))
    project = msgspec.structs.replace(NOW, requests=(NOW_ASK, other), models=(amount, late, both))

    async def go() -> None:
        store = ModelStore(tmp_path / "inputs", provider="cpu")
        train(store, TIP, 1, WITH_MODELS)
        train(store, late, 2, project)
        async with serving(store, rig=fed(10), project=project) as serve:
            refused = await serve.ask("both", OF_BOTH)
            assert isinstance(refused, Shed)
            assert "read ask:hour and seen:hour, and a caller sends one hour" in refused.detail
            train(store, amount, 3, project)
            await serve.scorer.models.refresh()
            assert (await scored(serve, {"entities": {}, "context": {"amount": 1.0, "hour": 2.0}}, name="both"))["members"]["tip"] == "2"

    asyncio.run(go())


def test_a_version_that_cannot_be_computed_is_not_released(tmp_path: Path) -> None:
    async def go() -> None:
        async with changed(tmp_path) as here:
            without = msgspec.structs.replace(NOW, views=NOW.views[:1])
            releasing = Releasing(here.releasing._releases, here.serve.rig.online, here.serve.models, here.serve.rig.clock, without)
            with pytest.raises(ModelError, match="the feature zone_now:last_n is not in the definitions"):
                releasing.release(TIP, "1")
            assert np.isfinite((await scored(here.serve, OF_NOW))["scores"]).all()

    asyncio.run(go())
