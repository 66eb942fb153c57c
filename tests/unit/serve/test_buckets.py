"""State in several buckets, of which one is behind or lost: what is said of whom."""

from __future__ import annotations

import asyncio
import base64

import msgspec
import numpy as np
import pytest
from replay import recompute
from serve_rig import ServeRig, fed, listening, serving
from worker_rig import PROJECT, RIDERS, SECOND_US, TRIP, Rig

from featureflow.kernel.finalize import ViewKernel
from featureflow.models.store import ModelStore
from featureflow.serve.answer import Answer
from featureflow.serve.catalog import views
from featureflow.store.keys import tag_of
from featureflow.store.mirror import BUCKETS_DOCUMENT
from featureflow.store.online.memory import MemoryOnlineStore

RIDER, ZONE = PROJECT.views
BUCKETS = 3
ASKED = {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}


class Behind:
    """A rig in three buckets; that of "ada" fell back to where it was before the last events."""

    def __init__(self) -> None:
        self.rig = Rig(buckets=BUCKETS)
        assert isinstance(self.rig.online, MemoryOnlineStore)
        self.online = self.rig.online
        worker = self.rig.worker()
        worker.open()
        self.rig.produce(150)
        self.rig.drain(worker)
        earlier = self.online.snapshot()
        self.rig.produce(150)
        self.rig.drain(worker)
        worker.close()
        self.bucket = self.rig.keys.buckets[self.rig.keys.number("ada")]
        self.offset_key = self.rig.keys.offset(RIDER.id, "trip", 0, self.bucket)
        self.online.roll_back(earlier, tag_of(self.offset_key))

    def of_its_bucket(self) -> set[str]:
        return {rider for rider in RIDERS if self.rig.keys.number(rider) == self.bucket.number}


async def ask(serve: ServeRig, *, explain: bool = False) -> dict[str, object]:
    rows = [{"entities": {"rider": rider, "zone": 7}, "context": {"hour": 17}} for rider in RIDERS]
    answer = await serve.ask("tip", {"rows": rows, "explain": explain})
    assert isinstance(answer, Answer)
    decoded: dict[str, object] = msgspec.json.decode(answer.body)
    return decoded


def test_each_row_is_logged_with_the_offsets_of_its_entities_buckets_and_recomputes_to_the_same_bytes(models: ModelStore) -> None:
    async def go() -> None:
        behind = Behind()
        async with serving(models, rig=behind.rig) as serve:
            await ask(serve)
            logged = serve.logged()
        upto: dict[str, set[tuple[int, ...]]] = {}
        for row in logged:
            ids, applied = msgspec.json.decode(row["entities"]), msgspec.json.decode(row["applied"])
            parts = []
            for view in (RIDER, ZONE):
                offsets = {int(p): o for p, o in applied[view.name]["trip"].items()}
                q = np.array([row["asked_at"]], np.int64)
                kernel, events = ViewKernel(view, {"trip": TRIP}), {"trip": behind.rig.events()}
                parts.append(recompute(kernel, {"trip": TRIP}, events, [ids[view.join_key]], q, {"trip": offsets}).values.tobytes())
            assert base64.b64decode(row["features"]) == b"".join(parts)
            upto.setdefault(ids["rider"], set()).add(tuple(applied["rider_now"]["trip"].values()))
        late = {rider for rider in RIDERS if sum(*upto[rider]) < 300}
        assert late == behind.of_its_bucket()
        assert 0 < len(late) < len(RIDERS), "the riders are in different buckets"

    asyncio.run(go())


@pytest.mark.parametrize("document", [b"0", b"-1", b"1025", b"99999999", b"many", b"\xff"])
def test_a_number_of_buckets_that_cannot_be_is_said_and_what_is_served_stays(models: ModelStore, document: bytes) -> None:
    async def go() -> None:
        async with serving(models, rig=fed()) as serve:
            serve.rig.online.put_meta(BUCKETS_DOCUMENT, document)
            assert not await serve.scorer.refresh()
            assert "number of buckets" in serve.scorer.served.problem
            assert isinstance(await serve.ask("tip", ASKED), Answer)

    asyncio.run(go())


def test_only_the_entities_of_a_bucket_whose_record_is_lost_are_missing(models: ModelStore) -> None:
    async def go() -> None:
        behind = Behind()
        behind.online.damage(behind.offset_key, None)
        async with serving(models, rig=behind.rig) as serve:
            answer = await ask(serve, explain=True)
            assert "rider_now:missing" in answer["degraded"]
            statuses = {r: row["rider_now:count_1h"]["status"] for r, row in zip(RIDERS, answer["features"], strict=True)}
            assert {rider for rider, status in statuses.items() if status == "missing"} == behind.of_its_bucket()
            (told,) = [view for view in (await views(serve.scorer)).views if view.name == "rider_now"]
            assert told.sources["trip"][0].offset is None, "the partition is as good as its worst bucket"

    asyncio.run(go())


def test_only_the_entities_of_a_bucket_that_is_long_behind_are_stale(models: ModelStore) -> None:
    async def go() -> None:
        behind = Behind()
        worker = behind.rig.worker()
        worker.open()
        behind.rig.drain(worker)
        earlier = behind.online.snapshot()
        behind.rig.clock.advance(60 * SECOND_US)
        for _ in range(3):
            worker.step(timeout_s=0.0, wait=lambda seconds: None)
            behind.rig.clock.advance(1_100_000)
        behind.online.roll_back(earlier, tag_of(behind.offset_key))
        async with serving(models, rig=behind.rig) as serve:
            answer = await ask(serve, explain=True)
            statuses = {r: row["rider_now:count_1h"]["status"] for r, row in zip(RIDERS, answer["features"], strict=True)}
            assert {rider for rider, status in statuses.items() if status == "stale"} == behind.of_its_bucket()

    asyncio.run(go())


def test_features_over_http_name_the_offsets_of_each_row_where_they_differ(models: ModelStore) -> None:
    async def go() -> None:
        behind = Behind()
        async with (
            serving(models, rig=behind.rig) as serve,
            listening(serve) as http,
            http.client.post(f"{http.url}/v1/features/rider_now", json={"entities": list(RIDERS)}) as response,
        ):
            body = await response.json()
        totals = {row["id"]: sum(row.get("applied", body["applied"])["trip"].values()) for row in body["rows"]}
        assert {rider for rider, total in totals.items() if total < 300} == behind.of_its_bucket()
        assert 0 < sum("applied" in row for row in body["rows"]) < len(RIDERS)

    asyncio.run(go())
