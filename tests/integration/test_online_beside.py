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
from featureflow.store.online.beside import CALM, LOOK, Group, Kept
from featureflow.store.online.cluster import is_cluster, seeds
from featureflow.store.online.open import open_reader
from featureflow.store.online.reader import AsyncReader

PATIENCE_S = 60.0
GROUPS: tuple[Group, ...] = tuple(tuple(b"{b:0}offset%d:%d" % (group, i) for i in range(3)) for group in range(4))
SEEN = LOOK * (CALM + 1)  # reads, after which a state that stayed the same is kept
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


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.005)


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
                groups, values = await reader.read_beside(GROUPS, STATES[:10])
                assert {*values, *(value for group in groups for value in group)} == {b"%d" % n}
            raw.delete(GROUPS[1][2])
            assert (await reader.read_beside(GROUPS, STATES[:10])).groups[1] == (b"2", b"2", None)
            raw.flushdb()
            assert (await reader.read_beside(GROUPS, STATES[:10])).groups == [(None, None, None)] * 4
            put(raw, 7)
            await reader.read_beside(GROUPS, STATES[:10])
            monkeypatch.setattr(Kept, "changed", lambda *anything: None)
            put(raw, 8)
            groups, values = await reader.read_beside(GROUPS, STATES[10:])
            assert (groups[0][0], values[0]) == (b"7", b"8"), "without the guard they would be of two moments"
        await reader.close()

    asyncio.run(main())


def test_what_is_kept_is_not_read_again(embedded_redis_url: str) -> None:
    async def main() -> None:
        reader = AsyncReader(embedded_redis_url, timeout_s=PATIENCE_S)
        with raw_client(embedded_redis_url) as raw:
            put(raw, 1)

            async def looked_up(groups: tuple[Group, ...], states: list[bytes]) -> int:
                before = raw.info("stats")["keyspace_hits"]
                await reader.read_beside(groups, states)
                found: int = raw.info("stats")["keyspace_hits"] - before
                return found

            first, others = STATES[:5], STATES[5:]
            assert await looked_up(GROUPS[:2], first) == 6 + 5
            for _ in range(SEEN - 1):
                assert await looked_up(GROUPS[:2], first) == 5, "states that are read for the first time are not kept"
            assert await looked_up(GROUPS[:2], first) == 5
            assert await looked_up(GROUPS[:2], first) == 1, "one, to know up to when changes were told"
            assert await looked_up(GROUPS, STATES) == 6 + 15
            for _ in range(SEEN + 1):
                await looked_up(GROUPS, others)
            assert await looked_up(GROUPS, STATES) == 1
            raw.set(GROUPS[3][0], b"1")
            assert await looked_up(GROUPS, STATES) in (3, 1 + 3), "the group that changed, at once or as that is told"
            raw.set(STATES[7], b"1")
            await until(lambda: len(reader.kept.states) == 19)
            assert await looked_up(GROUPS, STATES) == 1, "the state that changed"
            raw.set(GROUPS[3][0], b"1")
            await until(lambda: reader.kept.get(GROUPS[3]) is None)
            assert await looked_up(GROUPS, STATES) == 3 + 1, "both"
        await reader.close()

    asyncio.run(main())


def test_states_that_are_kept_are_what_stands_there(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are absent, and what is deleted, made and written while nobody looks."""

    async def main() -> None:
        reader = AsyncReader(redis_url, timeout_s=PATIENCE_S)
        absent = b"{b:0}absent"
        with raw_client(redis_url) as raw:
            raw.delete(absent)
            put(raw, 1)
            for _ in range(SEEN + 2):
                assert (await reader.read_beside(GROUPS, [*STATES, absent])).values == [*[b"1"] * 20, None]
            assert len(reader.kept.states) == 21
            raw.set(absent, b"new")
            raw.delete(STATES[0])
            raw.append(STATES[1], b"more")
            for _ in range(SEEN + 2):
                assert (await reader.read_beside(GROUPS, [*STATES, absent])).values == [None, b"1more", *[b"1"] * 18, b"new"]
            raw.flushdb()
            assert (await reader.read_beside(GROUPS, STATES)).values == [None] * 20
            put(raw, 2)
            for _ in range(SEEN + 2):
                await reader.read_beside(GROUPS, STATES)
            monkeypatch.setattr(Kept, "changed", lambda *anything: None)
            put(raw, 3)
            assert (await reader.read_beside(GROUPS, STATES)).values == [b"2"] * 20, "without the guard they would be old"
        await reader.close()

    asyncio.run(main())


def test_changes_of_states_that_are_kept_already_are_told_to_who_asks(redis_url: str) -> None:
    async def main() -> None:
        reader = AsyncReader(redis_url, timeout_s=PATIENCE_S)
        told: list[bytes] = []
        reader.kept.listener = lambda keys: told.extend(keys or ())
        with raw_client(redis_url) as raw:
            put(raw, 1)
            for _ in range(SEEN + 2):
                await reader.read_beside(GROUPS, STATES)
            await reader.read_beside(GROUPS, STATES, tell=True)
            raw.set(STATES[3], b"2")
            assert (await reader.read_beside(GROUPS, STATES)).values[3] == b"2"
            assert told == [STATES[3]]
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


def test_what_changes_between_two_answers_is_read_again_and_then_everything_by_one_command() -> None:
    """A server that tells with each answer that something has changed which is not in it."""
    asked: list[bytes] = []
    changes: list[bytes] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.parser = cast(asyncio.Transport, transport), hiredis.Reader()

        def data_received(self, data: bytes) -> None:
            self.parser.feed(data)
            while (command := self.parser.gets()) is not False:
                asked.append(b" ".join(command))
                self.transport.write(self.answer(command))

        def answer(self, command: list[bytes]) -> bytes:
            if command[0] != b"MGET":
                return b"%0\r\n" if command[0] == b"HELLO" else b"+OK\r\n"
            changed = changes.pop(0) if changes else b""
            told = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$%d\r\n%b\r\n" % (len(changed), changed) if changed else b""
            return told + b"*%d\r\n" % (len(command) - 1) + b"".join(b"$%d\r\n%b\r\n" % (len(key), key) for key in command[1:])

        def connection_lost(self, problem: Exception | None) -> None:
            gone.set()

    gone = asyncio.Event()
    caching = b"CLIENT CACHING YES"

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        async with server:
            reader = AsyncReader(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", timeout_s=PATIENCE_S)

            async def read(groups: list[Group], *told: bytes) -> list[bytes]:
                asked.clear()
                changes[:] = told
                assert await reader.read_beside(groups, [b"state"]) == (groups, [b"state"])
                return list(asked)

            both: list[Group] = [(b"one",), (b"two",)]
            for _ in range(SEEN):
                reader.kept.states.look([b"state"], [b"state"])
            assert (await read(both[:1], b"one"))[-2:] == [caching, b"MGET one state"]
            assert await read(both) == [caching, b"MGET two"]
            assert await read(both) == [b"MGET state"]
            assert await read(both, b"one", b"state") == [b"MGET state", caching, b"MGET one", b"MGET one two state"]
            again = [b"MGET state", caching, b"MGET two", b"MGET state"]
            assert await read(both, b"two") == again
            assert await read(both, b"two", b"", b"one") == [*again, b"MGET one two state"]
            await reader.close()
            await asyncio.wait_for(gone.wait(), PATIENCE_S)

    asyncio.run(main())
