"""The scorer's way to a Redis Cluster: a connection to each node that has a bucket, and one MGET for each bucket of a read.

What belongs together, an entity's states and its bucket's offset records, is in one slot, so each MGET is atomic, and all leave at once.
MOVED and ASK are followed. While a slot moves, an MGET of keys on both sides is answered TRYAGAIN: its keys are then read one by
one, and count if its offset records are the same before and after, for then no commit came between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.crc import key_slot

from featureflow.errors import UnavailableError
from featureflow.store.online import tls
from featureflow.store.online.beside import Group, Kept, Together, read_all
from featureflow.store.online.cluster import REDIRECTS, seeds
from featureflow.store.online.reader import CLOSED, AsyncReader
from featureflow.store.online.redis import SETTING

LOOK_S = 5.0                               # how often the topology is read again
RETRY_S = 0.002                            # of a read whose slot is on its way
SLOTS = 16_384

Address = tuple[str, int]


class ClusterReader:
    """As ``AsyncReader``, for ``redis+cluster://``: ``await read(keys)``, those of one bucket in one atomic read.

    Belongs to the event loop it is first used in. ``timeout_s`` bounds connecting and, with no limit given, reading.
    """

    def __init__(self, url: str, *, timeout_s: float = 1.0) -> None:
        self._seeds, options = seeds(url)
        self._context = tls.context(options) if options.pop("ssl", False) else None
        self._scheme = "rediss" if self._context else "redis"
        self._login = {name: options[name] for name in ("username", "password") if name in options}
        self._timeout_s = timeout_s
        self.kept = Kept()                 # nothing: slots move, and what a node tells of its keys ends with that
        self._nodes: dict[Address, AsyncReader] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        self._looker: asyncio.Task[None] | None = None
        self._looked: asyncio.Event | None = None
        self._known = False                # the topology was read once
        self._due = asyncio.Event()
        self._closed = False
        self.place = ",".join(f"{host}:{port}" for host, port in self._seeds)
        self.problem: str | None = None    # why the topology is not known now; None while it is

    @property
    def connected(self) -> bool:
        return self._known and self.problem is None

    async def start(self) -> None:
        """Read the topology. Raises UnavailableError; goes on trying in the background all the same, unless it is closed."""
        if self._looker is None and not self._closed:
            self._looked = asyncio.Event()
            self._looker = asyncio.create_task(self._keep_looking(), name="online-cluster")
        if self._looked is not None:
            await self._looked.wait()
        if not self._known:
            raise UnavailableError(f"no node of the Redis Cluster at {self.place} answers ({self.problem}); see {SETTING}")

    async def read(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:
        """Raises UnavailableError: a node that is asked has no connection, does not answer in time, or answers with an error."""
        if not keys:
            return []
        if not self._known:
            await self.start()
        groups: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            groups.setdefault(key_slot(key), []).append(place)
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        if len(groups) == 1:
            (slot,) = groups
            return await self._bucket(slot, keys, limit_s)
        found = await asyncio.gather(*(self._bucket(slot, [keys[i] for i in own], limit_s) for slot, own in groups.items()))
        values: list[bytes | None] = [None] * len(keys)
        for own, some in zip(groups.values(), found, strict=True):
            for i, value in zip(own, some, strict=True):
                values[i] = value
        return values

    async def read_beside(
        self, groups: Sequence[Group], keys: Sequence[bytes], timeout_s: float | None = None, *, tell: bool = False
    ) -> Together:
        """As ``read``; nothing is told."""
        return await read_all(lambda names: self.read(names, timeout_s), groups, keys)

    async def ping(self) -> str:
        """The first node's name and version. Raises UnavailableError."""
        await self.start()
        return f"{await self._node(next(owner for owner in self._owners if owner)).ping()} Cluster"

    async def close(self) -> None:
        """As ``AsyncReader.close``."""
        self._closed = True
        if self._looker is not None:
            self._looker.cancel()
            await asyncio.wait((self._looker,))
            self._looker = None
        self._known, self.problem = False, CLOSED
        if self._looked is not None:
            self._looked.set()
        await asyncio.gather(*(node.close() for node in self._nodes.values()))
        self._nodes.clear()

    # -- one bucket ----------------------------------------------------------------------------------------------------

    async def _bucket(self, slot: int, keys: Sequence[bytes], limit_s: float) -> list[bytes | None]:
        """Values of keys of one slot, as they were at one moment."""
        loop = asyncio.get_running_loop()
        until, tried = loop.time() + limit_s, False
        while True:
            try:
                reply = await self._follow(slot, (b"MGET", *keys), until)
                if not isinstance(reply, hiredis.ReplyError):
                    return cast("list[bytes | None]", reply)
                if not str(reply).startswith("TRYAGAIN"):
                    raise UnavailableError(f"the Redis Cluster at {self.place} ({SETTING}) answered: {reply}")
                tried = True
                if (values := await self._one_by_one(slot, keys, until)) is not None:
                    return values
            except UnavailableError:
                if not tried or loop.time() < until:
                    raise                      # else it is the slot that took all the time, not the node that was asked last
            if loop.time() + RETRY_S >= until:
                raise UnavailableError(
                    f"slot {slot} of the Redis Cluster at {self.place} is on its way to another node, and was written to all the time; "
                    f"see {SETTING}"
                )
            await asyncio.sleep(RETRY_S)

    async def _one_by_one(self, slot: int, keys: Sequence[bytes], until: float) -> list[bytes | None] | None:
        """Each key by itself, between two looks at the offset records; None where these differ, or there are none to tell."""
        records = [key for key in keys if key.startswith(b"offset:")]
        if not records:
            return None
        before = await self._gets(slot, records, until)
        values = await self._gets(slot, keys, until)
        after = await self._gets(slot, records, until)
        return values if before == after else None

    async def _gets(self, slot: int, keys: Sequence[bytes], until: float) -> list[bytes | None]:
        replies = await asyncio.gather(*(self._follow(slot, (b"GET", key), until) for key in keys))
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise UnavailableError(f"the Redis Cluster at {self.place} ({SETTING}) answered: {reply}")
        return cast("list[bytes | None]", replies)

    async def _follow(self, slot: int, command: tuple[bytes, ...], until: float) -> Any:
        """The reply of whoever has the slot, or an error that is no redirection."""
        address, asking, reply = self._owners[slot], False, None
        if address is None:
            self._due.set()
            raise UnavailableError(f"no node of the Redis Cluster at {self.place} has slot {slot} ({SETTING})")
        for _ in range(REDIRECTS):
            left_s = max(0.0, until - asyncio.get_running_loop().time())
            try:
                reply = await self._node(address).reply(command, left_s, before=(b"ASKING",) if asking else None)
            except UnavailableError:
                self._due.set()
                raise
            if not isinstance(reply, hiredis.ReplyError):
                return reply
            kind, _, rest = str(reply).partition(" ")
            if kind not in ("MOVED", "ASK"):
                if kind == "CLUSTERDOWN":
                    self._due.set()
                return reply
            host, _, port = rest.rpartition(" ")[2].rpartition(":")
            address, asking = (host or address[0], int(port)), kind == "ASK"
            if not asking:
                self._owners[slot] = address
                self._due.set()
        return reply

    # -- topology ------------------------------------------------------------------------------------------------------

    def _node(self, address: Address) -> AsyncReader:
        node = self._nodes.get(address)
        if node is None and self._closed:      # whoever follows a redirection meanwhile: nobody would close another connection
            raise UnavailableError(f"no node of the Redis Cluster at {self.place} is asked: {CLOSED}")
        if node is None:
            host, port = address
            url = f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"
            node = self._nodes[address] = AsyncReader(
                url, timeout_s=self._timeout_s, context=self._context, tracking=False, **self._login
            )
        return node

    async def _keep_looking(self) -> None:
        assert self._looked is not None
        while True:
            self._due.clear()
            await self._look()
            self._looked.set()
            try:
                async with asyncio.timeout(LOOK_S if self.problem is None else RETRY_S * 50):
                    await self._due.wait()
                await asyncio.sleep(RETRY_S * 10)          # many reads say so at once
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """Ask nodes, those known first, who has which slot."""
        for address in dict.fromkeys((*self._nodes, *self._seeds)):
            try:
                ranges = await self._node(address).execute((b"CLUSTER", b"SLOTS"))
            except UnavailableError as problem:
                self.problem = str(problem)
                continue
            owners: list[Address | None] = [None] * SLOTS
            for first, last, primary, *_ in ranges:
                host = primary[0].decode() if primary[0] else address[0]
                owners[first : last + 1] = [(host, primary[1])] * (last + 1 - first)
            if any(owners):
                self._owners, self._known, self.problem = owners, True, None
                await self._forget({owner for owner in owners if owner} | set(self._seeds))
                return
            self.problem = f"{address[0]}:{address[1]} knows of no slots"

    async def _forget(self, kept: set[Address]) -> None:
        for address in [address for address in self._nodes if address not in kept]:
            await self._nodes.pop(address).close()
