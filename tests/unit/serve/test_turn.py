"""Requests that arrive together leave together."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from overload_world import Watch
from serve_rig import at_rest

from featureflow.pending import Pending
from featureflow.serve.admission import Admission, Took
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.deadline import Deadline
from featureflow.serve.request import Request, Row
from featureflow.serve.turn import BREATHS, ROUNDS, Batch, Turns


def request(rows: int = 1) -> Request:
    loop = asyncio.get_running_loop()
    nothing: Any = None  # a turn looks at rows, deadline and future only
    return Request(
        "r", nothing, nothing, [Row({}, {}, (), ())] * rows, Deadline(loop.time() + 60), Pending(), False, ""
    )


def test_requests_of_one_loop_turn_are_one_batch_and_those_that_come_meanwhile_are_the_next() -> None:
    async def go() -> None:
        batches: list[int] = []
        door = asyncio.Event()

        async def run(batch: Batch, computing: Callable[[], None]) -> list[Took]:
            batches.append(len(batch))
            await door.wait()
            for one in batch:
                one.future.set_result(Answer(200, b""))
            return []

        turns = Turns(run, Admission())
        first = [request() for _ in range(5)]
        for one in first:
            assert turns.join(one) is None
        while not batches:
            await asyncio.sleep(0)
        assert (turns.waiting, turns.active, batches) == (0, 1, [5])
        later = [request() for _ in range(3)]
        for one in later:
            turns.join(one)
            await asyncio.sleep(0)
        assert (turns.waiting, turns.active) == (3, 1)
        door.set()
        await asyncio.gather(*(one.future for one in (*first, *later)))
        assert batches == [5, 3]

    asyncio.run(go())


def test_a_turn_goes_on_as_what_it_reads_is_there_and_its_answers_are_sent_as_it_ends() -> None:
    async def go() -> None:
        read, happened = Pending[bytes](), list[str]()

        async def run(batch: Batch, computing: Callable[[], None]) -> list[Took]:
            answer = await read
            for one in batch:
                one.future.set_result(Answer(200, answer))
            return []

        turns = Turns(run, Admission(), lambda: happened.append("sent"))
        asked = [request() for _ in range(2)]
        for one in asked:
            one.future.add_done_callback(lambda _: happened.append("answered"))
            turns.join(one)
        while not turns.active:
            await asyncio.sleep(0)
        read.set_result(b"")               # no round of the loop from here on
        assert happened == ["answered", "answered", "sent"]
        assert not turns.active

    asyncio.run(go())


def test_where_two_may_be_under_way_the_next_is_read_once_the_first_computes_and_takes_what_it_adds(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()
    monkeypatch.setattr("featureflow.serve.turn.perf_counter", watch)

    async def go() -> None:
        taken: list[tuple[int, Callable[[], None], asyncio.Event]] = []

        async def run(batch: Batch, computing: Callable[[], None]) -> list[Took]:
            door = asyncio.Event()
            taken.append((len(batch), computing, door))
            await door.wait()
            for one in batch:
                one.future.set_result(Answer(200, b""))
            return [Took("", len(batch), 0.0)]

        async def rounds() -> None:
            for _ in range(ROUNDS + 4):
                await asyncio.sleep(0)

        admission = Admission()
        admission.under_way = 2
        told: list[float] = []
        ended = admission.ended

        def listened(seconds: float, parts: Sequence[Took], *, answered: int = 0, late: int = 0) -> None:
            told.append(seconds)
            ended(seconds, parts, answered=answered, late=late)

        admission.ended = listened  # type: ignore[method-assign]
        turns = Turns(run, admission)
        asked = []
        for n in (1, 2, 3):
            asked += [request() for _ in range(n)]
            for one in asked[-n:]:
                assert turns.join(one) is None
            await rounds()
            assert [n for n, _, _ in taken] == [1, 2, 3][: len(taken)]
            assert (len(taken), turns.active) == ((1, 1), (2, 2), (2, 2))[n - 1]
            taken[-1][1]()  # it only computes from now on
            await rounds()
        assert turns.waiting == 3
        for n in (1, 2, 3):
            watch.s += n
            taken[n - 1][2].set()
            await rounds()
        assert turns.waiting == turns.active == 0
        assert all(one.future.done() for one in asked)
        assert told == [1.0, 2.0, 3.0]  # the second began when the first did, and took what came after that

    asyncio.run(go())


def test_while_some_are_refused_a_turn_follows_the_one_before_once_the_loop_has_read_what_came_in_parts() -> None:
    async def go() -> None:
        rounds, began = 0, list[int]()

        async def run(batch: Batch, computing: Callable[[], None]) -> list[Took]:     # all that it reads is in memory: it never waits
            began.append(rounds)
            for one in batch:
                one.future.set_result(Answer(200, b""))
            return [Took("", len(batch), 0.001)]

        admission = Admission(turn_rows=4)
        admission.refused_s = float("inf")             # just now, for as long as this takes
        turns = Turns(run, admission)
        asked = [request(4) for _ in range(3)]
        for one in asked:
            assert turns.join(one) is None
        while not all(one.future.done() for one in asked):
            rounds += 1
            await asyncio.sleep(0)
        assert len(began) == 3
        assert [later - before for before, later in pairwise(began)] == [BREATHS, BREATHS]

    asyncio.run(go())


def test_callers_who_ask_again_at_once_travel_together_and_a_stream_of_them_does_not_hold_a_turn_back() -> None:
    async def go() -> None:
        batches: list[int] = []

        async def run(batch: Batch, computing: Callable[[], None]) -> list[Took]:
            batches.append(len(batch))
            for one in batch:
                one.future.set_result(Answer(200, b""))
            return []

        turns = Turns(run, Admission())
        asked = [request() for _ in range(3)]
        for one in asked:  # one in each round of the loop
            turns.join(one)
            await asyncio.sleep(0)
        await asyncio.gather(*(one.future for one in asked))
        assert batches == [3]
        endless = [request() for _ in range(3 * ROUNDS)]
        for one in endless:
            turns.join(one)
            await asyncio.sleep(0)
        await asyncio.gather(*(one.future for one in endless))
        assert len(batches) >= 3
        assert max(batches) <= ROUNDS + 4

    asyncio.run(go())


def test_a_turn_closes_at_its_size_and_a_larger_request_travels_alone() -> None:
    async def go() -> None:
        batches: list[list[int]] = []

        async def run(batch: Batch, computing: Callable[[], None]) -> list[Took]:
            batches.append([len(one.rows) for one in batch])
            for one in batch:
                one.future.set_result(Answer(200, b""))
            return []

        turns = Turns(run, Admission(turn_rows=10))
        asked = [request(n) for n in (25, 4, 4, 4)]
        assert [turns.join(one) for one in asked[:1]] == [None]
        for one in asked[1:]:
            assert turns.join(one) is None
        await asyncio.gather(*(one.future for one in asked))
        assert batches == [[25], [4, 4], [4]]

    asyncio.run(go())


@pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
def test_a_turn_that_fails_leaves_nobody_waiting_and_the_next_one_runs() -> None:
    async def go() -> None:
        problems: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        fail = True

        async def run(batch: Batch, computing: Callable[[], None]) -> list[Took]:
            if fail:
                raise ZeroDivisionError
            batch[0].future.set_result(Answer(200, b""))
            return []

        turns = Turns(run, Admission())
        first = request()
        turns.join(first)
        answer = await first.future
        assert isinstance(answer, Shed)
        assert answer.reason == "failed"
        fail = False
        second = request()
        turns.join(second)
        assert isinstance(await second.future, Answer)
        assert len(problems) == 1

    asyncio.run(go())


def test_who_waits_for_the_turn_that_is_due_waits_for_it_and_for_none_after_it() -> None:
    async def go() -> None:
        door, ended = asyncio.Event(), list[int]()

        async def run(batch: Batch, computing: Callable[[], None]) -> list[Took]:
            await door.wait()
            ended.append(len(batch))
            for one in batch:
                one.future.set_result(Answer(200, b""))
            return []

        turns = Turns(run, Admission())
        await turns.left(60.0)                                    # there is none
        turns.join(request())
        waiting = asyncio.ensure_future(turns.left(60.0))
        while not turns.active:
            await asyncio.sleep(0)
        turns.join(request(2))
        await turns.left(0.0)                                     # no longer than is said
        assert not waiting.done() and ended == []
        door.set()
        await waiting
        assert ended[0] == 1
        await at_rest(turns)

    asyncio.run(go())


def test_who_waits_in_vain_for_a_turn_leaves_nothing_behind() -> None:
    """While some are refused, one turn follows the other without an end that could be told of, and lookups wait for each."""

    async def go() -> None:
        door = asyncio.Event()

        async def run(batch: Batch, computing: Callable[[], None]) -> list[Took]:
            await door.wait()
            for one in batch:
                one.future.set_result(Answer(200, b""))
            return []

        def kept() -> int:
            gc.collect()
            return sum(isinstance(found, Pending) for found in gc.get_objects())

        turns = Turns(run, Admission())
        turns.join(request())
        await turns.left(0.0)
        before = kept()
        for _ in range(20):
            await turns.left(0.0)
        assert kept() == before
        door.set()
        await at_rest(turns)

    asyncio.run(go())
