"""What a caller waits for, as a future, but told at once."""

from __future__ import annotations

import asyncio

import pytest

from featureflow.errors import RequestError
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.pending import Pending

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
