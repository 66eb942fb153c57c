"""Features that are looked at together: one read for all, and each caller told of its own entities alone."""

from __future__ import annotations

import asyncio
import json

import pytest
from serve_rig import Listening, fed, listening, serving

from featureflow import limits
from featureflow.errors import UnavailableError
from featureflow.models.store import ModelStore
from featureflow.reading.features import Features


def test_what_is_asked_while_a_read_is_on_its_way_is_read_together_next(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            rider, zone = serve.scorer.served.view("rider_now"), serve.scorer.served.view("zone_now")
            serve.reader.hold, before = asyncio.Event(), len(serve.reader.reads)
            first = serve.scorer.lookups.ask(rider, ["ada"])
            while len(serve.reader.reads) == before:
                await asyncio.sleep(0)
            others = [serve.scorer.lookups.ask(rider, ["ada", None, "ada"]), serve.scorer.lookups.ask(zone, [7, -3])]
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(serve.reader.reads) == before + 1
            serve.reader.hold.set()
            found = await asyncio.gather(first, *others)
            assert len(serve.reader.reads) == before + 2
            assert [features.ids for _, features in found] == [["ada"], ["ada", None, "ada"], [7, -3]]
            alone = await serve.scorer.features(rider, ["ada"], found[0][0])
            for row in (0, 2):
                assert _same(found[1][1], row, alone[1], 0)
            assert found[1][1].statuses[1].tolist() != found[1][1].statuses[0].tolist()

    asyncio.run(go())


def test_a_damaged_entity_is_told_of_to_whom_asked_for_it_and_to_nobody_else(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed(200)
        async with serving(models, rig=rig) as serve:
            rider = serve.scorer.served.view("rider_now")
            rig.online.damage(rider.state_keys("ada")[0], b"\x07broken")
            ask = serve.scorer.lookups.ask
            mine, other = await asyncio.gather(ask(rider, ["ada", "bob:{0}"]), ask(rider, ["bob:{0}"]))
            assert mine[1].degraded == ("rider_now:corrupt",)
            assert other[1].degraded == ()
            assert _same(mine[1], 1, other[1], 0)

    asyncio.run(go())


def test_a_read_that_fails_is_told_to_each_and_the_next_is_another(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            rider = serve.scorer.served.view("rider_now")
            serve.reader.fail = UnavailableError("gone")
            several = [serve.scorer.lookups.ask(rider, ["ada"]) for _ in range(3)]
            for one in several:
                with pytest.raises(UnavailableError, match="gone"):
                    await one
            serve.reader.fail = None
            assert (await serve.scorer.lookups.ask(rider, ["ada"]))[1].degraded == ()

    asyncio.run(go())


def test_one_read_is_of_no_more_ids_than_a_request_may_have_and_of_nobody_who_left(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            rider = serve.scorer.served.view("rider_now")
            per_id, before = rider.keys_per_id, len(serve.reader.reads)
            ids = [[f"r{n}-{i}" for i in range(600)] for n in range(4)]
            several = [serve.scorer.lookups.ask(rider, [*some]) for some in ids]
            several[1].cancel()
            await asyncio.gather(*several, return_exceptions=True)
            reads = serve.reader.reads[before:]
            assert [read // (per_id * 600) for read in reads] == [1, 1, 1]
            assert limits.ROWS_PER_REQUEST == 1_000

    asyncio.run(go())


def test_plain_requests_for_features_are_answered_without_aiohttp_as_it_would_answer_them(models: ModelStore) -> None:
    bodies = [
        {"entities": ["ada", None, "nobody"]}, {"entities": []}, {"entities": [{"rider": "ada"}], "at": None}, {"entities": [7]}, {},
        {"entities": ["ada"], "at": "x"},
    ]  # fmt: skip

    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            for view in ("rider_now", "zone_now", "nothing"):
                for body in bodies:
                    plain, other = [await _asked(server, view, body, more) for more in (b"", b"TE: trailers\r\n")]
                    assert plain == other, (view, body)
            assert server.connections.others.requests_count == 3 * len(bodies)
            counts = serve.metrics.requests._counts
            assert counts["features", 200] == 10
            assert sum(n for (route, _), n in counts.items() if route == "features") == 6 * len(bodies)

    asyncio.run(go())


def _same(a: Features, row: int, b: Features, other: int) -> bool:
    return (a.values[row].tobytes(), a.statuses[row].tobytes()) == (b.values[other].tobytes(), b.statuses[other].tobytes())


async def _asked(server: Listening, view: str, body: object, more: bytes) -> tuple[int, object]:
    """Status and body; the clock of the rig stands still."""
    raw = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = b"POST /v1/features/%b HTTP/1.1\r\nHost: x\r\nX-Request-ID: r\r\n%bContent-Length: %d\r\n\r\n"
    writer.write(head % (view.encode(), more, len(raw)) + raw)
    lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).split(b"\r\n")
    (length,) = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")]
    said = json.loads(await reader.readexactly(length))
    writer.close()
    return int(lines[0].split()[1]), said
