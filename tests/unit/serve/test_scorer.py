"""Requests in, answers out: what a score is made of, what it says of itself, and what it never does."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from replay import recompute
from serve_rig import STRICT, TIP, WITH_MODELS, Rig, ServeRig, fed, models_in, serving, train
from unit.serve.test_lookups import begin
from worker_rig import PROJECT, RIDERS, SECOND_US, TRIP, ZONES

from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import RequestError, UnavailableError
from featureflow.kernel.decode import Decoder
from featureflow.kernel.derive import features_to_inputs
from featureflow.kernel.finalize import Status, ViewKernel
from featureflow.models.loaded import LoadedModel
from featureflow.models.pool import SessionPool
from featureflow.models.store import ModelStore
from featureflow.serve.answer import Answer, Shed
from featureflow.store.keys import Keys
from featureflow.store.online.memory import MemoryOnlineStore

PREDICTIONS = system.predictions(DEFAULT_PROJECT)

KEYS = Keys(DEFAULT_PROJECT)
BODY = {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}
STRICT_BODY = {"entities": BODY["entities"]}
BODY_OF = {"tip": BODY, "strict": STRICT_BODY}
RIDER, ZONE = PROJECT.views


def answered(answer: Answer | Shed) -> dict[str, object]:
    assert isinstance(answer, Answer), answer
    assert answer.status == 200
    decoded: dict[str, object] = msgspec.json.decode(answer.body)
    return decoded


def damage_ada(rig: Rig, change: Callable[[NDArray[np.void]], None]) -> None:
    """Change the rows of one entity's state, its header left as it is."""
    key = KEYS.state("rider", "ada", RIDER.id, "trip", None)
    (value,) = rig.online.read([key])
    assert value is not None
    layout = ViewKernel(RIDER, {"trip": TRIP}).layouts["trip"]
    rows = np.frombuffer(value, layout.dtype, offset=layout.header_bytes).copy()
    change(rows)
    assert isinstance(rig.online, MemoryOnlineStore)
    rig.online.damage(key, value[: layout.header_bytes] + rows.tobytes())


def expected_scores(
    rig: Rig, models: ModelStore, rows: list[dict[str, object]], q_us: int, name: str = "tip"
) -> list[float]:
    """Scores from the log's events, the kernel and the model, by another way than the scorer's."""
    q = np.full(len(rows), q_us, np.int64)
    applied = {"trip": rig.log.topic(TRIP.topic).end}
    columns: dict[str, np.ndarray] = {}
    for view, key in ((RIDER, "rider"), (ZONE, "zone")):
        kernel = ViewKernel(view, {"trip": TRIP})
        values = recompute(
            kernel, {"trip": TRIP}, {"trip": rig.events()}, [row[key] for row in rows], q, applied
        ).values
        for feature, at in zip(view.features, kernel.columns, strict=True):
            block = values[:, at : at + feature.size]
            columns[feature.reference] = block[:, 0] if feature.size == 1 else block
    hours = np.full(len(rows), 17.0)
    nothing = np.full(len(rows), np.nan)
    columns |= {"ask:hour": hours, "ask:weight": nothing, "ask:vip": nothing, "ask:since": nothing}
    columns["ask:city"] = np.full(len(rows), None, object)
    model = WITH_MODELS.model(name)
    return models.load(name).score(features_to_inputs(model, columns)).tolist()


def test_a_score_is_the_models_answer_to_features_recomputed_from_the_log(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed()
        rows = [{"rider": rider, "zone": zone} for rider in (*RIDERS, "nobody") for zone in (*ZONES, 99)]
        body = {"rows": [{"entities": row, "context": {"hour": 17}} for row in rows]}
        async with serving(models, rig=rig) as serve:
            answer = answered(await serve.ask("tip", body))
            assert answer["scores"] == expected_scores(rig, models, rows, rig.clock.now_us())
            assert (answer["model"], answer["version"], answer["variant"], answer["provider"]) == (
                "tip",
                "1",
                "fp32",
                "cpu",
            )
            assert answer["degraded"] == []
            assert len(set(answer["prediction_ids"])) == len(rows)
            assert len(set(answer["scores"])) > 5

    asyncio.run(go())


def test_requests_of_one_turn_travel_as_one_read(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed()) as serve:
            serve.reader.reads.clear()
            futures = [serve.begin("tip", {**BODY, "entities": {"rider": r, "zone": z}}) for r in RIDERS for z in ZONES]
            futures.append(serve.begin("strict", {"entities": {"rider": "ada", "zone": 7}}))
            together = [answered(await future)["scores"] for future in futures]
            assert len(serve.reader.reads) == 1
            # each rider and zone once, whatever number of rows names it: keyed 1 key, unkeyed 2; and 2 + 2 offset records
            assert serve.reader.reads == [4 + len(RIDERS) + 2 * len(ZONES)]
            alone = [
                answered(await serve.ask("tip", {**BODY, "entities": {"rider": r, "zone": z}}))["scores"]
                for r in RIDERS
                for z in ZONES
            ]
            assert np.allclose(together[:-1], alone, rtol=1e-6)

    asyncio.run(go())


def test_explain_gives_value_status_and_event_time_of_each_feature_that_the_model_reads(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed()
        async with serving(models, rig=rig) as serve:
            (row,) = answered(await serve.ask("tip", {**BODY, "explain": True}))["features"]
            assert set(row) == {"rider_now:count_1h", "rider_now:sum_1m", "rider_now:sum_1h", "zone_now:last_n"}
            assert row["rider_now:count_1h"]["status"] == "present"
            assert row["rider_now:count_1h"]["value"] > 0
            assert row["rider_now:count_1h"]["event_time"].endswith("Z")
            assert len(row["zone_now:last_n"]["value"]) == 3
            (nobody,) = answered(
                await serve.ask("tip", {**BODY, "entities": {"rider": "nobody", "zone": None}, "explain": True})
            )["features"]
            assert nobody["rider_now:count_1h"] == {"value": None, "status": "default", "event_time": None}
            assert nobody["zone_now:last_n"] == {"value": [None, None, None], "status": "default", "event_time": None}

    asyncio.run(go())


def test_the_log_of_a_score_recomputes_to_the_same_bytes(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed()
        async with serving(models, rig=rig) as serve:
            bodies = [{**BODY, "entities": {"rider": r, "zone": z}} for r in RIDERS for z in (*ZONES, None)]
            scores = [answered(await serve.ask("tip", body))["scores"][0] for body in bodies]
            rig.produce(50)  # later events change nothing of what was served
            logged = serve.logged()
        decoded = Decoder(PREDICTIONS).decode([msgspec.json.encode(row) for row in logged])
        assert not decoded.refused
        assert sorted(row["score"] for row in logged) == sorted(scores)
        for row in logged:
            ids, versions = msgspec.json.decode(row["entities"]), msgspec.json.decode(row["views"])
            applied = msgspec.json.decode(row["applied"])
            parts, letters = [], ""
            for view in (RIDER, ZONE):
                assert versions[view.name] == view.version
                upto = {
                    source: {int(p): o for p, o in offsets.items()} for source, offsets in applied[view.name].items()
                }
                kernel = ViewKernel(view, {"trip": TRIP})
                q = np.array([row["asked_at"]], np.int64)
                values = recompute(kernel, {"trip": TRIP}, {"trip": rig.events()}, [ids[view.join_key]], q, upto)
                parts.append(values.values.tobytes())
                letters += "".join(Status(s).letter for s in values.statuses[0])
            assert base64.b64decode(row["features"]) == b"".join(parts)
            assert row["statuses"] == letters
            assert list(versions) == ["rider_now", "zone_now"]

    asyncio.run(go())


@pytest.mark.parametrize("how", ["absent", "dirty", "garbage"])
def test_a_lost_offset_record_makes_its_features_missing_and_says_so(models: ModelStore, how: str) -> None:
    async def go() -> None:
        rig = fed()
        online = rig.online
        assert isinstance(online, MemoryOnlineStore)
        key = KEYS.offset(RIDER.id, "trip", 0)
        (stored,) = online.read([key])
        assert stored is not None
        changed = {"absent": None, "dirty": stored[:56] + b"%+020d" % 77 + stored[76:], "garbage": b"x"}[how]
        online.damage(key, changed)
        async with serving(models, rig=rig) as serve:
            answer = answered(await serve.ask("tip", {**BODY, "explain": True}))
            assert answer["degraded"] == ["rider_now:missing"]
            (row,) = answer["features"]
            assert row["rider_now:count_1h"] == {"value": None, "status": "missing", "event_time": None}
            assert row["zone_now:last_n"]["status"] == "present"
            refused = await serve.ask("strict", {"entities": BODY["entities"]})
            assert isinstance(refused, Shed)
            assert refused.reason == "missing"

    asyncio.run(go())


def test_features_of_a_view_that_was_not_committed_for_long_are_stale_and_keep_their_value(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed()
        async with serving(models, rig=rig, stale_after_us=30 * SECOND_US) as serve:
            before = answered(await serve.ask("strict", {"entities": BODY["entities"], "explain": True}))
            rig.clock.advance(31 * SECOND_US)
            after = answered(await serve.ask("strict", {"entities": BODY["entities"], "explain": True}))
        assert before["degraded"] == []
        assert after["degraded"] == ["rider_now:stale", "zone_now:stale"]
        assert {f["status"] for f in after["features"][0].values()} == {"stale"}
        assert after["features"][0]["zone_now:last_n"]["value"] == before["features"][0]["zone_now:last_n"]["value"]

    asyncio.run(go())


def test_one_damaged_state_is_missing_and_its_neighbours_are_not(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed()
        key = KEYS.state("rider", "ada", RIDER.id, "trip", None)
        (value,) = rig.online.read([key])
        assert value is not None
        assert isinstance(rig.online, MemoryOnlineStore)
        rig.online.damage(key, value[:8] + bytes([value[8] ^ 1]) + value[9:])
        async with serving(models, rig=rig) as serve:
            rows = [{"entities": {"rider": r, "zone": 7}, "context": {"hour": 1}} for r in ("ada", "bob:{0}")]
            answer = answered(await serve.ask("tip", {"rows": rows, "explain": True}))
        assert answer["degraded"] == ["rider_now:corrupt"]
        assert [row["rider_now:count_1h"]["status"] for row in answer["features"]] == ["missing", "present"]

    asyncio.run(go())


def test_a_damaged_event_time_does_not_take_the_turn_of_others_along(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed()
        damage_ada(rig, lambda rows: rows["t_max"].fill(2**62))
        async with serving(models, rig=rig) as serve:
            asked = [await serve.ask("tip", {**BODY, "entities": {"rider": r, "zone": 7}, "explain": True}) for r in ("ada", "bob:{0}")]
        damaged, whole = (answered(answer)["features"][0]["rider_now:count_1h"] for answer in asked)
        assert (damaged["event_time"], whole["status"]) == (None, "present")
        assert whole["event_time"] is not None

    asyncio.run(go())


@pytest.mark.parametrize(
    ("reason", "failure"), [("unavailable", UnavailableError("gone; see online.url")), ("timeout", None)]
)
def test_without_the_store_a_score_uses_defaults_or_is_refused_as_its_model_declares(
    models: ModelStore, reason: str, failure: Exception | None
) -> None:
    async def go() -> None:
        async with serving(models, rig=fed()) as serve:
            serve.reader.fail = failure
            serve.reader.hold = None if failure else asyncio.Event()
            answer = answered(await serve.ask("tip", {**BODY, "explain": True}))
            assert answer["degraded"] == [f"fetch:{reason}", "rider_now:missing", "zone_now:missing"]
            assert {f["status"] for f in answer["features"][0].values()} == {"missing"}
            refused = await serve.ask("strict", {"entities": BODY["entities"]})
            assert isinstance(refused, Shed)
            assert refused.reason == "missing"
            if serve.reader.hold is not None:
                serve.reader.hold.set()
                await asyncio.sleep(0)

    asyncio.run(go())


def test_a_request_whose_deadline_passed_is_never_answered_with_a_score(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed()) as serve:
            raw = msgspec.json.encode(BODY)
            _, future = serve.scorer.score("tip", "", raw, request_id="r", since_s=-100.0)
            answer = await future
            assert isinstance(answer, Shed)
            assert answer.reason == "predicted_late"
            assert answer.retry_after_s >= 1
            before = list(serve.reader.reads)
            deadline, future = serve.scorer.score(
                "tip", "", raw, request_id="r", since_s=asyncio.get_running_loop().time()
            )
            deadline.at_s = -1.0  # passed while it waited for its turn
            answer = await future
            assert isinstance(answer, Shed)
            assert answer.reason == "late"
            assert serve.reader.reads == before
            assert serve.logged() == []

    asyncio.run(go())


def test_a_caller_who_goes_away_does_not_take_its_neighbours_along(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed()) as serve:
            since_s = asyncio.get_running_loop().time()
            raw = msgspec.json.encode(BODY)
            deadline, gone = serve.scorer.score("tip", "", raw, request_id="r", since_s=since_s)
            _, stays = serve.scorer.score("tip", "", raw, request_id="r", since_s=since_s)
            deadline.at_s = -1.0
            gone.cancel()
            (prediction_id,) = answered(await stays)["prediction_ids"]
            assert [row["prediction_id"] for row in serve.logged()] == [prediction_id]

    asyncio.run(go())


def test_a_deadline_that_passes_while_features_are_read_is_not_answered_and_not_logged(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed()) as serve:
            serve.reader.hold = asyncio.Event()
            since_s = asyncio.get_running_loop().time()
            raw = msgspec.json.encode(BODY)
            deadline, future = serve.scorer.score("tip", "", raw, request_id="r", since_s=since_s)
            _, in_time = serve.scorer.score("tip", "", raw, request_id="r", since_s=since_s)
            reads = len(serve.reader.reads)
            while len(serve.reader.reads) == reads:
                await asyncio.sleep(0)
            deadline.at_s = -1.0
            serve.reader.hold.set()
            answer = await future
            assert isinstance(answer, Shed)
            assert answer.reason == "late"
            (prediction_id,) = answered(await in_time)["prediction_ids"]
            assert [row["prediction_id"] for row in serve.logged()] == [prediction_id]

    asyncio.run(go())


def test_the_loop_counts_as_busy_from_a_turn_s_first_step_to_its_last_but_for_what_it_waits_for(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = list[tuple[float, float]]()

    async def go() -> None:
        async with serving(models, rig=fed()) as serve:
            serve.reader.hold = asyncio.Event()
            monkeypatch.setattr(serve.scorer.lag, "busy", lambda from_s, to_s: busy.append((from_s, to_s)))
            began_s, reads, read = perf_counter(), len(serve.reader.reads), serve.reader.read
            sent_s = list[float]()

            async def timed(keys: Sequence[bytes]) -> list[bytes | None]:
                sent_s.append(perf_counter())
                return await read(keys)

            monkeypatch.setattr(serve.reader, "read", timed)
            asked = serve.begin("tip", BODY)
            while len(serve.reader.reads) == reads:
                await asyncio.sleep(0)
            ((from_s, to_s),) = busy
            assert began_s < from_s < sent_s[0] < to_s, "what it reads by"
            serve.reader.hold.set()
            answered(await asked)
            assert to_s < busy[1][0], "what it makes of it"

    asyncio.run(go())


def test_a_row_that_the_model_refuses_does_not_take_its_neighbours_along(tmp_path: Path) -> None:
    async def go() -> None:
        store = models_in(tmp_path)
        bare = msgspec.structs.replace(STRICT, name="bare", inputs=(TIP.inputs[2],))
        project = msgspec.structs.replace(WITH_MODELS, models=(bare,))
        train_without_impute(store, bare)
        async with serving(store, rig=fed(), project=project) as serve:
            good = serve.begin("bare", {"entities": {"zone": 7}})
            bad = serve.begin("bare", {"entities": {"zone": None}})
            assert len(answered(await good)["scores"]) == 1
            refused = await bad
            assert isinstance(refused, Shed)
            assert refused.reason == "model"
            assert "last" in refused.detail
            assert len(serve.logged()) == 1

    asyncio.run(go())


def train_without_impute(store: ModelStore, model: object) -> None:
    from featureflow.models.export import export_mlp
    from featureflow.models.manifest import inputs_of
    from featureflow.models.transform import identity

    path = store.path / ".bare.onnx"
    export_mlp([np.ones((3, 1))], [np.zeros(1)], path)
    store.add("bare", path, inputs=inputs_of(model), transforms=identity(3), model=model)  # type: ignore[arg-type]  # a Model


def test_a_new_version_takes_over_without_a_dropped_request_and_an_old_one_can_be_named(tmp_path: Path) -> None:
    async def go() -> None:
        store = models_in(tmp_path)
        async with serving(store, rig=fed()) as serve:
            first = answered(await serve.ask("tip", BODY))
            assert train(store, TIP, seed=5) == "2"
            assert answered(await serve.ask("tip", BODY))["version"] == "1"
            await serve.scorer.models.refresh()
            second = answered(await serve.ask("tip", BODY))
            assert second["version"] == "2"
            assert second["scores"] != first["scores"]
            loading = await serve.ask("tip", BODY, ref="1")
            assert isinstance(loading, Shed)
            assert loading.reason == "loading"
            await serve.scorer.models.refresh()
            named = answered(await serve.ask("tip", BODY, ref="1"))
            assert (named["version"], named["scores"]) == ("1", first["scores"])
            store.alias("tip", "latest", "1")
            await serve.scorer.models.refresh()
            assert answered(await serve.ask("tip", BODY))["version"] == "1"

    asyncio.run(go())


def test_a_model_that_gave_way_to_another_is_loaded_again_for_the_next_who_asks(tmp_path: Path) -> None:
    async def go() -> None:
        store = ModelStore(models_in(tmp_path).path, pool=SessionPool(sessions=1))
        async with serving(store, rig=fed()) as serve:
            for name in ("tip", "strict", "tip"):
                await serve.ask(name, BODY_OF[name])           # one of the two is not held: it is loaded for this request
                await serve.scorer.models.refresh()
                assert answered(await serve.ask(name, BODY_OF[name]))["model"] == name
                assert [key.model for key in store.pool.keys] == [name]
                for _ in range(2):                             # what gave way stays away until it is asked for
                    await serve.scorer.models.refresh()
                assert [key.model for key in store.pool.keys] == [name]
                other = "strict" if name == "tip" else "tip"
                assert serve.scorer.models.is_cold(other)
                away = await serve.ask(other, BODY_OF[other])
                assert isinstance(away, Shed)
                assert away.reason == "loading"
                await serve.scorer.models.refresh()

    asyncio.run(go())


def test_an_unknown_model_or_version_is_not_found_and_says_what_there_is(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed()) as serve:
            with pytest.raises(RequestError, match="tip, strict") as unknown:
                serve.begin("tips", BODY)
            assert unknown.value.status == 404
            for _ in range(2):
                with pytest.raises(RequestError, match="no version or alias 9") as version:
                    await serve.ask("tip", BODY, ref="9")
                assert version.value.status == 404
            with pytest.raises(RequestError, match="letters, digits"):
                serve.begin("tip", BODY, ref="../../etc")

    asyncio.run(go())


def test_a_model_without_a_version_says_so_each_time_until_it_has_one(tmp_path: Path) -> None:
    async def go() -> None:
        store = ModelStore(tmp_path, provider="cpu")
        async with serving(store, rig=fed()) as serve:
            models = serve.scorer.models
            models._refused = OrderedDict((key, (-1e9, why)) for key, (_, why) in models._refused.items())  # long ago
            for _ in range(2):
                shed = await serve.ask("tip", BODY)
                assert isinstance(shed, Shed)
                assert (shed.reason, "no model tip" in shed.detail) == ("model", True)
            train(store, TIP)
            await models.refresh()
            assert answered(await serve.ask("tip", BODY))["version"] == "1"

    asyncio.run(go())


def test_a_version_that_is_there_and_cannot_be_loaded_is_no_404(tmp_path: Path) -> None:
    async def go() -> None:
        store = models_in(tmp_path)
        assert train(store, TIP, seed=5) == "2"
        for file in (tmp_path / "tip" / "1").glob("*.onnx"):
            file.write_bytes(b"rot")
        async with serving(store, rig=fed()) as serve:
            first = await serve.ask("tip", BODY, ref="1")
            assert isinstance(first, Shed)
            assert first.reason == "loading"
            await serve.scorer.models.refresh()
            shed = await serve.ask("tip", BODY, ref="1")
            assert isinstance(shed, Shed)
            assert (shed.reason, "not the file that was added" in shed.detail) == ("model", True)

    asyncio.run(go())


def test_a_fault_of_one_model_does_not_take_the_others_of_its_turn_along(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with serving(models, rig=fed()) as serve:
            strict = serve.scorer.models.latest("strict").loaded  # type: ignore[union-attr]  # it is ready

            def broken(self: LoadedModel, inputs: object) -> object:
                if self is strict:
                    raise ZeroDivisionError
                return whole(self, inputs)  # type: ignore[arg-type]  # passed on as it came

            whole = LoadedModel.score
            monkeypatch.setattr(LoadedModel, "score", broken)
            serve.reader.reads.clear()
            asked = [serve.begin(name, BODY if name == "tip" else STRICT_BODY) for name in ("strict", "tip", "strict")]
            first, second, third = [await one for one in asked]
            assert len(serve.reader.reads) == 1
            assert isinstance(first, Shed)
            assert isinstance(third, Shed)
            assert (first.reason, third.reason) == ("failed", "failed")
            assert "strict" in first.detail
            assert len(answered(second)["scores"]) == 1

    asyncio.run(go())


def test_changed_definitions_are_served_without_a_restart(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed()
        async with serving(models, rig=rig) as serve:
            assert not await serve.scorer.refresh()
            under_way = serve.begin("tip", BODY)
            other = msgspec.structs.replace(WITH_MODELS, models=(STRICT,))
            rig.online.put_meta("project", msgspec.json.encode(other))
            assert await serve.scorer.refresh()
            assert answered(await under_way)["model"] == "tip"
            with pytest.raises(RequestError):
                serve.begin("tip", BODY)
            rig.online.put_meta("project", b"{}x")
            assert not await serve.scorer.refresh()
            assert "featureflow apply" in serve.scorer.served.problem
            assert answered(await serve.ask("strict", {"entities": BODY["entities"]}))["model"] == "strict"

    asyncio.run(go())


def test_a_model_whose_definition_asks_for_other_inputs_does_not_answer(tmp_path: Path) -> None:
    async def go() -> None:
        rig, store = fed(), models_in(tmp_path)
        async with serving(store, rig=rig) as serve:
            changed = msgspec.structs.replace(STRICT, inputs=STRICT.inputs[:2])
            rig.online.put_meta("project", msgspec.json.encode(msgspec.structs.replace(WITH_MODELS, models=(changed,))))
            await serve.scorer.refresh()
            refused = await serve.ask("strict", {"entities": {"rider": "ada"}})
            assert isinstance(refused, Shed)
            assert "does not fit its definition" in refused.detail
            train(store, changed, seed=9)
            await serve.scorer.models.refresh()
            assert answered(await serve.ask("strict", {"entities": {"rider": "ada"}}))["version"] == "2"

    asyncio.run(go())


def test_features_at_an_instant_are_exact_or_refused(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed()
        async with serving(models, rig=rig) as serve:
            now = rig.clock.now_us()
            q_us, found = await begin(serve, "rider_now", ["ada", "nobody", "ada"], now - 60 * SECOND_US)
            assert q_us == now - 60 * SECOND_US
            expected = rig.expected(RIDER, q_us).values[0]
            assert found.values[0].tobytes() == found.values[2].tobytes() == expected.tobytes()
            assert found.ids == ["ada", "nobody", "ada"]
            with pytest.raises(RequestError, match="rolled up") as refused:
                await begin(serve, "rider_now", ["ada", "nobody"], now - 40 * 86_400 * SECOND_US)
            assert refused.value.status == 422
            serve.reader.fail = UnavailableError("gone")
            with pytest.raises(UnavailableError):
                await begin(serve, "rider_now", ["ada"])

    asyncio.run(go())


def test_predictions_that_do_not_fit_the_queue_are_dropped_and_counted_and_the_score_is_answered(
    models: ModelStore,
) -> None:
    async def go() -> None:
        rig = fed()
        async with serving(models, rig=rig, capacity_rows=2) as serve:
            rows = [{"entities": BODY["entities"], "context": {"hour": 1}}] * 3
            assert len(answered(await serve.ask("tip", {"rows": rows}))["scores"]) == 3
            assert serve.logged() == []
            assert b'featureflow_prediction_log_dropped_total{reason="queue_full"} 3.0' in serve.metrics.text()

    asyncio.run(go())


__all__ = ["ServeRig"]


ZONAL = msgspec.structs.replace(STRICT, name="zonal", inputs=TIP.inputs[2:3])  # reads zone_now alone
WITH_ZONAL = msgspec.structs.replace(WITH_MODELS, models=(*WITH_MODELS.models, ZONAL))


def test_state_that_breaks_the_computing_is_missing_for_its_entity_alone(tmp_path: Path) -> None:
    async def go() -> None:
        def no_squares(rows: NDArray[np.void]) -> None:
            for name in rows.dtype.names or ():
                if "square" in name:
                    rows[name] = 0         # a variance below zero: its root is an error where warnings are

        rig = fed()
        damage_ada(rig, no_squares)
        models = models_in(tmp_path / "models")
        train(models, ZONAL)
        async with serving(models, rig=rig, project=WITH_ZONAL) as serve:
            ada, bob = ({"rider": rider, "zone": 7} for rider in ("ada", "bob:{0}"))
            before = len(serve.reader.reads)
            asked = [
                serve.begin("tip", {"rows": [{"entities": e, "context": {"hour": 1}} for e in (ada, bob)], "explain": True}),
                serve.begin("strict", {"entities": ada}),
                serve.begin("strict", {"entities": bob}),
                serve.begin("zonal", {"entities": {"zone": 7}}),
            ]
            both, refused, other, zonal = await asyncio.gather(*asked)
            assert len(serve.reader.reads) == before + 1  # they travelled in one turn
        assert answered(both)["degraded"] == ["rider_now:corrupt"]
        assert [row["rider_now:count_1h"]["status"] for row in answered(both)["features"]] == ["missing", "present"]
        assert isinstance(refused, Shed)
        assert (refused.reason, refused.detail.partition(":")[0]) == ("missing", "rider_now")
        assert answered(other)["degraded"] == ["rider_now:corrupt"]
        assert answered(zonal)["degraded"] == []

    asyncio.run(go())


def test_a_view_that_cannot_be_computed_at_all_is_missing_and_models_that_do_not_read_it_go_on(tmp_path: Path) -> None:
    async def go() -> None:
        models = models_in(tmp_path / "models")
        train(models, ZONAL)
        async with serving(models, rig=fed(), project=WITH_ZONAL) as serve:
            serve.scorer.served.view("rider_now").kernel.width = -1  # as a fault in our own code would
            asked = [
                serve.begin("tip", {**BODY, "explain": True}),
                serve.begin("strict", STRICT_BODY),
                serve.begin("zonal", {"entities": {"zone": 7}}),
            ]
            tip, refused, zonal = await asyncio.gather(*asked)
        assert answered(tip)["degraded"] == ["rider_now:missing"]
        assert isinstance(refused, Shed)
        assert (refused.reason, refused.detail.partition(":")[0]) == ("missing", "rider_now")
        assert answered(zonal)["degraded"] == []

    asyncio.run(go())
