"""Who of those that look at features waits, and who is refused, by what ids and turns took."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from featureflow import limits
from featureflow.serve import lookup_queue
from featureflow.serve.answer import Answer
from featureflow.serve.deadline import Deadline
from featureflow.serve.lookup_queue import ALONE_S, FIRST_IDS, HELD_S, LookupQueue
from featureflow.serve.lookups import Lookup
from featureflow.serve.priority import Caller, Priority

EACH_S = HELD_S / 10                           # what an id takes: ten are a turn


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def queue() -> LookupQueue:
    return measured(LookupQueue())


def measured(queue: LookupQueue, each_s: float = EACH_S, beside_s: float = 0.001) -> LookupQueue:
    for _ in range(3):
        queue.ended(10, 10 * each_s, 10 * each_s + beside_s)
    return queue


def a_lookup(
    loop: asyncio.AbstractEventLoop, ids: int = 1, *, left_s: float = 60.0, client: str = "", priority: Priority = Priority.NORMAL,
    view: str = "now",
) -> Lookup:  # fmt: skip
    plan: Any = SimpleNamespace(view=SimpleNamespace(name=view))
    deadline, caller = Deadline(monotonic() + left_s, left_s), Caller(client, priority)
    return Lookup(plan, [*range(ids)], None, lambda q_us, found: Answer(200, b""), deadline, loop.create_future(), caller)


def join(queue: LookupQueue, lookup: Lookup) -> str:
    """Why it was refused, or nothing."""
    shed, displaced = queue.join(lookup)
    assert displaced == []
    return "" if shed is None else shed.reason


def test_a_turn_holds_the_loop_up_no_longer_than_it_may(loop: asyncio.AbstractEventLoop, queue: LookupQueue) -> None:
    assert queue.turn_ids == 10
    asked = [a_lookup(loop) for _ in range(25)]
    assert [join(queue, one) for one in asked] == [""] * 25
    turns = []
    while batch := queue.take():
        turns.append(batch)
        queue.ended(len(batch), len(batch) * EACH_S, 1.0)
    assert [len(batch) for batch in turns] == [10, 10, 5]
    assert [one for batch in turns for one in batch] == asked


def test_while_no_score_is_asked_for_a_turn_is_as_large_as_a_request_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1.0]
    monkeypatch.setattr(lookup_queue, "monotonic", lambda: now_s[0])
    scoring = [True]
    queue = measured(LookupQueue(lambda: scoring[0]))
    assert queue.turn_ids == 10
    scoring[0] = False
    assert measured(queue).turn_ids == 10
    now_s[0] += ALONE_S
    assert measured(queue).turn_ids == limits.ROWS_PER_REQUEST
    scoring[0] = True
    assert measured(queue).turn_ids == 10


def test_what_takes_more_than_a_turn_goes_alone(loop: asyncio.AbstractEventLoop, queue: LookupQueue) -> None:
    asked = [a_lookup(loop, 500), a_lookup(loop), a_lookup(loop, 500), a_lookup(loop)]
    for one in asked:
        assert join(queue, one) == ""
    assert [len(queue.take()) for _ in range(4)] == [1, 1, 1, 1]
    assert queue.take() == []


def test_nothing_is_known_at_first_and_turns_are_small_then(loop: asyncio.AbstractEventLoop) -> None:
    queue = LookupQueue()
    for _ in range(FIRST_IDS + 1):
        assert join(queue, a_lookup(loop)) == ""
    assert len(queue.take()) == FIRST_IDS


def test_who_would_be_late_is_refused_while_he_waits_behind_others_and_others_are_not(
    loop: asyncio.AbstractEventLoop, queue: LookupQueue
) -> None:
    for _ in range(50):                        # 10 go with the coming turn: 40 are four more, of 5 ms each
        assert join(queue, a_lookup(loop)) == ""
    assert join(queue, a_lookup(loop, left_s=0.010)) == "predicted_late"
    assert queue.refusing
    assert join(queue, a_lookup(loop, left_s=0.500)) == ""
    critical = a_lookup(loop, left_s=0.015, priority=Priority.CRITICAL)
    assert join(queue, critical) == ""         # whom nobody is before, but for the coming turn
    assert len(queue.take()) == 10
    assert queue.take()[0] is critical


def test_a_caller_who_asks_little_is_not_refused_for_what_another_has_waiting(loop: asyncio.AbstractEventLoop, queue: LookupQueue) -> None:
    for _ in range(200):
        join(queue, a_lookup(loop, client="greedy"))
    assert join(queue, a_lookup(loop, client="greedy", left_s=0.030)) == "predicted_late"
    modest = a_lookup(loop, client="modest", left_s=0.030)
    assert join(queue, modest) == ""
    queue.take()
    assert modest in queue.take()


def test_a_stall_is_forgotten_and_keeps_nobody_out(loop: asyncio.AbstractEventLoop, queue: LookupQueue) -> None:
    queue.ended(1, 0.180, 0.180)
    assert queue.turn_ids == 1
    assert join(queue, a_lookup(loop, left_s=0.020)) == ""       # the coming turn is nobody refused
    for _ in range(60):
        queue.ended(10, 10 * EACH_S, 0.005)
    assert queue.turn_ids >= 8


def test_a_lagging_loop_refuses_the_hurried_first(loop: asyncio.AbstractEventLoop, queue: LookupQueue) -> None:
    for _ in range(10):
        assert join(queue, a_lookup(loop)) == ""
    queue.lags(0.005)
    assert join(queue, a_lookup(loop, left_s=0.020)) == "lag"
    assert join(queue, a_lookup(loop, left_s=1.0)) == ""


def test_what_waits_is_bounded_and_the_door_says_the_same(loop: asyncio.AbstractEventLoop, queue: LookupQueue) -> None:
    coming = a_lookup(loop)
    queue.join(coming)
    for _ in range(limits.LOOKUP_IDS // 500):
        assert join(queue, a_lookup(loop, 500, client="greedy")) == ""
    assert join(queue, a_lookup(loop, 500, client="greedy")) == "queue_full"
    assert queue.refusal("now", "greedy", Priority.NORMAL, 500, 60.0, 60.0) == "queue_full"
    assert queue.refusal("now", "modest", Priority.NORMAL, 1, 60.0, 60.0) == ""
    shed, displaced = queue.join(a_lookup(loop, client="modest"))
    assert shed is None and [one.client for one in displaced] == ["greedy"]
    assert queue.ids <= limits.LOOKUP_IDS + 1


def test_whose_caller_has_gone_away_is_in_no_turn(loop: asyncio.AbstractEventLoop, queue: LookupQueue) -> None:
    asked = [a_lookup(loop) for _ in range(12)]
    for one in asked:
        queue.join(one)
    for one in (*asked[:9], asked[10]):
        one.future.cancel()
    assert queue.take() == [asked[9], asked[11]]
