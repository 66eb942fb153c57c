"""Features that are strings: from the log through the worker, the scorer and its log, to the bit of what the kernel recomputes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from serve_rig import listening, serving, train
from trips import LIFETIME
from unit.serve.test_routes import get, post
from worker_rig import PROJECT, TRIP, WINDOWS, ZONES, Rig

from featureflow.define.spec import (
    Aggregation,
    Call,
    Column,
    Input,
    Literal,
    Model,
    Payload,
    Project,
    View,
)
from featureflow.define.version import with_version
from featureflow.kernel.finalize import Status
from featureflow.models.store import ModelStore

RIDER, FARE = Column("rider"), Column("fare")
HISTORY = (Payload(FARE), Payload(RIDER, 4))
ZONE_LAST = with_version(
    View(
        name="zone_last",
        entity="zone",
        join_key="zone",
        keys={"trip": "zone"},
        aggregations=(
            Aggregation(name="trips", op="count", source="trip", value=None, where=None, windows=WINDOWS, default=0.0),
            Aggregation(name="rider", op="last", source="trip", value=RIDER, where=None, windows=WINDOWS, width=4, default="nil"),
            Aggregation(
                name="dear", op="max_by", source="trip", value=RIDER, where=Call("gt", (FARE, Literal(30.0))), windows=WINDOWS[:1],
                width=4, by=FARE,
            ),
            *(
                Aggregation(
                    name=f"history_{name}", op="last_n", source="trip", value=kept.value, where=None, windows=(LIFETIME,), bare=True,
                    size=3, width=kept.width, entry=HISTORY,
                )
                for name, kept in zip(("fare", "rider"), HISTORY, strict=True)
            ),
        ),
        ttl_us=86_400_000_000,
    ),
    {"trip": TRIP},
)  # fmt: skip
ADA = Model(
    name="ada",
    inputs=(
        Input(name="is_ada", expr=Call("eq", (Column("zone_last:rider_1h"), Literal("ada")))),
        Input(name="nobody", expr=Call("is_null", (Column("zone_last:dear_1m"),))),
        Input(name="fares", expr=Column("zone_last:history_fare"), size=3),
    ),
    deadline_us=60_000_000,
    drift=0.1,
)
STRINGS: Project = msgspec.structs.replace(PROJECT, views=(ZONE_LAST,), models=(ADA,))


def fed(count: int = 300) -> Rig:
    rig = Rig(project=STRINGS)
    worker = rig.worker()
    worker.open()
    rig.produce(count)
    rig.drain(worker)
    return rig


def shown(found: Any, place: int, row: int) -> object:
    """A feature's value as the wire has it."""
    feature = ZONE_LAST.features[place]
    values = (found.texts[place] if feature.is_text else found.values[:, ZONE_LAST.spans[place]])[row].tolist()
    values = [None if value != value else value for value in values]
    return values if feature.is_sequence else values[0]


def test_state_is_what_the_log_says_and_a_string_that_is_too_wide_is_a_dead_letter_of_that_view() -> None:
    rig = fed()
    assert rig.agrees()
    wide = [letter for letter in rig.letters() if letter["reason"] == "too_wide"]
    riders = {rider for part in rig.events() for rider in part.columns["rider"].tolist()}
    assert "bob:{0}" in riders, "seven bytes"
    assert wide
    assert {letter["view"] for letter in wide} == {ZONE_LAST.id}
    found = rig.expected(ZONE_LAST, rig.clock.now_us())
    kept = {rider for strings in found.texts.values() for rider in strings.ravel().tolist()}
    assert {"ada"} < kept <= {"ada", "c\r\nd", "é*", "nil", None}


def test_strings_are_served_as_the_kernel_recomputes_them(tmp_path: Path) -> None:
    async def go() -> None:
        rig, store = fed(), ModelStore(tmp_path)
        train(store, ADA)
        async with serving(store, rig=rig, project=STRINGS) as serve, listening(serve) as server:
            q = rig.clock.now_us() - 1_000_000
            expected = rig.expected(ZONE_LAST, q)
            status, answer, _ = await post(server, "/v1/features/zone_last", {"entities": [*ZONES, 99, None], "at": q})
            assert status == 200
            places = range(len(ZONE_LAST.features))
            for row in range(len(ZONES)):
                assert answer["rows"][row]["values"] == [shown(expected, place, row) for place in places]
                assert answer["rows"][row]["statuses"] == [Status(s).name.lower() for s in expected.statuses[row]]
            assert answer["rows"][2]["values"][3:7] == ["nil", "nil", "nil", None]
            _, one, _ = await get(server, f"/v1/features/zone_last/{ZONES[0]}?at={q}")
            assert one["features"]["rider_1h"]["value"] == shown(expected, 4, 0)
            _, views, _ = await get(server, "/v1/views")
            assert [f["default"] for f in views["views"][0]["features"]][4] == "nil"

    asyncio.run(go())


def test_a_model_compares_them_and_the_log_of_a_score_holds_them(tmp_path: Path) -> None:
    async def go() -> None:
        rig, store = fed(), ModelStore(tmp_path)
        train(store, ADA)
        async with serving(store, rig=rig, project=STRINGS) as serve:
            body = {"rows": [{"entities": {"zone": zone}} for zone in (*ZONES, 99)], "explain": True}
            answer = await serve.ask("ada", body)
            explained = msgspec.json.decode(answer.body)  # type: ignore[union-attr]  # it is answered
            expected = rig.expected(ZONE_LAST, rig.clock.now_us())
            for row in range(len(ZONES)):
                assert explained["features"][row]["zone_last:rider_1h"]["value"] == shown(expected, 4, row)
            logged = serve.logged()
        by_zone = {msgspec.json.decode(record["entities"])["zone"]: record for record in logged}
        for row, zone in enumerate(ZONES):
            assert msgspec.json.decode(by_zone[zone]["texts"]) == [
                value for place in ZONE_LAST.texts for value in expected.texts[place][row].tolist()
            ]

    asyncio.run(go())


def test_lost_state_takes_a_strings_default(tmp_path: Path) -> None:
    async def go() -> None:
        rig, store = fed(), ModelStore(tmp_path)
        train(store, ADA)
        rig.online.drop_view(ZONE_LAST.id)
        async with serving(store, rig=rig, project=STRINGS) as serve, listening(serve) as server:
            _, answer, _ = await post(server, "/v1/features/zone_last", {"entities": [ZONES[0]]})
            assert set(answer["rows"][0]["statuses"]) == {"missing"}
            assert answer["rows"][0]["values"][3:7] == ["nil", "nil", "nil", None]
            assert answer["rows"][0]["values"][8] == [None, None, None]

    asyncio.run(go())


def test_places_of_the_features_above() -> None:
    """The tests name features by their place."""
    assert [ZONE_LAST.features[i].name for i in (3, 4, 6, 8)] == ["rider_1m", "rider_1h", "dear_1m", "history_rider"]
    assert np.array_equal(ZONE_LAST.texts, [3, 4, 5, 6, 8])
