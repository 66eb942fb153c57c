"""The store in memory without one of its guards each: to show that the guard carries weight. Each class takes away one check and
leaves the rest, by making what is checked agree before it is."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from featureflow.store.online import record
from featureflow.store.online.memory import MemoryOnlineStore, _Value
from featureflow.store.online.protocol import Commit, Committed, OffsetRecord, Refused, Track
from featureflow.store.online.writes import StateWrite, Writes


class Unguarded(MemoryOnlineStore):
    """What the classes below share: the records that a commit names, by key."""

    def _named(self, commit: Commit) -> dict[Track, tuple[bytes, OffsetRecord]]:
        """Track -> key and record."""
        named = {}
        for key, stored in self.snapshot().offsets().items():
            for advance in commit.advances:
                if key.endswith(f":{advance.bucket}}}:{advance.view_id}:{commit.source}:{commit.partition}".encode()):
                    named[advance.track] = key, stored
        return named


class NoToken(Unguarded):
    """Whoever commits is taken for the holder."""

    def commit(self, commit: Commit) -> Committed | Refused:
        tokens = {stored.token for _, stored in self._named(commit).values()}
        return super().commit(replace(commit, token=tokens.pop()) if len(tokens) == 1 else commit)


class NoOffset(Unguarded):
    """Wherever a commit starts from, it may go."""

    def commit(self, commit: Commit) -> Committed | Refused:
        held = self.snapshot()
        named = self._named(commit)
        for advance in commit.advances:
            if advance.track in named:
                key, stored = named[advance.track]
                self.damage(key, record.encode(replace(stored, offset=advance.from_offset)))
        answer = super().commit(commit)
        if isinstance(answer, Refused):
            self.roll_back(held)
        return answer


class NoLength(Unguarded):
    """Patches land where they say, whatever is there: beyond the end of a value they leave zeros."""

    def commit(self, commit: Commit) -> Committed | Refused:
        odd = [write for write in commit.writes if len(self._get(write.key) or b"") != write.expected_bytes]
        if not odd:
            return super().commit(commit)
        keys = {write.key for write in odd}
        answer = super().commit(replace(commit, writes=Writes.of(write for write in commit.writes if write.key not in keys)))
        if isinstance(answer, Committed):
            for write in odd:
                self._put_anyway(write)
        return answer

    def _put_anyway(self, write: StateWrite) -> None:
        data = bytearray(self._get(write.key) or b"") if write.whole is None else bytearray(write.whole)
        for patch in write.patches:
            data.extend(bytes(max(0, patch.position - len(data))))
            data[patch.position : patch.position + len(patch.data)] = patch.data
        self._values[write.key] = _Value(bytes(data), self.now_ms() + write.ttl_ms)


class NoHeader(Unguarded):
    """A key of the right length is taken for the one that was read."""

    def commit(self, commit: Commit) -> Committed | Refused:
        writes = [
            msgspec.structs.replace(write, header=value[: len(write.header)])
            if (value := self._get(write.key)) is not None and len(value) == write.expected_bytes
            else write
            for write in commit.writes
        ]
        return super().commit(replace(commit, writes=Writes.of(writes)))
