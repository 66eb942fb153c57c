"""HTTP over loopback: every route, and what it says to a caller who is wrong, slow or hostile."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_rig import TRIP, Listening, Rig, fed, listening, serving
from worker_rig import RIDERS, SECOND_US

from featureflow import limits
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import UnavailableError
from featureflow.models.store import ModelStore
from featureflow.reading import features
from featureflow.serve import routes
from featureflow.store.keys import Keys

KEYS = Keys(DEFAULT_PROJECT)
GOOD = {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}}
PATHS = ("/v1/score/tip", "/v1/events/trip", "/v1/features/rider_now", "/v1/features/zone_now")


async def post(server: Listening, path: str, body: object, **more: Any) -> tuple[int, Any, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with server.client.post(server.url + path, data=io.BytesIO(data), **more) as response:
        return response.status, json.loads(await response.read()), response.headers


async def get(server: Listening, path: str) -> tuple[int, Any, Any]:
    from yarl import URL

    async with server.client.get(URL(server.url + path, encoded=True)) as response:
        raw = await response.read()
        return (
            response.status,
            json.loads(raw) if "json" in response.headers["Content-Type"] else raw.decode(),
            response.headers,
        )


def test_a_score_over_http(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            status, answer, headers = await post(server, "/v1/score/tip", GOOD, headers={"X-Request-ID": "mine-1"})
            assert status == 200
            assert headers["X-Request-ID"] == answer["request_id"] == "mine-1"
            assert headers["Content-Type"] == "application/json"
            assert 0 < answer["scores"][0] < 1
            status, answer, headers = await post(server, "/v1/score/tip", GOOD, headers={"X-Request-ID": "has space"})
            assert headers["X-Request-ID"] == answer["request_id"] != "has space"

    asyncio.run(go())


def test_features_of_many_ids_come_from_one_read_with_the_offsets_they_stand_for(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed(200)
        async with serving(models, rig=rig) as serve, listening(serve) as server:
            serve.reader.reads.clear()
            q = rig.clock.now_us() - 5 * SECOND_US
            ids = [*RIDERS, {"rider": "nobody"}, None]
            status, answer, _ = await post(server, "/v1/features/rider_now", {"entities": ids, "at": q})
            assert status == 200
            assert len(serve.reader.reads) == 1
            assert (answer["q"], answer["degraded"]) == (q, [])
            assert answer["applied"] == {"trip": {str(p): o for p, o in rig.log.topic(TRIP.topic).end.items()}}
            assert [row["id"] for row in answer["rows"]] == [*RIDERS, "nobody", None]
            view = serve.scorer.served.view("rider_now").view
            assert answer["features"] == [f.name for f in view.features]
            expected = rig.expected(view, q)
            for row, values, times in zip(
                answer["rows"], expected.values.tolist(), expected.event_times_us.tolist(), strict=False
            ):
                assert row["values"] == [None if v != v else v for v in values]
                assert [t for t in row["event_times_us"] if t is not None] == [t for t in times if t > 0]
            assert set(answer["rows"][-1]["statuses"]) == {"default"}

    asyncio.run(go())


def test_an_instant_that_state_cannot_answer_is_refused_on_every_path_with_what_to_do(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        rig = fed(200)
        async with serving(models, rig=rig) as serve, listening(serve) as server:
            then = rig.clock.now_us() - 5 * SECOND_US
            old, recent = then - 40 * 86_400 * SECOND_US, then
            command = "featureflow get rider_now ID --at"

            async def ask(at: int) -> list[tuple[int, Any]]:
                found = [await get(server, f"/v1/features/rider_now/ada?at={at}")]
                found.append(await post(server, "/v1/features/rider_now", {"entities": ["ada", "nobody"], "at": at}))
                return [(status, answer) for status, answer, _ in found]

            for status, answer in await ask(old):
                assert status == 422
                assert "rolled up" in answer["detail"]
                assert command in answer["detail"]
            (status, right), (posted, _) = await ask(recent)
            assert (status, posted) == (200, 200)
            status, answer, _ = await post(server, "/v1/score/tip", {**GOOD, "at": recent})
            assert (status, "at" in answer["detail"]) == (422, True), "a score is of now"
            rig.clock.advance(2 * 86_400 * SECOND_US)             # the state's time to live has passed
            for status, answer in await ask(recent):
                assert status == 422
                assert "may have had some that counts then" in answer["detail"]
                assert command in answer["detail"]
            assert [status for status, _ in await ask(rig.clock.now_us())] == [200, 200]
            monkeypatch.setattr(features, "expired", lambda *anything: {})
            (status, answer), _ = await ask(recent)
            assert status == 200
            assert answer["features"]["count_1h"]["value"] != right["features"]["count_1h"]["value"], "without the guard it would be wrong"

    asyncio.run(go())


def test_features_of_one_entity_by_get_whatever_its_id_holds(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            for rider in RIDERS:
                status, answer, _ = await get(server, f"/v1/features/rider_now/{quote(rider, safe='')}")
                assert (status, answer["id"]) == (200, rider)
                assert answer["features"]["count_1h"]["status"] == "present"
            status, answer, _ = await get(server, "/v1/features/zone_now/-3?at=2023-11-14T22:13:30%2B00:00")
            assert (status, answer["id"], answer["at"]) == (200, -3, "2023-11-14T22:13:30.000000Z")
            for path, status in (
                ("/v1/features/zone_now/x", 422),
                ("/v1/features/zone_now/" + "9" * 30, 422),
                ("/v1/features/zone_now/7?at=noon", 422),
                ("/v1/features/rider_now/%ff", 400),
                ("/v1/features/rider_now/", 422),
                ("/v1/features/nope/1", 404),
                ("/v1/features/rider_now", 405),
                ("/v1/features/rider_now/ada?at=1000000", 422),
            ):
                found, answer, headers = await get(server, path)
                assert (path, found) == (path, status)
                assert headers["Content-Type"] == "application/problem+json"
                assert answer["detail"]

    asyncio.run(go())


def test_events_are_answered_with_their_positions_once_they_are_in_the_log(models: ModelStore) -> None:
    async def go() -> None:
        rig = Rig()
        async with serving(models, rig=rig) as serve, listening(serve) as server:
            event = {"at": rig.clock.now_us(), "rider": "ada", "fare": 3.5, "extra": [1]}
            status, answer, _ = await post(
                server, "/v1/events/trip", event, headers={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
            )
            assert status == 200
            (first,) = answer["positions"]
            status, answer, _ = await post(server, "/v1/events/trip", [event] * 3)
            assert status == 200
            assert [p["partition"] for p in answer["positions"]] == [first["partition"]] * 3
            assert [p["offset"] for p in answer["positions"]] == [1, 2, 3]
            worker = rig.worker()
            worker.open()
            rig.drain(worker)
            _, features, _ = await get(server, "/v1/features/rider_now/ada")
            assert features["features"]["count_1h"]["value"] == 4.0
            assert features["features"]["sum_1h"]["value"] == 14.0

    asyncio.run(go())


def test_events_that_are_none_are_refused_together_with_a_reason_each_and_nothing_is_appended(
    models: ModelStore,
) -> None:
    async def go() -> None:
        rig = Rig()
        async with serving(models, rig=rig) as serve, listening(serve) as server:
            good = {"at": rig.clock.now_us(), "rider": "ada"}
            status, answer, _ = await post(server, "/v1/events/trip", [good, {**good, "fare": "x"}, {"rider": "ada"}])
            assert status == 422
            assert [(r["index"], r["reason"]) for r in answer["refused"]] == [(1, "wrong_type"), (2, "missing_field")]
            for body in (
                b"",
                b"[]",
                b"[1",
                b"5",
                b'[{"at": NaN}]',
                b'{"at": 1e400}',
                [good] * (limits.ROWS_PER_REQUEST + 1),
            ):
                assert (await post(server, "/v1/events/trip", body))[0] in (400, 422)
            assert (await post(server, "/v1/events/predictions", good))[0] == 404
            assert set(rig.log.topic(TRIP.topic).end.values()) == {0}

    asyncio.run(go())


def test_what_there_is_can_be_looked_at(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed(200)
        async with serving(models, rig=rig) as serve, listening(serve) as server:
            _, views, _ = await get(server, "/v1/views")
            assert [v["name"] for v in views["views"]] == ["rider_now", "zone_now"]
            assert {p["partition"]: p["offset"] for p in views["views"][0]["sources"]["trip"]} == rig.log.topic(
                TRIP.topic
            ).end
            _, listed, _ = await get(server, "/v1/models")
            assert listed["models"][0]["loaded"]["variant"] == "fp32"
            assert listed["models"][0]["entities"] == ["rider", "zone"]
            assert (await get(server, "/healthz"))[:2] == (200, {"status": "ok"})
            ready = {"ready": True, "down": {}, "warnings": {}, "breakers": {"online store": "closed"}}
            assert (await get(server, "/readyz"))[:2] == (200, ready)
            assert (await get(server, "/openapi.json"))[1]["openapi"] == "3.1.0"
            assert "POST /v1/score/tip" in (await get(server, "/"))[1]
            await post(server, "/v1/score/tip", GOOD)
            text = (await get(server, "/metrics"))[1]
            for name in (
                'featureflow_requests_total{route="score",status="200"} 1.0',
                "model_inference_duration_seconds_count",
                "inference_latency_p95",
                'featureflow_request_seconds_bucket{le="0.001",stage="fetch"}',
                "featureflow_score_seconds_count 1.0",
                'featureflow_scores_total{model="tip",provider="cpu",variant="fp32"} 1.0',
            ):
                assert name in text, name
            rig.online.damage(KEYS.offset(serve.scorer.served.view("rider_now").view.id, "trip", 1), None)
            assert (await get(server, "/v1/views"))[1]["views"][0]["sources"]["trip"][1]["offset"] is None

    asyncio.run(go())


def test_wrong_methods_and_paths_say_what_to_use(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models) as serve, listening(serve) as server:
            status, _, headers = await get(server, "/v1/score/tip")
            assert (status, headers["Allow"]) == (405, "POST")
            status, _, headers = await post(server, "/healthz", {})
            assert (status, headers["Allow"]) == (405, "GET")
            assert (await get(server, "/nope"))[0] == 404
            assert (await post(server, "/v1/score/nope", GOOD))[0] == 404
            assert (await post(server, "/v1/score/tip@no/pe", GOOD))[0] == 404

    asyncio.run(go())


def test_a_store_that_is_down_is_a_503_with_a_time_to_come_back_and_readiness_says_so(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            serve.reader.fail = UnavailableError("Redis at x does not answer; see online.url")
            for status, answer, headers in (
                await get(server, "/v1/views"),
                await get(server, "/v1/features/rider_now/ada"),
                await post(server, "/v1/score/strict", {"entities": GOOD["entities"]}),
            ):
                assert status == 503
                assert int(headers["Retry-After"]) >= 1
                assert headers["Content-Type"] == "application/problem+json"
                assert answer["detail"]
            assert (await get(server, "/healthz"))[0] == 200

    asyncio.run(go())


DEEP = b"[" * (limits.JSON_DEPTH + 2) + b"]" * (limits.JSON_DEPTH + 2)      # a list of events is a level of its own


@pytest.mark.parametrize(
    ("path", "body", "elsewhere"),
    [
        ("score/tip", b'{"entities": {"rider": "ada", "zone": 7}, "context": %b}', 422),
        ("score/tip", b'{"rows": [{"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 1, "unknown": %b}}]}', 422),
        ("rank/tip", b'{"recalls": [{"source": "a", "ids": %b}]}', 422),
        ("features/rider_now", b'{"entities": %b}', 422),
        ("features/rider_now", b"%b", 422),
        ("events/trip", b'{"unknown": %b}', 422),
        ("events/trip", b'[{"unknown": 1}, {"unknown": %b}]', 422),
        ("events/trip", b"%b", 422),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_a_body_that_is_nested_too_deeply_is_refused_as_that_on_every_route(
    models: ModelStore, path: str, body: bytes, elsewhere: int, broken: bool
) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(20)) as serve, listening(serve) as server:
            for deep, status in ((DEEP, 400), (b"[" * 300_000, 400), *(() if broken else ((b"[[[]]]", elsewhere),))):
                sent = (body % deep)[: -1 if broken else None]
                for more in ({}, {"TE": "trailers"}):              # by either reader of requests
                    found, said, _ = await post(server, f"/v1/{path}", sent, headers=more)
                    assert found == status, said
                    if status == 400:
                        assert said["title"] == "Body is nested too deeply"
                        assert f"may be {limits.JSON_DEPTH} levels deep" in said["detail"]

    asyncio.run(go())


def test_an_event_may_nest_as_deep_in_a_list_as_by_itself(models: ModelStore) -> None:
    async def go() -> None:
        rig = Rig()
        async with serving(models, rig=rig) as serve, listening(serve) as server:
            inner = limits.JSON_DEPTH - 1                          # in the event, which is a level itself
            event = b'{"at": %d, "rider": "ada", "extra": %b}' % (rig.clock.now_us(), b"[" * inner + b"]" * inner)
            for sent in (event, b"[" + event + b"]"):
                assert (await post(server, "/v1/events/trip", sent))[0] == 200

    asyncio.run(go())


def test_bodies_are_bounded_in_bytes_and_time(models: ModelStore) -> None:
    async def go() -> None:
        # who still sends when the rest of a body is read no more may lose the answer
        async with serving(models) as serve, listening(serve, linger_s=60.0) as server, listening(serve, body_s=0.05) as hurried:
            status, answer, _ = await post(server, "/v1/score/tip", b" " * (limits.REQUEST_BYTES + 1))
            assert (status, answer["status"]) == (413, 413)
            status, _, _ = await post(server, "/v1/score/tip", b"x", headers={"Content-Encoding": "gzip"})
            assert status == 415
            reader, writer = await asyncio.open_connection(hurried.host, hurried.port)
            writer.write(b"POST /v1/events/trip HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert (await reader.readline()).split()[1] == b"408"
            writer.close()
            await writer.wait_closed()

            async def endless() -> Any:
                for _ in range(40):
                    yield b" " * 65_536

            async with server.client.post(f"{server.url}/v1/score/tip", data=endless()) as response:
                assert response.status == 413

    asyncio.run(go())


def test_bodies_are_bounded_all_together_until_they_are_answered(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve, bodies_bytes=300_000) as server:
            held = server.connections.routes.bodies.held
            _, slow = await asyncio.open_connection(server.host, server.port)
            slow.write(b"POST /v1/events/trip HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b" " * 250_000)
            while held.taken < 250_000:
                await asyncio.sleep(0)
            large = json.dumps(GOOD).encode() + b" " * 100_000
            status, answer, headers = await post(server, "/v1/score/tip", large)
            assert (status, headers["Retry-After"]) == (503, "1")
            assert "250,000 bytes" in answer["detail"]
            assert 'featureflow_shed_total{reason="bodies"} 1.0' in serve.metrics.text().decode()
            assert held.taken == 250_000
            slow.transport.abort()
            while held.taken:
                await asyncio.sleep(0)
            assert (await post(server, "/v1/score/tip", large))[0] == 200
            assert held.taken == 0

    asyncio.run(go())


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_the_server(
    models: ModelStore, capsys: pytest.CaptureFixture[str]
) -> None:
    async def go() -> None:
        async with serving(models) as serve, listening(serve) as server:
            _, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(b"POST /v1/events/trip HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            while not any(connection._current_request for connection in server.connections.others.connections):
                await asyncio.sleep(0)
            writer.transport.abort()
            while not (counts := serve.metrics.requests._counts):
                await asyncio.sleep(0)
            assert list(counts) == [("events", 400)]

    asyncio.run(go())
    assert "request_failed" not in capsys.readouterr().out


async def talk(server: Listening, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(raw)
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_connections_are_kept_pipelined_and_closed_as_http_says(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            body = json.dumps(GOOD).encode()
            one = b"POST /v1/score/tip HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b"
            kept, closed = one % (len(body), b"", body), one % (len(body), b"Connection: close\r\n", body)
            answers = await talk(server, kept * 5 + closed)
            assert answers.count(b"HTTP/1.1 200 OK\r\n") == 6
            assert answers.count(b"Connection: close\r\n") == 1
            old = await talk(server, b"GET /healthz HTTP/1.0\r\n\r\n")
            assert b" 200 OK\r\n" in old
            assert old.endswith(b'{"status":"ok"}')
            head = await talk(server, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b" 405 " in head.split(b"\r\n")[0]
            assert head.endswith(b"\r\n\r\n")
            assert b" 400 " in (await talk(server, b"\x16\x03\x01 nonsense\r\n\r\n")).split(b"\r\n")[0]

    asyncio.run(go())


def test_a_client_that_asks_and_does_not_read_cannot_fill_the_servers_memory(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models) as serve, listening(serve) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port, limit=1_000)
            one = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
            writer.write(one * 5_000)
            while not server.connections.others.connections:
                await asyncio.sleep(0)
            (connection,) = server.connections.others.connections
            held = -1
            while held != (now := connection.transport.get_write_buffer_size()) or not now:
                held = now
                for _ in range(200):
                    await asyncio.sleep(0)
            assert held < 1_000_000
            assert serve.metrics.requests._counts[("/openapi.json", 200)] < 5_000
            writer.transport.abort()
            assert reader is not None

    asyncio.run(go())


def test_no_request_is_answered_with_500_and_every_problem_says_what_to_change(models: ModelStore) -> None:
    json_values = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=20)
        | st.sampled_from([":{}\r\n\0", "ada", 7, "2023-11-14T22:13:30Z", "\ud800", 1e308, -(2**63)]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "entities",
                        "context",
                        "rows",
                        "explain",
                        "deadline_ms",
                        "at",
                        "rider",
                        "zone",
                        "hour",
                        "fare",
                        "x",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
    huge = {
        "lists": b"[" * 200_000,
        "objects": b'{"entities":' * 80_000,
        "a string": b'{"a":"' + b"x" * 900_000 + b'"}',
        "bom": b"\xef\xbb\xbf{}",
        "no utf-8": b'{"entities":{"rider":"\xc3\x28","zone":1}}',
    }
    bodies = (
        json_values.map(lambda value: json.dumps(value).encode())
        | st.binary(max_size=60)
        | st.sampled_from(sorted(huge))
    )
    ids = st.text(max_size=12) | st.sampled_from([":{}\r\n\0", "%", "..", "a/b", "@", "\x00"])

    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            loop = asyncio.get_running_loop()

            @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(st.sampled_from(PATHS), bodies, ids)
            def fuzz(path: str, body: bytes | str, name: str) -> None:
                asyncio.run_coroutine_threadsafe(one(server, path, body, name), loop).result(120)

            await asyncio.to_thread(fuzz)
            assert "500" not in {str(status) for _, status in serve.metrics.requests._counts}
            assert (await post(server, "/v1/score/tip", GOOD))[0] == 200

    async def one(server: Listening, path: str, asked: bytes | str, name: str) -> None:
        body = huge[asked] if isinstance(asked, str) else asked
        for status, answer, headers in (
            await post(server, path, body),
            await get(server, f"/v1/features/rider_now/{quote(name.encode('utf-8', 'replace'), safe='')}"),
            await get(server, f"/v1/features/{quote(name.encode('utf-8', 'replace'), safe='')}/1"),
        ):
            assert status in (200, 400, 404, 405, 413, 422), (status, answer)
            if status != 200:
                assert headers["Content-Type"] == "application/problem+json"
                assert answer["status"] == status
                assert answer["detail"]

    asyncio.run(go())


def test_a_fault_of_the_server_is_logged_with_the_request_id_and_tells_the_caller_nothing_else(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError("secret")

    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve, listening(serve) as server:
            monkeypatch.setattr(routes.catalog, "models", broken)
            status, answer, _ = await get(server, "/v1/models")
            assert status == 500
            assert "secret" not in msgspec.json.encode(answer).decode()
            assert answer["request_id"] in capsys.readouterr().out

    asyncio.run(go())
