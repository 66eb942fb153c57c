"""Features that are looked at together: one read for all, and each caller told of its own entities alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from serve_rig import Listening, ServeRig, fed, listening, serving

from featureflow import limits
from featureflow.errors import FeatureFlowError, UnavailableError
from featureflow.models.store import ModelStore
from featureflow.pending import Pending
from featureflow.reading.features import Features
from featureflow.reading.fetch import Reading, Unread
from featureflow.reading.plan import ViewPlan
from featureflow.serve import lookups
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.explain import rfc3339
from featureflow.serve.lookups import Ids
from featureflow.serve.priority import Caller, Priority
from featureflow.serve.shown import Shown


def begin(
    serve: ServeRig, view: str, ids: Ids, at_us: int | None = None, *, client: str = "", priority: Priority = Priority.NORMAL,
    deadline_ms: float = 60_000.0,
) -> asyncio.Future[tuple[int, Features]]:  # fmt: skip
    """Look at features; the future gives (q, features), or raises what the request ends in."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[tuple[int, Features]] = loop.create_future()

    def show(q_us: int, features: Features, rows: Sequence[int]) -> Answer:
        at, places = list(rows), [features.places[row] for row in rows]
        values, statuses, times = features.values[at], features.statuses[at], features.event_times_us[at]
        own = [features.ids[row] for row in rows]
        found.set_result(
            (q_us, replace(features, ids=own, values=values, statuses=statuses, event_times_us=times, places=places))
        )
        return Answer(200, b"")

    def told(of: asyncio.Future[Answer | Shed | FeatureFlowError]) -> None:
        result = of.result()
        if not isinstance(result, Answer):
            found.set_exception(result if isinstance(result, FeatureFlowError) else NotAnswered(result))

    plan, caller = serve.scorer.served.view(view), Caller(client, priority, deadline_ms)
    lookup = serve.scorer.lookups.ask(plan, ids, at_us, show, since_s=loop.time(), caller=caller)
    lookup.future.add_done_callback(told)
    found.add_done_callback(lambda done: lookup.future.cancel() if done.cancelled() else None)
    return found


class NotAnswered(Exception):
    def __init__(self, shed: Shed) -> None:
        super().__init__(shed.reason)
        self.shed = shed


async def held(serve: ServeRig) -> asyncio.Future[tuple[int, Features]]:
    """A lookup whose read is on its way until ``serve.reader.hold`` is set; what is asked for now waits."""
    serve.reader.hold, before = asyncio.Event(), len(serve.reader.reads)
    first = begin(serve, "rider_now", ["first"])
    while len(serve.reader.reads) == before:
        await asyncio.sleep(0)
    return first


def test_what_is_asked_while_a_read_is_on_its_way_is_read_together_next(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            await begin(serve, "rider_now", ["ada"])              # what is known of no kind yet travels in small turns
            await begin(serve, "zone_now", [7])
            before = len(serve.reader.reads)
            first = await held(serve)
            others = [begin(serve, "rider_now", ["ada", None, "ada"]), begin(serve, "zone_now", [7, -3])]
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(serve.reader.reads) == before + 1
            assert serve.reader.hold is not None
            serve.reader.hold.set()
            found = await asyncio.gather(first, *others)
            assert len(serve.reader.reads) == before + 2
            assert [features.ids for _, features in found] == [["first"], ["ada", None, "ada"], [7, -3]]
            _, alone = await begin(serve, "rider_now", ["ada"], found[0][0])
            for row in (0, 2):
                assert _same(found[1][1], row, alone, 0)
            assert found[1][1].statuses[1].tolist() != found[1][1].statuses[0].tolist()

    asyncio.run(go())


def test_what_the_loop_reads_with_the_reply_of_a_turn_goes_along_with_what_waited_for_it(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            for id in ("before", "ada"):  # what is known of no kind yet travels in small turns
                await begin(serve, "rider_now", [id])
            reads, replies = list[int](), list[Pending[None]]()
            fetch = serve.scorer.fetcher.fetch

            async def held(wanted: Mapping[ViewPlan, Ids], budget_s: float | None) -> dict[ViewPlan, Reading] | Unread:
                reads.append(sum(map(len, wanted.values())))
                replies.append(Pending())
                await replies[-1]
                return await fetch(wanted, budget_s)

            monkeypatch.setattr(serve.scorer.fetcher, "fetch", held)
            asked = [begin(serve, "rider_now", ["ada"])]
            while not replies:
                await asyncio.sleep(0)
            asked.append(begin(serve, "rider_now", ["bob"]))
            replies[0].set_result(None)
            asked.append(begin(serve, "rider_now", ["eve"]))      # no round of the loop has come between
            while not all(one.done() for one in asked):
                for reply in replies:
                    if not reply.done():
                        reply.set_result(None)
                await asyncio.sleep(0)
            assert reads == [1, 2]

    asyncio.run(go())


def test_a_fault_in_sending_answers_is_reported_and_does_not_keep_those_that_come_from_theirs(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            said = list[str]()
            asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
            monkeypatch.setattr(serve.scorer, "send", lambda: 1 / 0)
            await begin(serve, "rider_now", ["ada"])
            monkeypatch.setattr(serve.scorer, "send", lambda: None)
            _, features = await asyncio.wait_for(begin(serve, "rider_now", ["ada"]), 30)
            assert features.ids == ["ada"]
            assert said == ["turns of lookups failed"]

    asyncio.run(go())


def test_of_what_is_read_for_all_each_is_shown_his_own_with_the_offsets_of_his_own(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            q_us, found = await begin(serve, "rider_now", ["ada", "never", None, "bob:{0}"])
            found = replace(found, places=[0, 1, 0, 1], standings=[{"trip": {0: 5}}, {"trip": {0: 6}}])
            _, zones = await begin(serve, "zone_now", [7, -3])
            shown = Shown()
            all_rows = json.loads(shown.many(q_us, found, range(4)).body)["rows"]
            assert [row["id"] for row in all_rows] == ["ada", "never", None, "bob:{0}"]
            assert all_rows[0]["values"] != all_rows[3]["values"]
            assert None not in all_rows[0]["event_times_us"]
            assert set(all_rows[1]["event_times_us"]) == {None}
            for rows in ([3, 0, 3], [1], [0, 2], []):
                assert [row["id"] for row in json.loads(shown.many(q_us, zones, [1, 0]).body)["rows"]] == [-3, 7]
                answer = json.loads(shown.many(q_us, found, rows).body)
                assert answer["applied"] == ({} if not rows else {"trip": {"0": 6 if rows[0] % 2 else 5}})
                expected = [{key: all_rows[row][key] for key in ("id", "values", "statuses", "event_times_us")} for row in rows]
                for one, row in zip(expected, rows, strict=True):
                    if row % 2 != rows[0] % 2:
                        one["applied"] = {"trip": {"0": 6 if row % 2 else 5}}
                assert answer["rows"] == expected
            for row in range(4):
                alone = json.loads(shown.one(q_us + row, found, [row]).body)
                assert (alone["id"], alone["at"]) == (all_rows[row]["id"], rfc3339(q_us + row))
                assert [feature["status"] for feature in alone["features"].values()] == all_rows[row]["statuses"]
                assert alone["applied"] == {"trip": {"0": 6 if row % 2 else 5}}

    asyncio.run(go())


def test_a_damaged_entity_is_told_of_to_whom_asked_for_it_and_to_nobody_else(models: ModelStore) -> None:
    async def go() -> None:
        rig = fed(200)
        async with serving(models, rig=rig) as serve:
            rig.online.damage(serve.scorer.served.view("rider_now").state_keys("ada")[0], b"\x07broken")
            mine, other = await asyncio.gather(begin(serve, "rider_now", ["ada", "bob:{0}"]), begin(serve, "rider_now", ["bob:{0}"]))
            assert mine[1].degraded == ("rider_now:corrupt",)
            assert other[1].degraded == ()
            assert _same(mine[1], 1, other[1], 0)

    asyncio.run(go())


def test_a_read_that_fails_is_told_to_each_and_the_next_is_another(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            serve.reader.fail = UnavailableError("gone")
            several = [begin(serve, "rider_now", ["ada"]) for _ in range(3)]
            for one in several:
                with pytest.raises(UnavailableError, match="gone"):
                    await one
            serve.reader.fail = None
            assert (await begin(serve, "rider_now", ["ada"]))[1].degraded == ()

    asyncio.run(go())


def test_one_read_is_of_no_more_ids_than_a_request_may_have_and_of_nobody_who_left(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            per_id, before = serve.scorer.served.view("rider_now").keys_per_id, len(serve.reader.reads)
            ids = [[f"r{n}-{i}" for i in range(600)] for n in range(4)]
            serve.reader.hold = asyncio.Event()
            several = [begin(serve, "rider_now", [*some]) for some in ids]
            several[1].cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            serve.reader.hold.set()
            await asyncio.gather(*several, return_exceptions=True)
            reads = serve.reader.reads[before:]
            assert [read // (per_id * 600) for read in reads] == [1, 1, 1]
            assert limits.ROWS_PER_REQUEST == 1_000

    asyncio.run(go())


FULL = limits.LOOKUP_IDS // limits.ROWS_PER_REQUEST


# -- who is let in -----------------------------------------------------------------------------------------------------

def test_who_waits_for_a_store_that_does_not_answer_hears_of_it_when_his_deadline_has_passed(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            serve.reader.hold = asyncio.Event()
            patient, hurried = begin(serve, "rider_now", ["ada"]), begin(serve, "rider_now", ["ada"], deadline_ms=1.0)
            with pytest.raises(NotAnswered, match="late"):
                await hurried
            assert not patient.done()                             # ... and whoever travels with him goes on waiting
            serve.reader.hold.set()
            assert (await patient)[1].ids == ["ada"]

    asyncio.run(go())


def test_however_many_gave_up_the_next_hears_of_it_when_his_deadline_has_passed_and_no_more_is_read(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            serve.reader.hold, before = asyncio.Event(), len(serve.reader.reads)
            for n in range(3 * lookups.READS):
                with pytest.raises(NotAnswered, match="late"):
                    await begin(serve, "rider_now", [f"rider{n}"], deadline_ms=2.0)
            assert len(serve.reader.reads) - before == lookups.READS
            serve.reader.hold.set()
            _, features = await begin(serve, "rider_now", ["ada"])
            assert features.ids == ["ada"]
            assert len(serve.reader.reads) - before == lookups.READS + 1, "nobody waits for what the others asked for"

    asyncio.run(go())


def test_scores_go_on_while_lookups_wait_for_the_store(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            first = await held(serve)
            hold, serve.reader.hold = serve.reader.hold, None     # of the reads that are on their way
            waiting = begin(serve, "rider_now", ["ada"])
            answer = await serve.ask("tip", {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 1}})
            assert isinstance(answer, Answer)
            assert not first.done() and not waiting.done()
            assert hold is not None
            hold.set()
            await asyncio.gather(first, waiting)

    asyncio.run(go())


def test_a_turn_of_scores_comes_between_two_of_lookups(models: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "HELD_S", 60.0)                  # on whatever machine it has as long as it takes

    async def go() -> None:
        async with serving(models, rig=fed(60)) as serve:
            order = list[str]()
            first, before = await held(serve), len(serve.reader.reads)
            looks = [begin(serve, "rider_now", [f"r{i}"] * 600) for i in range(3)]        # each a turn of its own
            for number, lookup in enumerate(looks):
                lookup.add_done_callback(lambda _, number=number: order.append(f"lookup {number}"))
            score = serve.begin("tip", {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 1}})
            score.add_done_callback(lambda _: order.append("score"))
            while len(serve.reader.reads) == before:
                await asyncio.sleep(0)                            # it reads now
            assert serve.reader.hold is not None
            serve.reader.hold.set()
            await asyncio.gather(first, score, *looks)
            assert order == ["score", "lookup 0", "lookup 1", "lookup 2"]

    asyncio.run(go())


def test_no_more_ids_wait_than_there_is_room_for_and_who_has_less_finds_room(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(60)) as serve:
            first = await held(serve)
            ids: Ids = [f"r{i}" for i in range(1_000)]
            waiting = [begin(serve, "rider_now", ids, client="greedy") for _ in range(1 + FULL)]     # one of them goes with the coming turn
            with pytest.raises(NotAnswered, match="queue_full"):
                await begin(serve, "rider_now", ids, client="greedy")
            modest = begin(serve, "rider_now", ["ada"], client="modest")
            with pytest.raises(NotAnswered, match="displaced"):
                await waiting.pop()
            for one in waiting[2:]:
                one.cancel()
            await asyncio.sleep(0)
            assert serve.reader.hold is not None
            serve.reader.hold.set()
            assert len(await asyncio.gather(first, modest, *waiting[:2])) == 4

    asyncio.run(go())


Asked = tuple[str, dict[str, Any]]              # an id, and who asks for it
FIRST: Asked = ("first", {})                   # goes with the coming turn, whoever comes after it
GREEDY: list[Asked] = [(f"greedy {i}", {"client": "greedy"}) for i in range(3)] + [("modest", {"client": "modest"})]
LEVELS: list[Asked] = [(level.name, {"priority": level}) for level in reversed(Priority)]


@pytest.mark.parametrize(
    ("asked", "served"), [(GREEDY, ["greedy 0", "modest", "greedy 1", "greedy 2"]), (LEVELS, ["CRITICAL", "NORMAL", "BATCH"])]
)
def test_the_more_important_are_looked_up_first_and_callers_take_turns(models: ModelStore, asked: list[Asked], served: list[str]) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(60)) as serve:
            await begin(serve, "rider_now", ["ada"])
            first, order = await held(serve), list[str]()
            serve.scorer.lookups.queue.turn_ids = 1               # one request goes with the coming turn, and the others wait

            def ask(name: str, caller: dict[str, Any]) -> asyncio.Future[tuple[int, Features]]:
                future = begin(serve, "rider_now", [name], **caller)
                future.add_done_callback(lambda _: order.append(name))
                return future

            waiting = [ask(*one) for one in (FIRST, *asked)]
            assert serve.reader.hold is not None
            serve.reader.hold.set()
            await asyncio.gather(first, *waiting)
            assert order == ["first", *served]

    asyncio.run(go())


def test_whoever_is_refused_is_told_when_to_come_back_before_his_request_is_read(models: ModelStore) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(60)) as serve, listening(serve) as server:
            first = await held(serve)
            ids: Ids = [f"r{i}" for i in range(1_000)]
            waiting = [begin(serve, "rider_now", ids, client=" 127.0.0.1") for _ in range(1 + FULL)]   # as who asks below
            refused = [await _asked(server, "rider_now", {"entities": ["ada"]}, more) for more in (b"", b"TE: trailers\r\n")]
            status, said, head = await _exchange(server, "rider_now", b"no JSON", b"")     # nor was it looked at
            assert [one[0] for one in refused] == [503, 503] and status == 503
            assert b"retry-after: 1" in head.lower()
            assert said["detail"] == "the queue is full; send fewer rows at a time, or try again"
            assert b'featureflow_shed_total{reason="queue_full"} 3.0' in serve.metrics.text()
            assert (await _exchange(server, "no_view", b"no JSON", b""))[0] == 404
            for one in waiting[1:]:
                one.cancel()
            assert serve.reader.hold is not None
            serve.reader.hold.set()
            await asyncio.gather(first, waiting[0])

    asyncio.run(go())


@pytest.mark.parametrize("more", [b"", b"TE: trailers\r\n"])
def test_a_deadline_in_a_header_is_kept_by_either_reader_of_requests(models: ModelStore, more: bytes) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(60)) as serve, listening(serve) as server:
            serve.reader.hold = asyncio.Event()
            raw = json.dumps({"entities": ["ada"]}).encode()
            status, said, head = await _exchange(server, "rider_now", raw, more + b"X-Deadline-Ms: 5\r\n")
            assert (status, said["title"]) == (503, "Not answered in time")
            assert b"retry-after: 1" in head.lower()
            async with server.client.get(f"{server.url}/v1/features/rider_now/ada", headers={"X-Deadline-Ms": "5"}) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            serve.reader.hold.set()

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
    return (await _exchange(server, view, json.dumps(body).encode(), more))[:2]


async def _exchange(server: Listening, view: str, raw: bytes, more: bytes) -> tuple[int, Any, bytes]:
    """Status, body and head of the answer."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = b"POST /v1/features/%b HTTP/1.1\r\nHost: x\r\nX-Request-ID: r\r\n%bContent-Length: %d\r\n\r\n"
    writer.write(head % (view.encode(), more, len(raw)) + raw)
    answered = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    lines = answered.split(b"\r\n")
    (length,) = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")]
    said = json.loads(await reader.readexactly(length))
    writer.close()
    return int(lines[0].split()[1]), said, answered
