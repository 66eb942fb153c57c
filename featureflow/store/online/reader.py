"""The scorer's way to the online store: every read of an event loop on one pipelined connection, parsed by hiredis.

One read is one MGET, atomic: the states and the offset records it returns belong together. Offset records change with each commit,
not with each read, and many states seldom, so the server is asked to tell changes of them (``CLIENT TRACKING``, RESP3) and they are kept:
what an answer finds kept is what stood there as it was made (``beside.Kept``). Who asks is told as the reply is read, not in the loop's
next round (``Pending``). A lost connection fails the reads under way and is made again in the background, with backoff; until then reads
fail at once. A read is safe to repeat, but not repeated here: the caller has a deadline.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from featureflow.backoff import Backoff
from featureflow.clock import SystemClock
from featureflow.errors import UnavailableError
from featureflow.pending import Pending
from featureflow.store.online import tls
from featureflow.store.online.beside import Group, Kept, Together, Values, read_all
from featureflow.store.online.login import refusal
from featureflow.store.online.redis import SETTING, place, version

FIRST_WAIT_US, LONGEST_WAIT_US = 50_000, 2_000_000  # before it is connected to again
CANCEL_S = 0.05
CLOSED = "the reader is closed"
TRIES = 2                                  # to have groups kept and read beside; then everything is read at once
Heard = Callable[[Any], Any]               # what becomes of a reply, as it is taken off the stream


class _Connection(asyncio.Protocol):
    """Commands out, replies in, in order. ``kept``: what the server tells changes of; ``tells``: whether it does."""

    def __init__(self, kept: Kept) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader()
        self._waiting: deque[tuple[Pending[Any], Heard | None, float]] = deque()  # and when it was asked
        self.kept, self.tells = kept, False
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[Exception | None] = self._loop.create_future()

    def ask(self, packed: bytes, heard: Heard | None = None) -> Pending[Any]:
        """The reply, or what ``heard`` makes of it. It leaves with the next ``send``."""
        future = Pending[Any]()
        if self.lost.done():               # whoever keeps us has not heard of it yet, and nobody would end the wait
            future.set_exception(ConnectionResetError("the connection is lost"))
            return future
        self._waiting.append((future, heard, time.monotonic()))
        self._out.append(packed)
        return future

    def send(self) -> None:
        """What was asked, now: whoever waits for it would else wait for all that arrives in the loop's next round, too."""
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not False:
                if isinstance(reply, hiredis.PushNotification):
                    if self.tells and reply[0] == b"invalidate":
                        self.kept.changed(reply[1])
                    continue
                future, heard, asked_s = self._waiting.popleft()
                if self.tells:
                    self.kept.confirmed_s = asked_s
                if heard is not None:
                    reply = heard(reply)
                if not future.done():  # its caller gave up; the reply is still in the stream
                    future.set_result(reply)
        except (hiredis.HiredisError, IndexError) as problem:
            self.abort(problem)

    def connection_lost(self, problem: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(problem)
        self._tell_no_more()
        for future, _, _ in self._waiting:
            if not future.done():
                future.set_exception(ConnectionResetError(str(problem or "the server closed the connection")))
        self._waiting.clear()

    async def track(self) -> None:
        """Ask the server to tell changes of what it is asked to; one that does not know how, or may not, is not asked again."""
        for command in ((b"HELLO", b"3"), (b"CLIENT", b"TRACKING", b"ON", b"OPTIN")):
            asked = self.ask(_pack(command))
            self.send()
            if isinstance(await asked, hiredis.ReplyError):
                return
        self.kept.begin()
        self.tells = True

    def ask_beside(self, groups: Sequence[Group], keys: Sequence[bytes], *, tell: bool) -> Pending[Any]:
        """An error that is the server's or None, values of the groups, None for one that has changed meanwhile, and values of ``keys``, or
        None where one of these has.

        What is to be kept and is not yet is read right before the others. ``tell``: changes of the keys are to be told too. Where all is
        kept, one key is read all the same: what stands here by its answer is what stood there.
        """
        states = self.kept.states
        unknown = [group for group in groups if self.kept.get(group) is None]
        told, others = states.unknown(keys, tell=tell)
        names = [*(key for group in unknown for key in group), *told]

        def first(reply: Any) -> Any:
            return self._keep(unknown, told, reply), self._kept(groups), states.beside(keys, (), ())

        def last(reply: Any) -> Any:
            if isinstance(reply, hiredis.ReplyError):
                return reply, [], None
            if others:
                states.look(others, reply)
            return None, self._kept(groups), states.beside(keys, others, reply)

        if names:
            self._ask_to_tell()
            answer = self.ask(_pack((b"MGET", *names)), first)
            if not others:
                return answer
        elif not keys:
            known = Pending[Any]()
            known.set_result((None, self._kept(groups), ()))
            return known
        return self.ask(_pack((b"MGET", *(others or keys[:1]))), last)

    def _ask_to_tell(self) -> None:
        """Of the keys of the next command."""
        self.ask(_pack((b"CLIENT", b"CACHING", b"YES")), self._refused)

    def _refused(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._tell_no_more()

    def _tell_no_more(self) -> None:
        if self.tells:
            self.tells = False
            self.kept.end()

    def _kept(self, groups: Sequence[Group]) -> list[Values | None]:
        return list(map(self.kept.get, groups)) if self.tells else [None] * len(groups)

    def _keep(self, groups: Sequence[Group], states: Sequence[bytes], reply: Any) -> Any:
        """An error that is the server's, or None."""
        if isinstance(reply, hiredis.ReplyError):
            return reply
        if self.tells:
            at = 0
            for group in groups:
                self.kept.put(group, tuple(reply[at : at + len(group)]))
                at += len(group)
            self.kept.states.put(states, reply[at:])
        return None

    def abort(self, problem: Exception | None = None) -> None:
        if not self.lost.done():
            self.lost.set_result(problem)
        if self._transport is not None:
            self._transport.abort()


class AsyncReader:
    """``await read(keys)``: values of state keys, offset records and meta documents, in one atomic read.

    Belongs to the event loop it is first used in. ``timeout_s`` bounds connecting and, with no limit given, reading.
    Raises UnavailableError for what is no Redis URL.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 1.0,
        username: str = "",
        password: str = "",
        context: ssl.SSLContext | None = None,
        tracking: bool = True,
    ) -> None:
        """``username``, ``password``, ``context`` (of TLS): in place of those of the URL. ``tracking``: have the server tell changes."""
        try:
            self._options = tls.options(url)
            self._tls = None if not url.startswith("rediss:") else context or tls.context(self._options)
        except ValueError as problem:
            raise UnavailableError(f"{SETTING} is not a Redis URL: {problem}. Write redis://HOST:PORT/0, or embedded") from None
        self._options |= {"username": username, "password": password} if password else {}
        self._timeout_s, self._tracking = timeout_s, tracking
        self.kept = Kept()                  # of whatever connection there is
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._attempt: asyncio.Event | None = None
        self._stalls = 0
        self._closed = False
        self.place = place(url)
        self.problem: str | None = None     # why there is no connection now; None while there is

    @property
    def connected(self) -> bool:
        """Whether a read would be sent now."""
        return self._connection is not None

    async def start(self) -> None:
        """Connect. Raises UnavailableError; goes on trying in the background all the same, unless it is closed."""
        if self._closed:
            raise self._unavailable()
        if self._keeper is None:
            self._attempt = asyncio.Event()
            self._keeper = asyncio.create_task(self._keep_connected(), name="online-reader")
        assert self._attempt is not None
        await self._attempt.wait()
        if self._connection is None:
            raise self._unavailable()

    async def read(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:
        """Raises UnavailableError: no connection, no answer in time, or an answer that is an error."""
        if not keys:
            return []
        return cast("list[bytes | None]", await self.execute((b"MGET", *keys), timeout_s))

    async def read_beside(
        self, groups: Sequence[Group], keys: Sequence[bytes], timeout_s: float | None = None, *, tell: bool = False
    ) -> Together:
        """Values of the groups and of the other keys, as they were at one moment. Raises UnavailableError.

        ``tell``: while ``kept.live``, changes of the keys are told to ``kept.listener`` from now on.

        1. Groups that are not kept are read, and kept from then on; the keys are read right after, in the same write.
        2. Where a group has changed between the two, once more.
        3. Where it has again, or the server does not tell changes, everything is read by one MGET.
        """
        until = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        for _ in range(TRIES):
            connection = await self._connected()
            if not connection.tells:
                break
            asked = connection.ask_beside(groups, keys, tell=tell)
            connection.send()
            problem, records, values = await self._reply(connection, asked, until - time.monotonic())
            if problem is not None:
                break
            if values is not None and None not in records:
                return Together(records, values)
        return await read_all(lambda names: self.read(names, until - time.monotonic()), groups, keys)

    async def execute(self, command: tuple[bytes, ...], timeout_s: float | None = None) -> Any:
        """One command, for reading only. Raises UnavailableError."""
        reply = await self.reply(command, timeout_s)
        if isinstance(reply, hiredis.ReplyError):
            raise UnavailableError(f"Redis at {self.place} ({SETTING}) answered: {reply}")
        return reply

    async def reply(
        self, command: tuple[bytes, ...], timeout_s: float | None = None, *, before: tuple[bytes, ...] | None = None
    ) -> Any:
        """As ``execute``, but an error that is the server's answer is returned. ``before``: a command that goes right before it."""
        connection = await self._connected()
        if before is not None:
            connection.ask(_pack(before))
        asked = connection.ask(_pack(command))
        connection.send()
        return await self._reply(connection, asked, self._timeout_s if timeout_s is None else timeout_s)

    async def _connected(self) -> _Connection:
        if self._connection is None:
            await self.start()
            if self._connection is None:
                raise self._unavailable()
        return self._connection

    async def _reply(self, connection: _Connection, future: Pending[Any], limit_s: float) -> Any:
        timer = asyncio.get_running_loop().call_later(limit_s, _expire, future, limit_s)
        try:
            reply = await future
        except TimeoutError as problem:
            self._stalled(connection)
            late = f"Redis at {self.place} did not answer within {limit_s * 1000:.1f} ms; see {SETTING}"
            raise UnavailableError(late) from problem
        except OSError as problem:
            raise UnavailableError(f"Redis at {self.place} went away ({problem}); see {SETTING}") from problem
        finally:
            timer.cancel()
        self._stalls = 0
        return reply

    async def ping(self) -> str:
        """The server's name and version. Raises UnavailableError."""
        info = (await self.execute((b"INFO", b"server"))).decode()
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return version(fields)

    async def close(self) -> None:
        """Connect no more. Reads that are under way fail, and those that wait for the first connection, and all that come."""
        self._closed = True
        if self._keeper is not None:
            while not self._keeper.done():     # a connection refused at the same moment can take the cancellation's place
                self._keeper.cancel()
                await asyncio.wait((self._keeper,), timeout=CANCEL_S)
            self._keeper = None
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        self.problem = CLOSED
        if self._attempt is not None:
            self._attempt.set()

    def _stalled(self, connection: _Connection) -> None:
        """Three reads in a row without an answer: the connection may be dead without anybody saying so."""
        self._stalls += 1
        if self._stalls >= 3 and connection is self._connection:
            self._stalls = 0
            connection.abort(TimeoutError("three reads in a row without an answer"))

    def _unavailable(self) -> UnavailableError:
        problem = CLOSED if self._closed else self.problem
        said = refusal(problem, SETTING) or f"does not answer ({problem}); see {SETTING}"
        return UnavailableError(f"Redis at {self.place} {said}")

    async def _keep_connected(self) -> None:
        assert self._attempt is not None
        backoff = Backoff(SystemClock(), FIRST_WAIT_US, LONGEST_WAIT_US)
        while True:
            try:
                async with asyncio.timeout(self._timeout_s):
                    connection = await self._connect()
            except (OSError, TimeoutError, UnavailableError) as problem:
                self.problem = str(problem) or type(problem).__name__
                self._attempt.set()
                await asyncio.sleep(backoff.failed() / 1e6 * (0.5 + random.random()))  # not all scorers at once
                continue
            backoff.succeeded()
            self.problem, self._connection = None, connection
            self._attempt.set()
            why = await connection.lost
            self._connection, self.problem = None, str(why or "the server closed the connection")

    async def _connect(self) -> _Connection:
        options, loop = self._options, asyncio.get_running_loop()
        if "path" in options:
            _, connection = await loop.create_unix_connection(lambda: _Connection(self.kept), options["path"])
        else:
            host, port = options.get("host", "localhost"), options.get("port", 6379)
            _, connection = await loop.create_connection(lambda: _Connection(self.kept), host, port, ssl=self._tls)
        commands: list[tuple[bytes, ...]] = [(b"CLIENT", b"SETNAME", b"featureflow-serve")]
        if options.get("db"):
            commands.insert(0, (b"SELECT", str(options["db"]).encode()))
        if password := options.get("password"):
            user = (options["username"].encode(),) if options.get("username") else ()
            commands.insert(0, (b"AUTH", *user, password.encode()))
        try:
            replies = [connection.ask(_pack(command)) for command in commands]
            connection.send()
            for asked in replies:
                if isinstance(reply := await asked, hiredis.ReplyError):
                    raise UnavailableError(str(reply))
            if self._tracking:
                await connection.track()
        except BaseException:
            connection.abort()
            raise
        return connection


def _pack(command: tuple[bytes, ...]) -> bytes:
    return cast(bytes, hiredis.pack_command(cast(Any, command)))  # its stub knows tuples of one only


def _expire(future: Pending[Any], limit_s: float) -> None:
    if not future.done():
        future.set_exception(TimeoutError(f"{limit_s} s"))
