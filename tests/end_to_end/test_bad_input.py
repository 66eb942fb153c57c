"""Records that are no events: each counted and put aside once, with its reason and position, and the partition goes on."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
import redis
from ports import free_port
from processes import until
from world import MODEL, PARTITIONS, SECOND_US, Http, World, answered, check_state, metric

from featureflow.store.log.protocol import Record

SCORE = f"/v1/score/{MODEL}"
ENTITIES = {"rider": "ada", "zone": 1}
ODD_RIDERS = (
    "a:b", "{0}", "{a}:b", "x\ny", "x\r\ny", "x\0", "a", "A", "a ", "a%3Ab", "*", "'; DROP TABLE ev_ride; --", "é", "e\u0301", "\\",
)


def good(n: int, rider: str = "ada", **other: object) -> dict[str, object]:
    now_us = time.time_ns() // 1000
    return {"at": now_us - n * SECOND_US, "rider": rider, "zone": 1, "fare": n / 7, "cash": True, **other}


def bad_values(mark: str) -> list[tuple[str, bytes]]:
    """(reason, value). Each holds the mark, so that its letter is known among those of others."""
    def ride(**other: object) -> bytes:
        return json.dumps({**good(1), "mark": mark, **other}).encode()

    def without(name: str) -> bytes:
        return json.dumps({field: value for field, value in {**good(1), "mark": mark}.items() if field != name}).encode()

    text = mark.encode()
    return [
        ("undecodable", b"{" + text),
        ("undecodable", b'\xff"' + text),
        ("undecodable", b'["' + text + b'"]'),
        ("undecodable", b'{"mark": "' + text + b'", "at": 1} trailing'),
        ("undecodable", b'{"mark": "' + text + b'", "deep": ' + b"[" * 5_000),
        ("missing_field", without("rider")),
        ("missing_field", without("at")),
        ("wrong_type", ride(rider=7)),
        ("wrong_type", ride(fare="12")),
        ("wrong_type", ride(cash=1)),
        ("wrong_type", ride(at="2026-01-01T00:00:00")),
        ("wrong_type", ride(cash=None)),
        ("oversized", ride(rider="r" * 257)),
        ("oversized", ride(note="n" * 70_000)),
        ("out_of_range", ride(fare=float("nan"))),
        ("out_of_range", ride(fare=float("inf"))),
        ("out_of_range", ride().replace(b'"zone": 1', b'"zone": 9007199254740994')),
        ("out_of_range", ride(fare=2.0**63)),
        ("out_of_range", ride().replace(b'"cash"', b'"fare": 1e999, "cash"')),
        ("bad_key", ride(rider="")),
    ]


def test_each_bad_record_is_counted_and_put_aside_once_with_reason_and_position_and_the_partition_goes_on(world: World) -> None:
    world.featureflow("apply")
    port = free_port()
    worker = world.start("ingest", FEATUREFLOW_INGEST_METRICS_PORT=str(port))
    history = world.start("history")
    log, topic = world.context.log, world.topic_of("ride")
    expected: dict[str, tuple[str, bytes]] = {}                    # position -> reason, value

    def put(value: bytes, key: bytes | None, reason: str) -> None:
        """A bad record, and a good one behind it."""
        number = len(expected) % PARTITIONS
        behind = Record(json.dumps(good(0, f"r{number}")).encode(), f"r{number}".encode(), partition=number)
        [(partition, offset), _] = log.append(topic, [Record(value, key, partition=number), behind])
        expected[f"ride/{partition}/{offset}"] = (reason, value)

    for n in range(PARTITIONS):
        log.append(topic, [Record(json.dumps(good(0, f"r{n}")).encode(), f"r{n}".encode(), partition=n)])
    for reason, value in bad_values(world.topic):
        put(value, b"ada", reason)
    marked = {"mark": world.topic}
    put(json.dumps({**good(1), **marked}).encode(), b"bob", "bad_key")
    put(json.dumps({**good(1), **marked}).encode(), None, "bad_key")
    put(json.dumps({**good(-600), **marked}).encode(), b"ada", "future")
    put(json.dumps({**good(-600), **marked, "at": 2**53 - 1}).encode(), b"ada", "future")
    put(json.dumps({**good(1), **marked, "at": 2**53 + 1}).encode(), b"ada", "out_of_range")
    old = json.dumps({**good(10 * 86_400), **marked}).encode()
    [(partition, offset)] = log.append(topic, [Record(old, b"ada", partition=0)])
    for view in world.project.views:       # an event too old is refused by each view for itself
        expected[f"ride/{partition}/{offset}/{view.id}"] = ("late", old)
    put(b"{" + world.topic.encode(), b"ada", "undecodable")

    until(world.folded, "the end of the log")
    until(lambda: world.recorded(("ride", "featureflow_dead_letters")), "the end of the log in history")
    letters = world.letters()
    assert Counter(letter["position"] for letter in letters) == Counter(list(expected))      # each once
    found = {letter["position"]: letter["reason"] for letter in letters}
    assert found == {position: reason for position, (reason, _) in expected.items()}
    assert all(letter["detail"] for letter in letters)
    assert all(letter["position"].split("/")[:3] == ["ride", str(letter["partition"]), str(letter["offset"])] for letter in letters)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    for reason, count in Counter(reason for reason, _ in expected.values()).items():
        assert metric(text, "featureflow_ingest_dead_letters_total", source="ride", reason=reason) == count, reason
    assert worker.told_to_end() == 0
    assert history.told_to_end() == 0
    refused = {value for reason, value in expected.values() if reason not in ("future", "late")}
    records = world.records(refused)
    assert len(riders_in_history(world)) == len(records)           # every event, also one from the future
    assert check_state(world, records, [time.time_ns() // 1000]) > 10


def whole(scorer: Http, request: object) -> Any:
    """A score for which the store answered in time, which on a busy machine it does not always."""
    status, answer = scorer.post(SCORE, request)
    assert status == 200, answer
    return answer if not answer["degraded"] else None


def riders_in_history(world: World) -> list[str]:
    """Of each ride."""
    ride, history = world.project.source("ride"), world.context.history
    pages = (page for partition in range(PARTITIONS) for page in history.scan(ride, partition=partition, columns=("rider",)))
    return [rider for page in pages for rider in page.events.columns["rider"]]


def test_ids_that_look_like_keys_share_nothing(world: World) -> None:
    world.featureflow("apply")
    world.add_model()
    _, scorer = world.serve()
    worker, history = world.start("ingest"), world.start("history")
    for n, rider in enumerate(ODD_RIDERS):
        status, answer = scorer.post("/v1/events/ride", [good(1, rider, fare=float(10 + n))] * (n + 1))
        assert status == 200, answer
    until(world.folded, "the end of the log")
    until(world.recorded, "the end of the log in history")
    for n, rider in enumerate(ODD_RIDERS):
        answer = answered(partial(scorer.get, f"/v1/features/rider_now/{quote(rider, safe='')}"))
        assert answer["id"] == rider
        assert answer["features"]["rides_1h"]["value"] == n + 1
        assert answer["features"]["spent_1h"]["value"] == (n + 1) * (10.0 + n)
        request = {"entities": {"rider": rider, "zone": 1}, "context": {"hour": 1}, "explain": True}
        answer = until(lambda asked=request: whole(scorer, asked), "a score with its features")  # type: ignore[misc]  # bound now
        assert answer["features"][0]["rider_now:rides_1h"]["value"] == n + 1
    nobody = answered(lambda: scorer.get("/v1/features/rider_now/nobody"))
    assert nobody["features"]["rides_1h"] == {"value": 0.0, "status": "default", "event_time": None}
    assert worker.told_to_end() == history.told_to_end() == 0
    with redis.Redis.from_url(world.context.online_url) as client:
        state = list(client.scan_iter(match="feat:*:rider:*rider_last*:ride"))
    assert len(state) == len(ODD_RIDERS)
    assert Counter(riders_in_history(world)) == {rider: n + 1 for n, rider in enumerate(ODD_RIDERS)}


@pytest.mark.parametrize("world", ["embedded"], indirect=True)
def test_a_request_that_cannot_be_answered_is_4xx_and_says_what_to_change(world: World) -> None:
    world.featureflow("apply")
    world.add_model()
    _, scorer = world.serve()
    deep = b'{"entities":' + b"[" * 100_000
    wrong: list[tuple[str, Any]] = [
        (SCORE, b""), (SCORE, b"\xff"), (SCORE, b"{"), (SCORE, b"[]"), (SCORE, b"null"), (SCORE, b"1e999"), (SCORE, deep),
        (SCORE, {}), (SCORE, {"entities": {}}), (SCORE, {"entities": {"rider": "ada"}}), (SCORE, {"entities": {"rider": 7, "zone": 1}}),
        (SCORE, {"entities": {"rider": "", "zone": 1}, "context": {"hour": 1}}),
        (SCORE, {"entities": {"rider": "r" * 300, "zone": 1}, "context": {"hour": 1}}),
        (SCORE, {"entities": {"rider": "ada", "zone": 2**63}, "context": {"hour": 1}}),
        (SCORE, {"entities": {"rider": "ada", "zone": 1.5}, "context": {"hour": 1}}),
        (SCORE, {"entities": ENTITIES}), (SCORE, {"entities": ENTITIES, "context": {"hour": "x"}}),
        (SCORE, b'{"entities": {"rider": "ada", "zone": 1}, "context": {"hour": NaN}}'),
        (SCORE, b'{"entities": {"rider": "ada", "zone": 1}, "context": {"hour": 1e400}}'),
        (SCORE, {"entities": {**ENTITIES, "more": 1}, "context": {"hour": 1}}),
        (SCORE, {"entities": ENTITIES, "context": {"hour": 1}, "surprise": 1}),
        (SCORE, {"entities": ENTITIES, "context": {"hour": 1}, "deadline_ms": -1}),
        (SCORE, {"rows": []}), (SCORE, {"rows": [{"entities": ENTITIES, "context": {"hour": 1}}] * 1_001}),
        (SCORE, b" " * (2 * 1024 * 1024)),
        ("/v1/score/nobody", {"entities": ENTITIES}), ("/v1/score/%ff", {"entities": ENTITIES}),
        ("/v1/events/nobody", good(1)), ("/v1/events/ride", {}), ("/v1/events/ride", []), ("/v1/events/ride", [good(1), {"at": 1}]),
        ("/v1/events/ride", b'{"at": NaN}'), ("/v1/events/ride", {**good(1), "rider": ""}), ("/v1/events/%ff", good(1)),
        ("/v1/features/rider_now", {"entities": [7]}), ("/v1/features/nobody", {"entities": ["a"]}),
        ("/v1/features/rider_now", {"entities": ["a"], "at": "yesterday"}), ("/v1/nothing", {}),
    ]
    before = world.context.log.topic(world.topic_of("ride")).end
    for path, body in wrong:
        status, answer = scorer.post(path, body)
        shown = body[:80] if isinstance(body, bytes) else json.dumps(body)[:80]
        assert 400 <= status < 500, (path, shown, status, answer)
        assert answer["status"] == status, (path, shown, answer)
        assert len(answer["detail"]) > 8, (path, shown, answer)
    unknown = {"entities": ENTITIES, "context": {"hour": 1}}
    status, answer = until(lambda: (said := scorer.post(f"{SCORE}@99", unknown))[0] != 503 and said, "it has looked for that version")
    assert (status, answer["status"]) == (404, 404)
    for path in ("/v1/features/zone_now/abc", "/v1/features/rider_now/%ff", "/v1/features/rider_now/a?at=x", "/nothing", "/v1/score/x"):
        status, answer = scorer.get(path)
        assert 400 <= status < 500, (path, status, answer)
    assert world.context.log.topic(world.topic_of("ride")).end == before
    until(scorer.ready, "/readyz")
