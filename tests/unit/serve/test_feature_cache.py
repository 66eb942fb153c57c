"""State that was read before: taken where a model says so, named by the offsets that it was folded to, bounded, and read once."""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from replay import recompute
from serve_rig import WITH_MODELS, Rig, ServeRig, fed, serving
from worker_rig import PROJECT, RIDERS, TRIP

from featureflow.breaker import FIRST_S, Breaker, BreakerSettings
from featureflow.define.spec import Project
from featureflow.errors import UnavailableError
from featureflow.kernel.finalize import ViewKernel
from featureflow.models.store import ModelStore
from featureflow.reading import fetch
from featureflow.reading.feature_cache import Entry, FeatureCache
from featureflow.reading.fetch import Unread
from featureflow.reading.standing import Records
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.upkeep import Upkeep
from featureflow.store.online.memory import MemoryOnlineStore

RIDER, ZONE = PROJECT.views
AGE_US, STALE_US = 1_000_000, 600_000_000


def project(**options: Any) -> Project:
    """The rig's models, declared to take state of before."""
    models = tuple(msgspec.structs.replace(model, **options) for model in WITH_MODELS.models)
    return msgspec.structs.replace(WITH_MODELS, models=models)


class Hand:
    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = Hand()
    monkeypatch.setattr(fetch, "monotonic", hand)
    return hand


def body(rider: str = "ada") -> dict[str, object]:
    return {"entities": {"rider": rider, "zone": 7}, "context": {"hour": 17}, "explain": True}


async def ask(serve: ServeRig, model: str = "tip", *riders: str) -> dict[str, Any]:
    context = {"context": {"hour": 17}} if model == "tip" else {}
    rows = [{"entities": {"rider": rider, "zone": 7}, **context} for rider in riders or ("ada",)]
    answer = await serve.ask(model, {"rows": rows, "explain": True})
    assert isinstance(answer, Answer), answer
    decoded: dict[str, Any] = msgspec.json.decode(answer.body)
    return decoded


def more(rig: Rig, count: int = 100) -> None:
    rig.produce(count)
    worker = rig.started()
    rig.drain(worker)
    worker.close()


def recomputes(rig: Rig, row: dict[str, Any]) -> bool:
    """Whether what was logged is what the log's events give, counted up to the offsets that were logged."""
    ids, applied, parts = msgspec.json.decode(row["entities"]), msgspec.json.decode(row["applied"]), []
    for view in (RIDER, ZONE):
        offsets = {int(p): o for p, o in applied[view.name]["trip"].items()}
        q = np.array([row["asked_at"]], np.int64)
        kernel, events = ViewKernel(view, {"trip": TRIP}), {"trip": rig.events()}
        parts.append(recompute(kernel, {"trip": TRIP}, events, [ids[view.join_key]], q, {"trip": offsets}).values.tobytes())
    return base64.b64decode(row["features"]) == b"".join(parts)


@pytest.mark.parametrize("buckets", [1, 3])
def test_state_within_max_age_is_not_read_again_and_is_named_by_its_own_offsets(models: ModelStore, clock: Hand, buckets: int) -> None:
    async def go() -> None:
        rig = Rig(buckets=buckets)
        more(rig)
        async with serving(models, rig=rig, project=project(max_age_us=AGE_US)) as serve:
            await ask(serve)
            reads = len(serve.reader.reads)
            more(rig)
            clock.s += 0.9
            await ask(serve)
            assert len(serve.reader.reads) == reads, "all of it is known"
            await ask(serve, "tip", "ada", *RIDERS[1:])
            assert len(serve.reader.reads) == reads + 1
            clock.s += 0.2
            await ask(serve)
            assert len(serve.reader.reads) == reads + 2, "it is too old by now"
            rows = serve.logged()
            cache = serve.scorer.fetcher.cache
        assert all(recomputes(rig, row) for row in rows)
        upto = [sum(msgspec.json.decode(row["applied"])["rider_now"]["trip"].values()) for row in rows]
        assert set(upto) == {100, 200}
        assert len({(row["applied"], row["entities"]) for row in rows}) < len(rows)
        assert cache.hits == 2 + 2

    asyncio.run(go())


def test_without_max_age_each_request_reads(models: ModelStore, clock: Hand) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50)) as serve:
            await ask(serve)
            reads = len(serve.reader.reads)
            await ask(serve)
            assert len(serve.reader.reads) == reads + 1
            assert len(serve.scorer.fetcher.cache) == 0

    asyncio.run(go())


def test_two_turns_that_want_one_entity_read_it_once(models: ModelStore, clock: Hand) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50), project=project(max_age_us=AGE_US)) as serve:
            view, fetcher = serve.scorer.served.view("rider_now"), serve.scorer.fetcher
            reads = len(serve.reader.reads)
            serve.reader.hold = asyncio.Event()
            both = asyncio.gather(*(fetcher.fetch({view: [*ids]}, None, {view: 1.0}) for ids in (("ada",), ("ada", "é*"), ("ada",))))
            await asyncio.sleep(0)
            serve.reader.hold.set()
            readings = await both
            assert [len(serve.reader.reads) - reads, serve.reader.reads[-1]] == [2, serve.reader.reads[-2]], "ada's, and the other's"
            found = []
            for reading in readings:
                assert not isinstance(reading, Unread)
                found.append(reading[view].blobs[0])
            assert found[0] is found[1] is found[2]
            serve.reader.fail, clock.s = UnavailableError("gone"), clock.s + 2
            for reading in await asyncio.gather(*(fetcher.fetch({view: ["ada"]}, None, {view: 1.0}) for _ in range(2))):
                assert isinstance(reading, Unread), "who waits for another's read fails with it"

    asyncio.run(go())


def test_a_read_that_is_given_up_is_kept_when_it_comes(models: ModelStore, clock: Hand) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50), project=project(max_age_us=AGE_US)) as serve:
            view, fetcher = serve.scorer.served.view("rider_now"), serve.scorer.fetcher
            serve.reader.hold = asyncio.Event()
            assert isinstance(await fetcher.fetch({view: ["ada"]}, 0.001, {view: 1.0}), Unread)
            serve.reader.hold.set()
            for _ in range(3):
                await asyncio.sleep(0)
            reads = len(serve.reader.reads)
            assert not isinstance(await fetcher.fetch({view: ["ada"]}, 0.0, {view: 1.0}), Unread)
            assert len(serve.reader.reads) == reads

    asyncio.run(go())


def test_where_the_store_does_not_answer_state_of_before_stands_in_and_is_stale(models: ModelStore, clock: Hand) -> None:
    async def go() -> None:
        rig = fed(200)
        async with serving(models, rig=rig, project=project(stale_for_us=STALE_US)) as serve:
            whole = await ask(serve)
            assert whole["degraded"] == []
            serve.reader.fail = UnavailableError("gone")
            clock.s += 599
            answer = await ask(serve)
            assert answer["degraded"] == ["fetch:unavailable", "rider_now:stale", "zone_now:stale"]
            assert {feature["status"] for feature in answer["features"][0].values()} == {"stale"}
            assert answer["scores"] == whole["scores"]
            other = await ask(serve, "tip", "é*", "ada")
            statuses = [{name: feature["status"] for name, feature in row.items()} for row in other["features"]]
            assert {statuses[0]["rider_now:count_1h"], statuses[1]["rider_now:count_1h"]} == {"missing", "stale"}
            assert "rider_now:missing" in other["degraded"]
            serve.scorer.fetcher.breaker = Breaker("online store")
            answered = await ask(serve, "strict")
            assert answered["features"][0]["rider_now:count_1h"]["status"] == "stale", "when_missing=refuse refuses what is missing alone"
            refused = await serve.ask("strict", {"entities": {"rider": "é*", "zone": 7}})
            assert isinstance(refused, Shed)
            assert refused.reason == "missing"
            clock.s += 2
            refused = await serve.ask("strict", {"entities": {"rider": "ada", "zone": 7}})
            assert isinstance(refused, Shed), "it is too old by now"
            rows = serve.logged()
        assert all(recomputes(rig, row) for row in rows if '"é*"' not in str(row["entities"]))
        assert sum("s" in str(row["statuses"]) for row in rows) == 4

    asyncio.run(go())


def test_state_within_max_age_is_as_good_where_the_store_does_not_answer(models: ModelStore, clock: Hand) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200), project=project(max_age_us=AGE_US)) as serve:
            await ask(serve)
            serve.reader.fail = UnavailableError("gone")
            answer = await ask(serve, "tip", "ada", "é*")
            statuses = [row["rider_now:count_1h"]["status"] for row in answer["features"]]
            assert statuses == ["present", "missing"]
            assert answer["degraded"] == ["fetch:unavailable", "rider_now:missing"]

    asyncio.run(go())


def test_models_of_one_turn_take_state_as_old_as_the_strictest_of_them_says(models: ModelStore, clock: Hand) -> None:
    tip, strict = WITH_MODELS.models
    mixed = msgspec.structs.replace(WITH_MODELS, models=(msgspec.structs.replace(tip, max_age_us=AGE_US), strict))

    async def go() -> None:
        async with serving(models, rig=fed(50), project=mixed) as serve:
            await ask(serve)
            reads = len(serve.reader.reads)
            both = [serve.begin("tip", body()), serve.begin("strict", {"entities": {"rider": "ada", "zone": 7}})]
            await asyncio.gather(*both)
            assert len(serve.reader.reads) == reads + 1, "strict reads each time"
            await ask(serve)
            assert len(serve.reader.reads) == reads + 1

    asyncio.run(go())


def test_a_store_that_does_not_answer_is_asked_no_more_for_a_while(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50)) as serve:
            hand = Hand()
            serve.scorer.fetcher.breaker = Breaker("online store", now_s=hand)
            upkeep = Upkeep(serve.scorer, serve.rig.memory_log)
            assert upkeep.ready().ready
            serve.reader.fail = UnavailableError("gone")
            degraded = [(await ask(serve))["degraded"] for _ in range(3)]
            assert degraded == [["fetch:unavailable", "rider_now:missing", "zone_now:missing"]] * 3
            reads = len(serve.reader.reads)
            assert (await ask(serve))["degraded"][0] == "fetch:circuit_open"
            assert len(serve.reader.reads) == reads
            ready = upkeep.ready()
            assert not ready.ready
            assert (ready.breakers, "gone" in ready.down["online store"]) == ({"online store": "open"}, True)
            serve.reader.fail = None
            hand.s += FIRST_S * 1.01
            assert not upkeep.ready().ready
            await serve.scorer.fetcher.look_again()
            assert upkeep.ready().ready, "though no request came: who is not ready is sent none"
            assert (await ask(serve))["degraded"] == []
            text = serve.metrics.text().decode()
            assert "featureflow_feature_cache_bytes 0.0" in text

    asyncio.run(go())


def test_reads_without_a_deadline_wait_for_each_other_where_a_breaker_would_refuse_them(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(50)) as serve:
            view, breaker = serve.scorer.served.view("rider_now"), Breaker("online store", BreakerSettings(concurrency=4))
            fetcher = fetch.Fetcher(serve.reader, serve.rig.clock, 10**9, breaker=breaker)
            serve.reader.hold = asyncio.Event()
            many = asyncio.gather(*(fetcher.fetch({view: ["ada"]}, None) for _ in range(20)))
            await asyncio.sleep(0)
            at_once = await fetcher.fetch({view: ["ada"]}, 0.001)
            assert isinstance(at_once, Unread)
            assert at_once.reason == "timeout", "there is room left for those that have one"
            serve.reader.hold.set()
            assert not any(isinstance(reading, Unread) for reading in await many)
            assert breaker.calls["refused"] == 0

    asyncio.run(go())


def test_what_a_cache_holds_is_what_it_says_and_within_its_bound() -> None:
    rig = Rig()
    assert isinstance(rig.online, MemoryOnlineStore)
    luck, cache = random.Random(3), FeatureCache(40_000)

    class Plan:
        sources = ()

    plan, held = Plan(), dict[int, Entry]()
    shared = [Records(plan, (bytes(luck.randrange(400)),)) for _ in range(5)]  # type: ignore[arg-type]  # of no view
    for _ in range(3_000):
        number = luck.randrange(200)
        entry = Entry((b"key%d" % number,), luck.random())
        entry.blobs, entry.records = (bytes(luck.randrange(2_000)),), luck.choice(shared)
        if luck.random() < 0.5:
            cache.listen(entry)
        cache.put((plan, number), entry)  # type: ignore[arg-type]
        held[number] = entry
        if luck.random() < 0.3:
            key = luck.randrange(200)
            found = cache.get((plan, key))  # type: ignore[arg-type]
            assert found is None or found is held[key]
            if found is not None:
                cache.renew(found, luck.choice(shared), 5.0)
        if luck.random() < 0.1:
            cache.changed([b"key%d" % luck.randrange(200)])
        assert 0 < cache.bytes <= 40_000
    assert cache.evicted > 100
    cache.clear()
    assert (cache.bytes, len(cache), [records.entries for records in shared]) == (0, 0, [0] * 5)


def test_only_what_has_not_changed_since_is_told_of() -> None:
    cache = FeatureCache()
    entries = [Entry((b"a%d" % i, b"b%d" % i), 0.0) for i in range(3)]
    for entry in entries:
        cache.listen(entry)
    cache.changed([b"b1", b"unknown"])
    assert [entry.told for entry in entries] == [True, False, True]
    again = Entry(entries[0].names, 1.0)
    cache.listen(again)
    assert (entries[0].told, again.told) == (False, True)
    cache.changed(None)
    assert not any(entry.told for entry in (*entries, again))


