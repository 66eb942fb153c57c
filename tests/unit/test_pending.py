"""What a caller waits for, as a future, but told at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from featureflow.errors import RequestError
from featureflow.pending import EagerTask, Pending
from featureflow.serve.answer import Answer, Shed

ANSWER = Answer(200, b"{}")


def test_who_waits_is_told_at_once_and_who_comes_later_too() -> None:
    told: list[Answer | Shed] = []
    pending = Pending[Answer | Shed]()
    pending.add_done_callback(lambda it: told.append(it.result()))
    assert not pending.done()
    pending.set_result(ANSWER)
    assert told == [ANSWER]
    pending.add_done_callback(lambda it: told.append(it.result()))
    assert told == [ANSWER, ANSWER]
    assert pending.done()


def test_one_who_cannot_be_told_does_not_keep_it_from_the_others() -> None:
    told: list[Pending[Answer | Shed]] = []
    pending = Pending[Answer | Shed]()
    pending.add_done_callback(lambda it: 1 / 0)
    pending.add_done_callback(told.append)
    pending.set_result(ANSWER)
    assert told == [pending]


def test_it_is_set_once() -> None:
    pending = Pending[Answer | Shed]()
    with pytest.raises(asyncio.InvalidStateError):
        pending.result()
    pending.set_exception(RequestError("No such version", "send another", status=404))
    for again in (lambda: pending.set_result(ANSWER), lambda: pending.set_exception(ValueError())):
        with pytest.raises(asyncio.InvalidStateError):
            again()
    pending.cancel()
    assert not pending.cancelled()
    with pytest.raises(RequestError):
        pending.result()


def test_it_can_be_awaited_and_who_stops_waiting_has_cancelled_it() -> None:
    async def both() -> None:
        pending, given_up = Pending[Answer](), Pending[Answer]()
        asyncio.get_running_loop().call_soon(pending.set_result, ANSWER)
        assert await pending == ANSWER
        assert await pending == ANSWER
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(given_up, 0.001)
        assert given_up.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await given_up

    asyncio.run(both())


def test_an_eager_task_begins_as_it_is_started_and_goes_on_as_what_it_waits_for_is_set() -> None:
    async def main() -> None:
        first, last, seen = Pending[int](), Pending[int](), list[int]()

        async def one() -> int:
            seen.append(0)
            seen.append(await first)
            return await last

        task = EagerTask(one())
        assert seen == []
        task.start()
        assert seen == [0]
        first.set_result(1)
        assert seen == [0, 1] and not task.done()
        outer = EagerTask(_twice(task)).start()
        last.set_result(2)
        assert (task.result(), outer.result()) == (2, 4)
        assert (await task, await outer) == (2, 4)

    asyncio.run(main())


def test_an_eager_task_waits_for_what_tasks_wait_for_and_they_for_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        loop.call_later(0.001, future.set_result, 3)

        async def one() -> int:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return await future + sum(await asyncio.gather(_twice(future), asyncio.create_task(_twice(future))))

        task = EagerTask(one()).start()
        assert not task.done()
        assert list(await asyncio.gather(task, asyncio.create_task(_twice(task)))) == [15, 30]

    asyncio.run(main())


def test_a_task_of_asyncio_goes_on_in_the_next_round_for_none_may_inside_another() -> None:
    async def main() -> None:
        pending, seen = Pending[int](), list[int]()

        async def one() -> None:
            seen.append(await pending)

        task = asyncio.create_task(one())
        await asyncio.sleep(0)
        pending.set_result(1)              # within this task
        assert seen == []
        await task
        assert seen == [1]

    asyncio.run(main())


def test_what_an_eager_task_raises_is_its_waiter_s_and_nobody_else_s() -> None:
    async def main() -> None:
        pending = Pending[int]()

        async def one() -> int:
            return 1 // await pending

        task = EagerTask(one()).start()
        pending.set_result(0)              # whoever sets it does not hear of it
        assert isinstance(task.exception(), ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            await task

    asyncio.run(main())


def test_an_eager_task_that_nobody_waits_for_runs_to_its_end_all_the_same() -> None:
    async def main() -> None:
        pending, ended = Pending[int](), list[int]()

        async def one() -> None:
            ended.append(await pending)

        task = EagerTask(one()).start()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_once(task), 0.001)
        assert task.cancelled() and not ended
        pending.set_result(1)
        assert ended == [1] and task.cancelled()

    asyncio.run(main())


async def _once(of: Pending[None]) -> None:
    await of


async def _twice(of: Awaitable[int]) -> int:
    return 2 * await of
