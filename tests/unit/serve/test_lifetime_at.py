"""An instant that is named, of values that are kept as one row of all events: exact, or refused. For now it is answered as ever."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest
from serve_rig import listening, serving
from trips import LIFETIME, SOURCES, events
from trips import PROJECT as TRIPS
from unit.serve.test_routes import get, post
from worker_rig import PROJECT, SECOND_US, TRIP, ZONES, Rig

from featureflow.define.spec import Aggregation, Column, View
from featureflow.define.version import with_version
from featureflow.kernel.fold import lift_rows
from featureflow.kernel.state import encode
from featureflow.models.store import ModelStore
from featureflow.reading import features
from featureflow.reading.fetch import Reading
from featureflow.reading.plan import Plan


def ever(ttl_us: int | None) -> View:
    """Of a zone, whose events are in every partition."""
    return with_version(
        View(
            name="zone_ever",
            entity="zone",
            join_key="zone",
            keys={"trip": "zone"},
            aggregations=(
                Aggregation(name="n", op="count", source="trip", value=None, where=None, windows=(LIFETIME,), default=0.0),
                Aggregation(
                    name="fares", op="last_n", source="trip", value=Column("fare"), where=None, windows=(LIFETIME,), bare=True, size=3
                ),
            ),
            ttl_us=ttl_us,
        ),
        {"trip": TRIP},
    )


@pytest.mark.parametrize("ttl_us", [None, 7_200 * SECOND_US])
def test_an_instant_before_an_entitys_newest_event_is_refused(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch, ttl_us: int | None
) -> None:
    async def go() -> None:
        project = msgspec.structs.replace(PROJECT, views=(ever(ttl_us),))
        rig = Rig(project=project)
        worker = rig.worker()
        worker.open()
        now = rig.clock.now_us()
        seven, other = ZONES
        rig.append([rig.trip(at=now + ago * SECOND_US, zone=zone) for zone, ago in ((seven, -90), (seven, -60), (other, -90), (other, 5))])
        rig.drain(worker)
        async with serving(models, rig=rig, project=project) as serve, listening(serve) as server:

            async def count(zone: int, at: int | None = None) -> tuple[int, object]:
                path = f"/v1/features/zone_ever/{zone}" + ("" if at is None else f"?at={at}")
                status, answer, _ = await get(server, path)
                return status, answer["features"]["n_lifetime"]["value"] if status == 200 else answer["detail"]

            then = now - 60 * SECOND_US
            assert await count(seven, then) == (200, 2), "the newest event is of this very instant"
            for zone, at in ((seven, then - 1), (other, then), (other, now + 5 * SECOND_US - 1)):
                status, detail = await count(zone, at)
                assert status == 422, (zone, at)
                assert "newer" in str(detail)
                assert "featureflow get zone_ever ID --at" in str(detail)
            status, answer, _ = await post(server, "/v1/features/zone_ever", {"entities": [seven, 99, None, other], "at": then})
            assert (status, "1 of 4 ids, the first -3" in answer["detail"]) == (422, True)
            assert await count(99, then) == (200, 0), "nobody's events are newer"
            assert rig.clock.now_us() < now + 5 * SECOND_US, "the newest event is still to come"
            assert await count(other) == (200, 2), "for now the state answers with all it has folded"
            monkeypatch.setattr(features, "newer", lambda *anything: {})
            assert await count(seven, then - 1) == (200, 2), "without the guard it would be wrong"

    asyncio.run(go())


def test_each_source_of_a_view_is_looked_at_by_itself() -> None:
    """A view of two events: one has windows whose tiles tell its events apart, the other has not."""
    plan = Plan(TRIPS, dict.fromkeys(SOURCES, 1), 1).views["aircraft_now"]
    ids = [f"N{i}" for i in range(1, 30)]
    columns, times = [], {}
    for number, source in enumerate(plan.sources):
        part = events(40 + number, 0, 200)
        rows, of = lift_rows(source.layout, part)
        owner = np.array([ids.index(one) if one in ids else -1 for one in part.columns["aircraft"][of].tolist()])
        none = np.zeros(len(source.layout.levels) - 1, np.int64)
        columns.append([(encode(source.layout, 0, 0, none, rows[owner == place]),) for place in range(len(ids))])
        times[source.name] = (part.columns["aircraft"], part.times_us)
    reading = Reading(plan, list(ids), [0] * len(ids), [], [sum(parts, ()) for parts in zip(*columns, strict=True)])
    q = int(np.quantile(times["arrival"][1], 0.85))
    of, at = times["arrival"]
    wanted = {place for place, one in enumerate(ids) if (at[of == one] > q).any()}
    of, at = times["departure"]
    others = {place for place, one in enumerate(ids) if (at[of == one] > q).any()}
    assert 0 < len(wanted) < len(ids)
    assert others - wanted, "some have newer events of the other source alone, which are left out by their tiles"
    found = features.newer(reading, q)
    assert found.keys() == wanted
    assert all("arrival" in why for why in found.values())
