"""Bytes of the online store for the entities of a turn, and how much of them can be trusted.

One read brings the state keys of all entities of a turn *and* the offset records that stand beside them, those of one bucket in one
atom, so the offsets that an answer names are exactly those its state was folded to, and how fresh it is said to be is how fresh it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

from featureflow.clock import Clock
from featureflow.errors import UnavailableError
from featureflow.reading.plan import ViewPlan
from featureflow.reading.standing import Records, Standing, decoded
from featureflow.store.online.beside import Group, Together, Values
from featureflow.store.online.protocol import OffsetRecord

T = TypeVar("T")
Blobs = Sequence[bytes | None]
Ids = Sequence[str | int | None]


class Reader(Protocol):
    """The asynchronous side of the online store."""

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values, those of one bucket in one atomic read. Raises UnavailableError."""
        ...

    async def read_beside(self, groups: Sequence[Group], keys: Sequence[bytes]) -> Together:
        """As ``read``, of the groups' keys and the others; the groups' values may be known from before. Raises UnavailableError."""
        ...


@dataclass(slots=True)
class Reading:
    """One view's state for some entities."""

    plan: ViewPlan
    ids: list[str | int | None]
    places: list[int]  # which of the standings is each id's
    standings: list[Standing]
    blobs: list[Blobs]  # of each id, source by source


@dataclass(frozen=True, slots=True)
class Unread:
    """The store did not answer: ``timeout`` or ``unavailable``."""

    reason: str
    detail: str


class Fetcher:
    """Reads for one scorer. ``wall`` is the real clock (the store's commit times are real), never a shifted one."""

    def __init__(self, reader: Reader, wall: Clock, stale_after_us: int) -> None:
        self._reader, self._wall, self._stale_ms = reader, wall, stale_after_us // 1000
        self._records: dict[Group, Records] = {}

    async def fetch(self, wanted: Mapping[ViewPlan, Ids], budget_s: float | None) -> dict[ViewPlan, Reading] | Unread:
        """One read for all views and ids. ``budget_s`` None: as long as the store's own time-out."""
        groups: list[Group] = []
        keys: list[bytes] = []
        places: dict[ViewPlan, tuple[list[int], int]] = {}  # of each id among its view's groups, and how many those are
        for plan, ids in wanted.items():
            numbers = plan.numbers(ids)
            place = {number: i for i, number in enumerate(dict.fromkeys(numbers) or (0,))}
            groups += [plan.offset_keys[number] for number in place]
            keys += chain.from_iterable(plan.state_keys(entity_id) for entity_id in ids if entity_id is not None)
            places[plan] = [place[number] for number in numbers], len(place)
        try:
            reading = self._reader.read_beside(groups, keys)
            records, blobs = await (reading if budget_s is None else within(reading, budget_s))
        except TimeoutError:
            return Unread("timeout", f"the online store did not answer within {(budget_s or 0) * 1e3:.1f} ms")
        except UnavailableError as error:
            return Unread("unavailable", str(error))
        at, first, now_ms, readings = 0, 0, self._wall.now_us() // 1000, {}
        for plan, ids in wanted.items():
            of_ids, count = places[plan]
            standings = [
                self._known(plan, group, values).standing(now_ms, self._stale_ms)
                for group, values in zip(groups[first : first + count], records[first : first + count], strict=True)
            ]
            first += count
            entities, at = _per_entity(plan, ids, blobs, at)
            readings[plan] = Reading(plan, list(ids), of_ids, standings, entities)
        return readings

    async def offsets(self, plans: Sequence[ViewPlan]) -> list[list[list[OffsetRecord | None]]] | Unread:
        """The offset records of each view, by bucket, in the order of its ``offset_keys``; None for one that is absent or no record."""
        groups = [group for plan in plans for group in plan.offset_keys]
        try:
            found, _ = await self._reader.read_beside(groups, ())
        except UnavailableError as error:
            return Unread("unavailable", str(error))
        records = iter([[decoded(value) for value in values] for values in found])
        return [[next(records) for _ in plan.offset_keys] for plan in plans]

    def forget(self) -> None:
        """Drop remembered records (the definitions changed)."""
        self._records.clear()

    def _known(self, plan: ViewPlan, group: Group, values: Values) -> Records:
        """What was decoded last is remembered, since most turns read the same bytes again."""
        known = self._records.get(group)
        if known is None or (known.values is not values and known.values != values):
            known = self._records[group] = Records(plan, values)
        return known


def _per_entity(plan: ViewPlan, ids: Ids, blobs: Blobs, at: int) -> tuple[list[Blobs], int]:
    """The values of each id from place ``at`` on, and the place of what follows."""
    size = plan.keys_per_id
    end = at + size * (len(ids) - ids.count(None))
    found: Iterable[Blobs] = zip(*[iter(blobs[at:end])] * size, strict=True)
    if None in ids:
        some = iter(found)
        found = (plan.nothing if entity_id is None else next(some) for entity_id in ids)
    return list(found), end


async def within(reading: Coroutine[Any, Any, T], budget_s: float) -> T:
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


def _given_up(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # looked at, so that the loop does not report it
