"""The online store's one atomic read, for who has no event loop of connections: offered as what a ``Fetcher`` reads through."""

from __future__ import annotations

from collections.abc import Sequence

from featureflow.store.online.beside import Group, Kept, Together, read_all
from featureflow.store.online.protocol import OnlineStore


class BlockingReader:
    """Each read is waited for where it is asked for. Nothing is told of changes, so nothing is kept."""

    def __init__(self, online: OnlineStore) -> None:
        self._online, self.kept = online, Kept()

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._online.read(keys)

    async def read_beside(self, groups: Sequence[Group], keys: Sequence[bytes], *, tell: bool = False) -> Together:
        return await read_all(self.read, groups, keys)
