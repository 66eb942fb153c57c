"""How long a read is waited for."""

from __future__ import annotations

import asyncio
import time

import pytest

from featureflow.errors import UnavailableError
from featureflow.reading.fetch import within


def test_a_reply_that_came_while_the_loop_was_busy_counts_although_the_timer_fires_first() -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[list[bytes | None]] = loop.create_future()

        async def read() -> list[bytes | None]:
            return await reply

        def busy() -> None:
            time.sleep(0.005)  # the loop, held up past the budget
            loop.call_soon(loop.call_soon, reply.set_result, [b"x"])

        loop.call_soon(busy)
        assert await within(read(), 0.001) == [b"x"]

    asyncio.run(go())


def test_a_reply_that_does_not_come_is_given_up_and_may_still_fail_later_without_a_word() -> None:
    async def go() -> None:
        reply: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()

        async def read() -> list[bytes | None]:
            return await reply

        with pytest.raises(TimeoutError):
            await within(read(), 0.001)
        reply.set_exception(UnavailableError("gone"))
        await asyncio.sleep(0)

    asyncio.run(go())
