"""The online store in a dict: the protocol, checks and order of ``lua/commit.lua``, for unit tests and simulations."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import product

from featureflow.clock import NO_TIME_US, Clock
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import BeingRebuiltError, OffsetMissingError
from featureflow.store.keys import ONE, Bucket, Keys, buckets, tag_of
from featureflow.store.online import call, loss, published, record
from featureflow.store.online.protocol import (
    DROPPED,
    Claim,
    Commit,
    Committed,
    OffsetRecord,
    OneByOne,
    Refused,
    Track,
)
from featureflow.store.online.writes import ANY


@dataclass(frozen=True)
class _Value:
    data: bytes
    dies_ms: int                           # 0: never


@dataclass(frozen=True)
class Snapshot:
    """What a store held at one moment. Compared with another, it says whether anything changed."""

    values: dict[bytes, _Value]
    seen: dict[bytes, list[tuple[int, int]]]

    def offsets(self) -> dict[bytes, OffsetRecord]:
        """Key -> offset record, of every one there is."""
        return {key: record.decode(value.data) for key, value in self.values.items() if key.startswith(b"offset:")}


class MemoryOnlineStore:
    """One process, one thread. Time to live and ``committed_ms`` come from the clock that is given. ``one_server``: see the protocol."""

    def __init__(self, clock: Clock, *, project: str = DEFAULT_PROJECT, one_server: bool = True) -> None:
        self._clock, self._keys, self.one_server = clock, Keys(project), one_server
        self._values: dict[bytes, _Value] = {}
        self._seen: dict[bytes, list[tuple[int, int]]] = {}
        self._shared: dict[bytes, dict[str, tuple[int, bytes]]] = {}   # when it was said, and what. In no snapshot: it is said again

    def create_offsets(self, view_id: str, source: str, topic_id: str, offsets: dict[int, int], of: int = 1) -> list[int]:
        left = set[int]()
        for partition, bucket in product(offsets, buckets(of)):
            key = self._keys.offset(view_id, source, partition, bucket)
            if self._get(key) in (None, record.dropped()):
                self._put(key, record.encode(OffsetRecord(record.NO_TOKEN, offsets[partition], -1, NO_TIME_US, 0, topic_id)))
            else:
                left.add(partition)
        return [partition for partition in offsets if partition not in left]

    def drop_view(self, view_id: str, *, for_good: bool = True, places: Collection[tuple[str, int]] = (), of: int = 1) -> int:
        middle, tail = f":{view_id}:".encode(), f":{view_id.partition('@')[0]}".encode()
        keys = [key for key in (*self._values, *self._seen) if middle in key and not key.startswith(b"meta:")]
        if not for_good:
            keys += [key for key in self._values if key.startswith(b"plain:") and key.endswith(tail)]
        marked = [] if for_good else [key for key in keys if key.startswith(b"offset:")]
        gone = [key for key in keys if key not in marked]
        for key in marked:
            self._put(key, record.dropped())
        for key in gone:
            self._values.pop(key, None)
            self._seen.pop(key, None)
        return len(gone)

    def withdraw(self, live: Collection[str]) -> int:
        staying = tuple(map(published.begins, live))
        keys = [key for key in self._values if key.startswith(b"plain:") and not self._values[key].data.startswith(staying)]
        for key in keys:
            del self._values[key]
        return len(keys)

    def claim(self, source: str, partition: int, view_ids: Sequence[str], topic_id: str, of: int = 1) -> Claim:
        token = secrets.token_bytes(16)
        records: dict[Track, OffsetRecord] = {}
        for bucket in buckets(of):
            records |= self.claim_bucket(source, partition, view_ids, topic_id, bucket, token)
        return Claim(source, partition, token, records)

    def claim_bucket(
        self, source: str, partition: int, view_ids: Sequence[str], topic_id: str, bucket: Bucket, token: bytes
    ) -> dict[Track, OffsetRecord]:
        """One bucket's part of a claim, so that a simulation can put something between two of them."""
        place, records = loss.where(source, partition, bucket), dict[Track, OffsetRecord]()
        for view_id in view_ids:
            stored = self._record(view_id, source, partition, bucket)
            if stored is None:
                raise OffsetMissingError(loss.absent(view_id, place))
            if stored.dirty == DROPPED:
                raise BeingRebuiltError(loss.dropped(view_id, place))
            if stored.dirty != -1:
                raise OffsetMissingError(loss.dirty(view_id, place, stored))
            if stored.topic_id != topic_id:
                raise OffsetMissingError(loss.other_topic(view_id, place, stored, topic_id))
            records[Track(view_id, bucket)] = stored
        for view_id, stored in zip(view_ids, records.values(), strict=True):
            self._put(self._keys.offset(view_id, source, partition, bucket), record.encode(replace(stored, token=token)))
        return records

    def commit(self, commit: Commit) -> Committed | Refused:
        call.check(commit)
        # (1) check everything
        refused = self._refusal(commit)
        if refused is not None:
            return refused
        # (2) the dirty mark is not needed: nothing below can fail
        # (3) write state
        now_ms = self._clock.now_us() // 1000
        for write in commit.writes:
            dies_ms = now_ms + write.ttl_ms if write.ttl_ms else 0
            if write.whole is not None:
                self._values.pop(write.key, None)
                if write.whole:
                    self._values[write.key] = _Value(write.whole, dies_ms)
                continue
            stored = self._values.get(write.key)
            data = bytearray(stored.data if stored else b"")
            for patch in write.patches:
                data[patch.position : patch.position + len(patch.data)] = patch.data
            renewed = dies_ms and now_ms >= write.renew_ms
            self._values[write.key] = _Value(bytes(data), dies_ms if renewed else stored.dies_ms if stored else 0)
        # (4) move offsets
        for advance in commit.advances:
            stored_record = self._record(advance.view_id, commit.source, commit.partition, advance.bucket)
            assert stored_record is not None
            if advance.to_offset != advance.from_offset:
                seen = self._seen.setdefault(self._keys.visibility(advance.view_id, commit.source, commit.partition, advance.bucket), [])
                seen.append((now_ms, advance.to_offset))
                del seen[: -call.visibility_entries(advance.bucket)]
            key = self._keys.offset(advance.view_id, commit.source, commit.partition, advance.bucket)
            moved = replace(
                stored_record,
                offset=advance.to_offset,
                max_time_us=commit.max_time_us,
                committed_ms=now_ms,
                complete_ms=max(stored_record.complete_ms, min(commit.complete_ms, now_ms)),
            )
            self._put(key, record.encode(moved))
        return Committed(now_ms)

    def pipeline(self) -> OneByOne:
        return OneByOne(self.commit)

    def now_ms(self) -> int:
        return self._clock.now_us() // 1000

    def offsets(self, source: str, partition: int, view_ids: Sequence[str], bucket: Bucket = ONE) -> dict[str, OffsetRecord | None]:
        return {view_id: self._record(view_id, source, partition, bucket) for view_id in view_ids}

    def visible(self, view_id: str, source: str, partition: int, bucket: Bucket = ONE) -> list[tuple[int, int]]:
        return list(self._seen.get(self._keys.visibility(view_id, source, partition, bucket), ()))

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def put_meta(self, name: str, value: bytes) -> None:
        self._put(self._keys.meta(name), value)

    def get_meta(self, name: str) -> bytes | None:
        return self._get(self._keys.meta(name))

    def share(self, name: str, member: str, value: bytes, life_ms: int, most: int) -> list[bytes]:
        now_ms, said = self.now_ms(), self._shared.setdefault(self._keys.shared(name), {})
        for gone in [other for other, (said_ms, _) in said.items() if now_ms - said_ms >= life_ms]:
            del said[gone]
        others = [known for other, (_, known) in said.items() if other != member]
        if len(others) < most:
            said[member] = (now_ms, value)
        return others

    def damage(self, key: bytes, value: bytes | None) -> None:
        """Put another value there behind everybody's back, or lose it: what a broken server does, for tests."""
        if value is None:
            self._values.pop(key, None)
        else:
            self._put(key, value)

    def snapshot(self) -> Snapshot:
        """Everything it holds, as a server would find it on its disk."""
        return Snapshot(dict(self._values), {key: list(entries) for key, entries in self._seen.items()})

    def roll_back(self, earlier: Snapshot, tag: bytes | None = None) -> None:
        """Hold what it held then, as a server that lost its last second; of one hash tag alone, as one of a cluster's may."""

        def stays(key: bytes) -> bool:
            return tag is not None and tag_of(key) != tag

        self._values = {key: value for key, value in self._values.items() if stays(key)}
        self._values |= {key: value for key, value in earlier.values.items() if not stays(key)}
        self._seen = {key: entries for key, entries in self._seen.items() if stays(key)}
        self._seen |= {key: list(entries) for key, entries in earlier.seen.items() if not stays(key)}

    def check(self) -> list[str]:
        return []

    def ping(self) -> str:
        return "memory"

    def close(self) -> None:
        pass

    def _refusal(self, commit: Commit) -> Refused | None:
        for advance in commit.advances:
            stored = self._record(advance.view_id, commit.source, commit.partition, advance.bucket)
            place = f"{advance.view_id} of {loss.where(commit.source, commit.partition, advance.bucket)}"
            if stored is None:
                return Refused("offset", f"{place} is absent")
            if stored.dirty == DROPPED:
                return Refused("dropped", f"{place} is being rebuilt")
            if stored.token != commit.token:
                return Refused("fenced", f"{place} was claimed by {stored.token.hex()}")
            if stored.dirty != -1:
                return Refused("dirty", f"{place} broke on the way to {stored.dirty}")
            if stored.offset != advance.from_offset:
                return Refused("offset", f"{place} is at {stored.offset}, not {advance.from_offset}")
        expired = []
        for index, write in enumerate(commit.writes):
            if write.expected_bytes == ANY:
                continue
            value = self._get(write.key) or b""
            if len(value) != write.expected_bytes:
                if value:
                    found = f"{write.key!r} has {len(value)} bytes, not {write.expected_bytes}"
                    return Refused("mismatch", found, (index,))
                expired.append(index)
            elif value and not value.startswith(write.header):
                return Refused("mismatch", f"{write.key!r} has another header", (index,))
        return Refused("expired", "rows were expected, their TTL has passed", tuple(expired)) if expired else None

    def _record(self, view_id: str, source: str, partition: int, bucket: Bucket) -> OffsetRecord | None:
        value = self._get(self._keys.offset(view_id, source, partition, bucket))
        return None if value is None else loss.decoded(view_id, loss.where(source, partition, bucket), value)

    def _get(self, key: bytes) -> bytes | None:
        value = self._values.get(key)
        if value is None or (value.dies_ms and value.dies_ms <= self._clock.now_us() // 1000):
            self._values.pop(key, None)
            return None
        return value.data

    def _put(self, key: bytes, data: bytes) -> None:
        self._values[key] = _Value(data, 0)
