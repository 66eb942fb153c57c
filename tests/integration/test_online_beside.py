"""Groups of keys that a reader keeps while the server tells it of changes: never of another moment than what is read beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import hiredis
import pytest
import redis
import uvloop

from featureflow.errors import UnavailableError
from featureflow.store.online.beside import Group, Kept
from featureflow.store.online.cluster import is_cluster, seeds
from featureflow.store.online.open import open_reader
from featureflow.store.online.reader import AsyncReader

PATIENCE_S = 60.0
GROUPS: tuple[Group, ...] = tuple(tuple(b"{b:0}offset%d:%d" % (group, i) for i in range(3)) for group in range(4))
STATES = [b"{b:0}state%d" % i for i in range(20)]
ALL = [*(key for group in GROUPS for key in group), *STATES]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    runner: Callable[[Awaitable[None]], None] = request.param
    return runner


@pytest.fixture(params=["embedded", "production", "cluster"])
def store_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_redis_url")
    return url


@contextmanager
def raw_client(url: str) -> Iterator[redis.Redis | redis.RedisCluster]:
    found = redis.RedisCluster(*seeds(url)[0][0]) if is_cluster(url) else redis.Redis.from_url(url)
    with closing(found):
        yield found


def put(raw: Any, n: int) -> None:
    """All keys at once, as a commit writes states and offset records."""
    raw.mset(dict.fromkeys(ALL, b"%d" % n))


def test_what_is_kept_is_of_the_moment_of_what_is_read_beside_it(store_url: str, run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        reader = open_reader(store_url)
        with raw_client(store_url) as raw:
            put(raw, 0)
            for n in range(1, 60):
                writing = asyncio.create_task(asyncio.to_thread(put, raw, n))
                reads = await asyncio.gather(*(reader.read_beside(GROUPS[: 1 + i % 4], STATES[i:], PATIENCE_S) for i in range(6)))
                await writing
                for i, (groups, values) in enumerate(reads):
                    assert (len(groups), len(values)) == (1 + i % 4, len(STATES) - i)
                    assert len({value for group in groups for value in group} | set(values)) == 1
        await reader.close()

    run(main())


def test_a_change_is_known_with_the_answer_that_comes_after_it(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        reader = AsyncReader(redis_url, timeout_s=PATIENCE_S)
        with raw_client(redis_url) as raw:
            for n in range(3):
                put(raw, n)
                groups, values = await reader.read_beside(GROUPS, STATES)
                assert {*values, *(value for group in groups for value in group)} == {b"%d" % n}
            raw.delete(GROUPS[1][2])
            assert (await reader.read_beside(GROUPS, STATES)).groups[1] == (b"2", b"2", None)
            raw.flushdb()
            assert (await reader.read_beside(GROUPS, STATES)).groups == [(None, None, None)] * 4
            put(raw, 7)
            await reader.read_beside(GROUPS, STATES)
            monkeypatch.setattr(Kept, "changed", lambda *anything: None)
            put(raw, 8)
            groups, values = await reader.read_beside(GROUPS, STATES)
            assert (groups[0][0], values[0]) == (b"7", b"8"), "without the guard they would be of two moments"
        await reader.close()

    asyncio.run(main())


def test_what_is_kept_is_not_read_again(embedded_redis_url: str) -> None:
    async def main() -> None:
        reader = AsyncReader(embedded_redis_url, timeout_s=PATIENCE_S)
        with raw_client(embedded_redis_url) as raw:
            put(raw, 1)

            async def looked_up(groups: tuple[Group, ...]) -> int:
                before = raw.info("stats")["keyspace_hits"]
                await reader.read_beside(groups, STATES)
                found: int = raw.info("stats")["keyspace_hits"] - before
                return found

            assert await looked_up(GROUPS[:2]) == 6 + 20
            assert await looked_up(GROUPS[:2]) == 20
            assert await looked_up(GROUPS) == 6 + 20
            raw.set(GROUPS[3][0], b"1")
            assert await looked_up(GROUPS) in (3 + 20, 20 + 3 + 20), "the group that changed, at once or as that is told"
            raw.set(GROUPS[3][0], b"1")
            await asyncio.sleep(0.1)
            assert await looked_up(GROUPS) == 3 + 20, "the group that changed"
        await reader.close()

    asyncio.run(main())


def test_what_was_kept_is_forgotten_with_its_connection(redis_url: str) -> None:
    async def main() -> None:
        reader = AsyncReader(redis_url, timeout_s=PATIENCE_S)
        with raw_client(redis_url) as raw:
            put(raw, 1)
            await reader.read_beside(GROUPS, STATES)
            me = await reader.execute((b"CLIENT", b"ID"))
            raw.client_kill_filter(_id=me)
            put(raw, 2)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        groups, values = await reader.read_beside(GROUPS, STATES)
                        break
                    except UnavailableError:
                        await asyncio.sleep(0.01)
            assert {*values, *(value for group in groups for value in group)} == {b"2"}
        await reader.close()

    asyncio.run(main())


@pytest.mark.parametrize("refused", ["hello", "client|tracking", "client|caching"])
def test_a_server_that_does_not_tell_changes_is_read_whole(embedded_redis_url: str, refused: str) -> None:
    """As one that is older, or behind a proxy, or whose user may not."""

    async def main() -> None:
        with raw_client(embedded_redis_url) as raw:
            raw.execute_command("ACL", "SETUSER", "plain", "reset", "on", ">p", "~*", "+@all", f"-{refused}")
            reader = AsyncReader(embedded_redis_url, timeout_s=PATIENCE_S, username="plain", password="p")
            for n in range(3):
                put(raw, n)
                groups, values = await reader.read_beside(GROUPS, STATES)
                assert {*values, *(value for group in groups for value in group)} == {b"%d" % n}
            await reader.close()
            raw.execute_command("ACL", "DELUSER", "plain")

    asyncio.run(main())


def test_a_group_that_changes_between_its_read_and_the_states_is_read_with_them() -> None:
    """A server that says so each time: after two tries everything is read by one command."""
    asked: list[bytes] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.parser = cast(asyncio.Transport, transport), hiredis.Reader()

        def data_received(self, data: bytes) -> None:
            self.parser.feed(data)
            while (command := self.parser.gets()) is not False:
                asked.append(b" ".join(command[:3]))
                self.transport.write(self.answer(command))

        def answer(self, command: list[bytes]) -> bytes:
            if command[0] != b"MGET":
                return b"%0\r\n" if command[0] == b"HELLO" else b"+OK\r\n"
            told = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$6\r\noffset\r\n" if b"state" in command else b""
            return told + b"*%d\r\n" % (len(command) - 1) + b"".join(b"$%d\r\n%b\r\n" % (len(key), key) for key in command[1:])

        def connection_lost(self, problem: Exception | None) -> None:
            gone.set()

    gone = asyncio.Event()

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        async with server:
            reader = AsyncReader(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", timeout_s=PATIENCE_S)
            assert await reader.read_beside([(b"offset",)], [b"state"]) == ([(b"offset",)], [b"state"])
            kept = [b"CLIENT CACHING YES", b"MGET offset", b"MGET state"]
            assert asked[-7:] == [*kept, *kept, b"MGET offset state"]
            await reader.close()
            await asyncio.wait_for(gone.wait(), PATIENCE_S)

    asyncio.run(main())
