"""Bytes of the online store -> states that the kernel can finalize, and how much of them can be trusted.

One read brings the state keys of all entities of a turn *and* the offset records that stand beside them, those of one bucket in one
atom, so the offsets that an answer names are exactly those its state was folded to, and how fresh it is said to be is how fresh it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from featureflow.clock import Clock
from featureflow.errors import StateError, UnavailableError
from featureflow.kernel import state
from featureflow.kernel.state import States
from featureflow.reading.plan import SourcePlan, ViewPlan
from featureflow.store.online import record
from featureflow.store.online.protocol import OffsetRecord

Blobs = Sequence[bytes | None]


class Reader(Protocol):
    """The asynchronous side of the online store."""

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values, those of one bucket in one atomic read. Raises UnavailableError."""
        ...


@dataclass(slots=True)
class Standing:
    """How far one source had been folded in one bucket when it was read."""

    applied: dict[int, int]  # partition -> the offset up to which events are counted
    missing: bool = False  # an offset record is absent or dirty: what was read cannot be trusted
    stale: bool = False  # of a partition it is not known that all that its log held ``stale_after`` ago is counted


@dataclass(slots=True)
class SourceReading:
    """What was read of one source, for the entities of one view."""

    states: States
    blobs: list[Blobs]  # per entity, what the states were parsed from
    standings: dict[int, Standing]  # by number of each bucket that was read


@dataclass(slots=True)
class Reading:
    """One view's state for some entities."""

    plan: ViewPlan
    ids: list[str | int | None]
    buckets: list[int]  # the number of each id's bucket
    sources: dict[str, SourceReading]
    corrupt: dict[int, str] = field(default_factory=dict)  # index into ids -> what is wrong with its state


@dataclass(frozen=True, slots=True)
class Unread:
    """The store did not answer: ``timeout`` or ``unavailable``."""

    reason: str
    detail: str


class Fetcher:
    """Reads for one scorer. ``wall`` is the real clock (the store's commit times are real), never a shifted one."""

    def __init__(self, reader: Reader, wall: Clock, stale_after_us: int) -> None:
        self._reader, self._wall, self._stale_ms = reader, wall, stale_after_us // 1000
        self._records: dict[bytes, tuple[bytes, OffsetRecord | None]] = {}

    async def fetch(
        self, wanted: Mapping[ViewPlan, Sequence[str | int | None]], budget_s: float | None
    ) -> dict[ViewPlan, Reading] | Unread:
        """One read for all views and ids. ``budget_s`` None: as long as the store's own time-out."""
        names: list[bytes] = []
        buckets: dict[ViewPlan, list[int]] = {}
        for plan, ids in wanted.items():
            buckets[plan] = [0] * len(ids) if plan.buckets == 1 else list(map(plan.bucket_of, ids))
            for bucket in _touched(buckets[plan]):
                names.extend(plan.offset_keys[bucket])
            for entity_id in ids:
                if entity_id is not None:
                    names.extend(plan.state_keys(entity_id))
        try:
            blobs = (
                await (self._reader.read(names) if budget_s is None else within(self._reader.read(names), budget_s))
                if names
                else []
            )
        except TimeoutError:
            return Unread("timeout", f"the online store did not answer within {(budget_s or 0) * 1e3:.1f} ms")
        except UnavailableError as error:
            return Unread("unavailable", str(error))
        at, readings = 0, {}
        for plan, ids in wanted.items():
            offsets = {
                bucket: blobs[at : (at := at + len(plan.offset_keys[bucket]))] for bucket in _touched(buckets[plan])
            }
            entities: list[Blobs] = []
            for entity_id in ids:
                if entity_id is None:
                    entities.append(plan.nothing)
                else:
                    entities.append(blobs[at : (at := at + plan.keys_per_id)])
            readings[plan] = self._reading(Reading(plan, list(ids), buckets[plan], {}), offsets, entities)
        return readings

    async def offsets(self, plans: Sequence[ViewPlan]) -> list[list[list[OffsetRecord | None]]] | Unread:
        """The offset records of each view, by bucket, in the order of its ``offset_keys``; None for one that is absent or no record."""
        names = [key for plan in plans for keys in plan.offset_keys for key in keys]
        try:
            blobs = await self._reader.read(names) if names else []
        except UnavailableError as error:
            return Unread("unavailable", str(error))
        records = iter([self._record(key, value) for key, value in zip(names, blobs, strict=True)])
        return [[[next(records) for _ in keys] for keys in plan.offset_keys] for plan in plans]

    def _reading(self, reading: Reading, offsets: Mapping[int, Blobs], entities: list[Blobs]) -> Reading:
        now_ms, at, first = self._wall.now_us() // 1000, 0, 0
        for source in reading.plan.sources:
            own = [blobs[at : at + source.stride] for blobs in entities] if len(reading.plan.sources) > 1 else entities
            at += source.stride
            standings = {}
            for bucket, blobs in offsets.items():
                standings[bucket] = standing = Standing({})
                for partition, key in enumerate(source.offset_keys[bucket]):
                    stored = self._record(key, blobs[first + partition])
                    if stored is None or stored.dirty != -1:
                        standing.missing = True
                    else:
                        standing.applied[partition] = stored.offset
                        standing.stale = standing.stale or now_ms - stored.complete_ms > self._stale_ms
            first += source.partitions
            reading.sources[source.name] = _parse(source, own, reading, standings)
        return reading

    def _record(self, key: bytes, value: bytes | None) -> OffsetRecord | None:
        """The decoded record; what was decoded last is remembered, since most turns read the same bytes again."""
        if value is None:
            return None
        known = self._records.get(key)
        if known is None or known[0] != value:
            try:
                known = (value, record.decode(value))
            except StateError:
                known = (value, None)
            self._records[key] = known
        return known[1]

    def forget(self) -> None:
        """Drop remembered records (the definitions changed)."""
        self._records.clear()


def _touched(buckets: list[int]) -> list[int]:
    """Each once; the first of all where nothing is read of an entity."""
    return list(dict.fromkeys(buckets)) or [0]


def _parse(source: SourcePlan, entities: list[Blobs], reading: Reading, standings: dict[int, Standing]) -> SourceReading:
    """All states at once; where one of them is damaged, that one alone is set aside and named in ``reading.corrupt``."""
    try:
        return SourceReading(state.parse(source.layout, entities), entities, standings)
    except StateError:
        nothing: Blobs = (None,) * source.stride
        good: list[Blobs] = []
        for index, blobs in enumerate(entities):
            try:
                state.parse(source.layout, [blobs])
                good.append(blobs)
            except StateError as error:
                reading.corrupt[index] = str(error)
                good.append(nothing)
        return SourceReading(state.parse(source.layout, good), good, standings)


async def within(reading: Coroutine[Any, Any, list[bytes | None]], budget_s: float) -> list[bytes | None]:
    """The result, or TimeoutError after ``budget_s``.

    A timer can fire only because this loop was busy, with the reply already waiting in the socket: the loop is given three more turns
    to find it there before the read is given up. A read that is given up runs on to the reader's own time-out, which is how the
    reader learns that its connection is dead.
    """
    task = asyncio.ensure_future(reading)
    await asyncio.wait((task,), timeout=budget_s)
    for _ in range(3):
        if task.done():
            break
        await asyncio.sleep(0)
    if not task.done():
        task.add_done_callback(_given_up)
        raise TimeoutError
    return task.result()


def _given_up(task: asyncio.Task[list[bytes | None]]) -> None:
    if not task.cancelled():
        task.exception()  # looked at, so that the loop does not report it
