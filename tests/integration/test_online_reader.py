"""The scorer's reader against real servers: many reads at once, servers that stop, start and stall."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from ports import free_port

from featureflow.errors import UnavailableError
from featureflow.store.online import reader
from featureflow.store.online.cluster import is_cluster, seeds
from featureflow.store.online.cluster_reader import ClusterReader
from featureflow.store.online.embedded import EmbeddedServer
from featureflow.store.online.reader import AsyncReader

PATIENCE_S = 60.0


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    runner: Callable[[Awaitable[None]], None] = request.param
    return runner


def opened(url: str) -> AsyncReader | ClusterReader:
    return ClusterReader(url, timeout_s=PATIENCE_S) if is_cluster(url) else AsyncReader(url, timeout_s=PATIENCE_S)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.005)


@pytest.fixture(params=["embedded", "production", "cluster"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An empty online store of each kind. What is asked of it together is of one bucket, as whoever reads states asks."""
    url: str = request.getfixturevalue(f"{request.param}_redis_url")
    return url


def names(count: int, bucket: int = 0) -> list[bytes]:
    return [b"{b:%d}k%d" % (bucket, i) for i in range(count)]


@contextmanager
def raw_client(url: str) -> Iterator[redis.Redis | redis.RedisCluster]:
    found = redis.RedisCluster(*seeds(url)[0][0]) if is_cluster(url) else redis.Redis.from_url(url)
    try:
        yield found
    finally:
        found.close()


def test_reads_at_once_each_get_their_own_answer(store_url: str, run: Callable[[Awaitable[None]], None]) -> None:
    keys = [key for bucket in range(5) for key in names(40, bucket)]
    with raw_client(store_url) as raw:
        for i, key in enumerate(keys):
            raw.set(key, b"\r\n$-1" * i)

    async def main() -> None:
        reader = opened(store_url)
        answers = await asyncio.gather(*(reader.read([key, key + b"absent", key]) for key in keys))
        assert answers == [[b"\r\n$-1" * i, None, b"\r\n$-1" * i] for i in range(200)]
        assert await reader.read([]) == []
        assert (await reader.ping()).split()[0] in ("Redis", "Valkey")
        await reader.close()

    run(main())


def test_one_read_sees_one_moment(store_url: str, run: Callable[[Awaitable[None]], None]) -> None:
    keys = names(50)

    async def main() -> None:
        reader = opened(store_url)
        with raw_client(store_url) as raw:
            for n in range(50):
                both: dict[Any, Any] = dict.fromkeys(keys, str(n).encode())
                _, *seen = await asyncio.gather(asyncio.to_thread(raw.mset, both), *(reader.read(keys) for _ in range(4)))
                assert all(len(set(values)) == 1 for values in seen)
        await reader.close()

    run(main())


def test_a_value_of_another_type_is_an_absent_one_and_an_error_reply_is_told(
    redis_url: str, run: Callable[[Awaitable[None]], None]
) -> None:
    async def main() -> None:
        reader = AsyncReader(redis_url, timeout_s=PATIENCE_S)
        await reader.execute((b"LPUSH", b"list", b"x"))
        assert await reader.read([b"list"]) == [None]
        with pytest.raises(UnavailableError, match="WRONGTYPE"):
            await reader.execute((b"GET", b"list"))
        assert await reader.read([b"absent"]) == [None], "the replies are still in step"
        await reader.close()

    run(main())


def test_nobody_there_is_told_at_once_with_the_setting_and_without_the_password() -> None:
    port = free_port()

    async def main() -> None:
        reader = AsyncReader(f"redis://user:secret@127.0.0.1:{port}/0")
        for _ in range(3):
            with pytest.raises(UnavailableError, match=r"online\.url") as told:
                await reader.read([b"a"])
            assert f"127.0.0.1:{port}" in str(told.value)
            assert "secret" not in str(told.value)
        assert not reader.connected
        assert reader.problem
        await reader.close()

    asyncio.run(main())


def test_a_password_and_a_database_are_used(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        raw.config_set("port", 0)
        port = free_port()
        raw.config_set("port", port)
        raw.config_set("requirepass", "p@ss")
        with redis.Redis(port=port, password="p@ss", db=3) as third:
            third.set("a", "3")

        async def main() -> None:
            for url in (f"redis://:p%40ss@127.0.0.1:{port}/3", f"redis://127.0.0.1:{port}?db=3&password=p%40ss"):
                reader = AsyncReader(url, timeout_s=PATIENCE_S)
                assert await reader.read([b"a"]) == [b"3"], "as the worker reads the same URL"
                await reader.close()
            stranger = AsyncReader(f"redis://127.0.0.1:{port}/3", timeout_s=PATIENCE_S)
            with pytest.raises(UnavailableError, match="wants a password"):
                await stranger.read([b"a"])
            await stranger.close()

        asyncio.run(main())
        raw.config_set("requirepass", "")


def test_a_server_that_stalls_costs_no_more_than_the_time_given(tmp_path: Path, run: Callable[[Awaitable[None]], None]) -> None:
    with EmbeddedServer(tmp_path) as server:

        async def main() -> None:
            reader = AsyncReader(server.url, timeout_s=PATIENCE_S)
            await reader.execute((b"SET", b"a", b"1"))
            os.kill(server.pid, signal.SIGSTOP)
            try:
                with pytest.raises(UnavailableError, match="did not answer within 20.0 ms"):
                    await reader.read([b"a"], timeout_s=0.02)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert await reader.read([b"a"]) == [b"1"], "the answer that came late is nobody else's"
            await reader.close()

        run(main())


def test_a_connection_that_died_silently_is_given_up_after_three_reads(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:

        async def main() -> None:
            reader = AsyncReader(server.url, timeout_s=0.05)
            with suppress(UnavailableError):
                await reader.start()
            await until(lambda: reader.connected)
            await reader.execute((b"SET", b"a", b"1"), timeout_s=PATIENCE_S)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                for _ in range(3):
                    with pytest.raises(UnavailableError):
                        await reader.read([b"a"], timeout_s=0.01)
                await until(lambda: not reader.connected)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await until(lambda: reader.connected)
            assert await reader.read([b"a"], timeout_s=PATIENCE_S) == [b"1"]
            await reader.close()

        asyncio.run(main())


def test_a_lost_connection_fails_what_was_under_way_and_comes_back_by_itself(
    redis_url: str, run: Callable[[Awaitable[None]], None]
) -> None:
    async def main() -> None:
        reader = AsyncReader(redis_url, timeout_s=PATIENCE_S)
        await reader.execute((b"SET", b"a", b"1"))
        me = await reader.execute((b"CLIENT", b"ID"))
        blocked = asyncio.create_task(reader.execute((b"BLPOP", b"nothing", b"0"), timeout_s=PATIENCE_S))
        await asyncio.sleep(0)
        with redis.Redis.from_url(redis_url) as raw:
            raw.client_kill_filter(_id=me)
        with pytest.raises(UnavailableError, match="went away"):
            await blocked
        await until(lambda: not reader.connected or reader.problem is None)
        await until(lambda: reader.connected)
        assert await reader.read([b"a"]) == [b"1"]
        assert await reader.execute((b"CLIENT", b"ID")) != me
        await reader.close()

    run(main())


def test_a_read_that_begins_right_after_its_connection_was_lost_is_not_left_waiting(redis_url: str) -> None:
    async def main() -> None:
        reader = AsyncReader(redis_url, timeout_s=PATIENCE_S)
        await reader.start()
        connection = reader._connection
        assert connection is not None
        assert connection._transport is not None
        connection._transport.abort()
        await connection.lost
        answer = connection.ask(b"PING\r\n")
        assert answer.done()
        with pytest.raises(ConnectionResetError):
            await answer
        await reader.close()

    asyncio.run(main())


def test_closing_lets_the_loop_end_and_fails_what_was_under_way(redis_url: str, run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        reader = AsyncReader(redis_url, timeout_s=PATIENCE_S)
        await reader.start()
        blocked = asyncio.create_task(reader.execute((b"BLPOP", b"nothing", b"0"), timeout_s=PATIENCE_S))
        await asyncio.sleep(0.01)
        await reader.close()
        with pytest.raises(UnavailableError):
            await blocked

    run(main())


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_closing_fails_what_waits_for_the_first_connection_and_connects_no_more(
    scheme: str, run: Callable[[Awaitable[None]], None]
) -> None:
    async def main() -> None:
        calls, called = list[asyncio.StreamWriter](), asyncio.Event()

        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            calls.append(writer)
            called.set()

        port = free_port()
        server = await asyncio.start_server(silent, "127.0.0.1", port)
        reader = opened(f"{scheme}://127.0.0.1:{port}")
        waiting = asyncio.create_task(reader.read([b"a"]))
        await called.wait()
        await reader.close()
        with pytest.raises(UnavailableError, match="closed"):
            await asyncio.wait_for(waiting, PATIENCE_S)
        with pytest.raises(UnavailableError, match="closed"):
            await asyncio.wait_for(reader.read([b"a"]), PATIENCE_S)
        assert len(calls) == 1
        calls[0].close()
        server.close()

    run(main())


def test_a_reader_is_closed_even_while_a_connection_is_being_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "FIRST_WAIT_US", 500)
    monkeypatch.setattr(reader, "LONGEST_WAIT_US", 500)
    port = free_port()

    async def close_at_every_turn_of_the_loop() -> None:
        for turns in range(200):
            opened = reader.AsyncReader(f"redis://127.0.0.1:{port}/0")
            with pytest.raises(UnavailableError):
                await opened.start()
            for _ in range(turns % 40):
                await asyncio.sleep(0)
            await asyncio.wait_for(opened.close(), PATIENCE_S)

    uvloop.run(close_at_every_turn_of_the_loop())
