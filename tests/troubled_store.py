"""An online store that things happen to: for workers that are to come to the same values whatever does."""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Sequence

from featureflow.errors import UnavailableError, UnknownOutcomeError
from featureflow.store.keys import ONE, Bucket
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Claim, Commit, Committed, OffsetRecord, OneByOne, Refused


class TroubledStore:
    """An online store behind a bad network, which may also lose its last second.

    ``rate`` is the chance of each kind of trouble at each call. A commit whose reply was lost may still arrive, later.
    """

    def __init__(self, store: MemoryOnlineStore, luck: random.Random, rate: float = 0.0) -> None:
        self.store, self.luck, self.rate = store, luck, rate
        self.flying: list[Commit] = []
        self.durable: list[MemoryOnlineStore] = []
        self.troubles = 0

    def _trouble(self) -> bool:
        struck = self.luck.random() < self.rate
        self.troubles += struck
        return struck

    def _reach(self) -> None:
        if self._trouble():
            raise UnavailableError("the network is down; see online.url")
        if self.flying and self._trouble():
            self.store.commit(self.flying.pop(self.luck.randrange(len(self.flying))))
        if self.durable and self.luck.random() < self.rate / 4:
            self.troubles += 1
            self.store = copy.deepcopy(self.luck.choice(self.durable))

    def commit(self, commit: Commit) -> Committed | Refused:
        self._reach()
        if self._trouble():
            self.flying.append(commit)
            raise UnknownOutcomeError("lost on the way there; see online.url")
        answer = self.store.commit(commit)
        if self.luck.random() < 0.2:
            self.durable = [*self.durable[-3:], copy.deepcopy(self.store)]
        if self._trouble():
            if self._trouble():
                self.flying.append(commit)
            raise UnknownOutcomeError("lost on the way back; see online.url")
        return answer

    def pipeline(self) -> OneByOne:
        return OneByOne(self.commit)

    @property
    def one_server(self) -> bool:
        return self.store.one_server

    def create_offsets(self, view_id: str, source: str, topic_id: str, offsets: dict[int, int], of: int = 1) -> list[int]:
        return self.store.create_offsets(view_id, source, topic_id, offsets, of)

    def drop_view(self, view_id: str, *, for_good: bool = True, places: Collection[tuple[str, int]] = (), of: int = 1) -> int:
        return self.store.drop_view(view_id, for_good=for_good, places=places, of=of)

    def withdraw(self, live: Collection[str]) -> int:
        return self.store.withdraw(live)

    def claim(self, source: str, partition: int, view_ids: Sequence[str], topic_id: str, of: int = 1) -> Claim:
        self._reach()
        return self.store.claim(source, partition, view_ids, topic_id, of)

    def now_ms(self) -> int:
        self._reach()
        return self.store.now_ms()

    def offsets(
        self, source: str, partition: int, view_ids: Sequence[str], bucket: Bucket = ONE
    ) -> dict[str, OffsetRecord | None]:
        self._reach()
        return self.store.offsets(source, partition, view_ids, bucket)

    def visible(self, view_id: str, source: str, partition: int, bucket: Bucket = ONE) -> list[tuple[int, int]]:
        return self.store.visible(view_id, source, partition, bucket)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._reach()
        return self.store.read(keys)

    def put_meta(self, name: str, value: bytes) -> None:
        self.store.put_meta(name, value)

    def get_meta(self, name: str) -> bytes | None:
        return self.store.get_meta(name)

    def share(self, name: str, member: str, value: bytes, life_ms: int, most: int) -> list[bytes]:
        return self.store.share(name, member, value, life_ms, most)

    def check(self) -> list[str]:
        return self.store.check()

    def ping(self) -> str:
        return self.store.ping()

    def close(self) -> None:
        self.store.close()
