"""Bytes of the online store for the entities of a turn, and how much of them can be trusted.

One read brings the state keys of all entities of a turn *and* the offset records that stand beside them, those of one bucket in one
atom, so the offsets that an answer names are exactly those its state was folded to, and how fresh it is said to be is how fresh it is.
Of models that take state that was read before, only what is not known, or is too old, is read; records stay with the state
that they were read with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from time import monotonic
from typing import Any, Protocol, TypeVar

from featureflow.breaker import Breaker
from featureflow.clock import Clock
from featureflow.errors import CircuitOpenError, UnavailableError
from featureflow.pending import EagerTask, Pending
from featureflow.reading.feature_cache import Entry, FeatureCache, Key
from featureflow.reading.plan import ViewPlan
from featureflow.reading.standing import Records, Standing, decoded
from featureflow.store.online.beside import Group, Kept, Together, Values
from featureflow.store.online.protocol import OffsetRecord

T = TypeVar("T")
Blobs = Sequence[bytes | None]
Ids = Sequence[str | int | None]
GRACE_ROUNDS = 3  # of the loop, for a reply that is in the socket already
RECORDS_S = 1.0  # offset records beside state that has not changed are read again when they are not known to stand there for so long


class Reader(Protocol):
    """The asynchronous side of the online store. ``kept``: what it is told of changes."""

    kept: Kept

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values, those of one bucket in one atomic read. Raises UnavailableError."""
        ...

    async def read_beside(self, groups: Sequence[Group], keys: Sequence[bytes], *, tell: bool = False) -> Together:
        """As ``read``, of the groups' keys and the others; what the groups' values are may be known from before. Raises UnavailableError.

        ``tell``: while ``kept.live``, changes of the keys are told to ``kept.listener``.
        """
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
    """The store did not answer, or was not asked: ``timeout``, ``unavailable`` or ``circuit_open``."""

    reason: str
    detail: str


class _Part:
    """What a turn wants of one view: ``asked``, the ids to be read, and the place of each one's bucket among ``groups``.

    ``entries``: of every id, where state of before is taken or kept; the read fills in those of ``asked``. ``told``: it is to be heard of
    changes of these. ``renewing``: numbers of buckets of which the records alone are read again, for the other ids.
    """

    __slots__ = ("asked", "entities", "entries", "groups", "ids", "places", "plan", "records", "renewing", "told")

    def __init__(
        self,
        plan: ViewPlan,
        ids: Ids,
        asked: Ids,
        entries: dict[str | int | None, Entry] | None = None,
        told: bool = False,
        renewing: Collection[int] = (),
    ) -> None:
        self.plan, self.ids, self.asked, self.entries, self.told, self.renewing = plan, ids, asked, entries, told, renewing
        numbers = plan.numbers(asked)
        place = {number: i for i, number in enumerate(dict.fromkeys((*numbers, *renewing)) or ((0,) if entries is None else ()))}
        self.groups: list[Group] = [plan.offset_keys[number] for number in place]
        self.places = [place[number] for number in numbers]
        self.records: list[Records] = []  # of each group
        self.entities: list[Blobs] = []  # of each id that was asked for


class Fetcher:
    """Reads for one scorer. ``wall`` is the real clock (the store's commit times are real), never a shifted one."""

    def __init__(
        self,
        reader: Reader,
        wall: Clock,
        stale_after_us: int,
        *,
        breaker: Breaker | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        self._reader, self._wall, self._stale_ms = reader, wall, stale_after_us // 1000
        self.breaker = breaker or Breaker("online store")
        self.cache = cache or FeatureCache()
        self._at_leisure = asyncio.Semaphore(max(1, self.breaker.concurrency // 2))  # reads without a deadline wait for each other
        self._records: dict[Group, Records] = {}
        self._flights: dict[Key, tuple[Entry, Pending[None]]] = {}
        reader.kept.listener = self.cache.changed

    async def fetch(
        self, wanted: Mapping[ViewPlan, Ids], budget_s: float | None, ages_s: Mapping[ViewPlan, float] | None = None
    ) -> dict[ViewPlan, Reading] | Unread:
        """One read for all views and ids. ``budget_s`` None: as long as the store's own time-out.

        ``ages_s``: views whose state is kept, and how old one may be that is taken without reading it; 0: it is kept for later only.
        """
        if budget_s is not None:
            return await self._fetch(wanted, budget_s, ages_s)
        async with self._at_leisure:
            return await self._fetch(wanted, None, ages_s)

    async def _fetch(
        self, wanted: Mapping[ViewPlan, Ids], budget_s: float | None, ages_s: Mapping[ViewPlan, float] | None
    ) -> dict[ViewPlan, Reading] | Unread:
        joined: set[Pending[None]] = set()
        ages_s = ages_s or {}
        parts = [
            self._part(plan, ids, ages_s[plan], joined) if plan in ages_s else _Part(plan, ids, ids)
            for plan, ids in wanted.items()
        ]
        try:
            if joined or any(part.groups for part in parts):
                reading = self._read(parts, joined)
                await (reading if budget_s is None else within(reading, budget_s))
        except TimeoutError:
            return Unread("timeout", f"the online store did not answer within {(budget_s or 0) * 1e3:.1f} ms")
        except CircuitOpenError as error:
            return Unread("circuit_open", str(error))
        except UnavailableError as error:
            return Unread("unavailable", str(error))
        now_ms = self._wall.now_us() // 1000
        readings = {}
        for part in parts:
            if part.entries is None:
                standings = [records.standing(now_ms, self._stale_ms) for records in part.records]
                readings[part.plan] = Reading(part.plan, list(part.ids), part.places, standings, part.entities)
                continue
            if not all(entry.blobs for entry in part.entries.values()):
                return Unread("unavailable", "another read that this one waited for failed")
            if part.renewing:
                for entity_id, entry in part.entries.items():
                    self._renew(part.plan, entity_id, entry)
            readings[part.plan] = self._reading(part.plan, part.ids, part.entries, now_ms)
        return readings

    def last_known(self, plan: ViewPlan, ids: Ids, max_age_s: float, stale_for_s: float) -> Reading:
        """State of before, where the store does not answer: older than ``max_age_s`` it is stale, than ``stale_for_s`` too missing."""
        now_s, now_ms = monotonic(), self._wall.now_us() // 1000
        lost = _without_state(plan, missing=True)
        entries: dict[str | int | None, Entry] = {}
        late = set()
        for entity_id in ids:
            if entity_id is None:
                entries[entity_id] = _without_state(plan, missing=False)
                continue
            found = self.cache.get((plan, entity_id))
            age_s = now_s - (found or lost).read_s
            if found is None or age_s > max(max_age_s, stale_for_s):
                entries[entity_id] = lost
            else:
                entries[entity_id] = found
                if found.changed or age_s > max_age_s:
                    late.add(entity_id)
        return self._reading(plan, ids, entries, now_ms, late)

    async def offsets(self, plans: Sequence[ViewPlan]) -> list[list[list[OffsetRecord | None]]] | Unread:
        """The offset records of each view, by bucket, in the order of its ``offset_keys``; None for one that is absent or no record."""
        groups = [group for plan in plans for group in plan.offset_keys]
        try:
            found, _ = await self._reader.read_beside(groups, ())
        except UnavailableError as error:
            return Unread("unavailable", str(error))
        records = iter([[decoded(value) for value in values] for values in found])
        return [[next(records) for _ in plan.offset_keys] for plan in plans]

    async def look_again(self) -> None:
        """One call through a breaker that is half open, where no request may come to make it. Raises UnavailableError."""
        if self.breaker.state != "half_open":
            return
        call = self.breaker.enter()
        try:
            await self._reader.read([b"featureflow"])
        except BaseException as error:
            self.breaker.leave(call, error)
            raise
        self.breaker.leave(call)

    def forget(self) -> None:
        """Drop what is remembered (the definitions changed)."""
        self._records.clear()
        self.cache.clear()

    def _known(self, plan: ViewPlan, group: Group, values: Values, seen_s: float) -> Records:
        """What was decoded last is remembered, since most turns read the same bytes again."""
        known = self._records.get(group)
        if known is None or (known.values is not values and known.values != values):
            known = self._records[group] = Records(plan, values)
        known.seen_s = seen_s
        return known

    # -- state that was read before ------------------------------------------------------------------------------------

    def _part(self, plan: ViewPlan, ids: Ids, max_age_s: float, joined: set[Pending[None]]) -> _Part:
        """What is not known of these ids, or too old, is asked for; what another turn is reading is waited for."""
        now_s = monotonic()
        entries: dict[str | int | None, Entry] = {}
        asked: list[str | int] = []
        renewing: set[int] = set()
        for entity_id in ids:
            if entity_id is None:
                entries[entity_id] = _without_state(plan, missing=False)
                continue
            found = self._usable(plan, entity_id, max_age_s, now_s) if max_age_s else None
            if found is None and (flight := self._flights.get((plan, entity_id))) is not None and now_s - flight[0].read_s < max_age_s:
                found = flight[0]
                joined.add(flight[1])
            if found is None:
                found = Entry(plan.state_keys(entity_id), now_s)
                asked.append(entity_id)
            elif found.told and now_s - found.records.seen_s > RECORDS_S:
                renewing.add(plan.bucket_of(entity_id))
            entries[entity_id] = found
        return _Part(plan, ids, asked, entries, max_age_s > 0, renewing)

    def _usable(self, plan: ViewPlan, entity_id: str | int, max_age_s: float, now_s: float) -> Entry | None:
        """What is kept, if it is new enough."""
        cache = self.cache
        found = cache.get((plan, entity_id))
        if found is not None:
            self._renew(plan, entity_id, found)
        if found is None or found.changed or now_s - found.read_s > max_age_s:
            cache.misses += 1
            return None
        cache.hit(max(0.0, now_s - found.read_s))
        return found

    def _renew(self, plan: ViewPlan, entity_id: str | int | None, entry: Entry) -> None:
        """What has not changed is as good as read now, with the records that stand there now where they are known."""
        kept = self._reader.kept
        if entry.told and kept.confirmed_s > entry.read_s:
            group = plan.offset_keys[plan.bucket_of(entity_id)]
            values = kept.get(group)
            records = entry.records if values is None else self._known(plan, group, values, kept.confirmed_s)
            self.cache.renew(entry, records, kept.confirmed_s)

    async def _read(self, parts: Sequence[_Part], joined: Collection[Pending[None]]) -> None:
        """Fill the parts in, and wait for what others are reading. Raises UnavailableError; what nobody waits for any more is kept all the
        same.
        """
        parts = [part for part in parts if part.groups]
        if parts:
            await self._read_own(parts)
        for landed in joined:
            await landed

    async def _read_own(self, parts: Sequence[_Part]) -> None:
        groups = [group for part in parts for group in part.groups]
        keys = list(chain.from_iterable(part.plan.all_state_keys(part.asked) for part in parts))
        began_s = monotonic()
        tell = self._reader.kept.live and any(part.told for part in parts)
        landed = self._take_off(parts, tell)
        try:
            call = self.breaker.enter()
            try:
                records, blobs = await self._reader.read_beside(groups, keys, tell=tell)
            except BaseException as error:
                self.breaker.leave(call, error)
                raise
            self.breaker.leave(call)
            at = first = 0
            for part in parts:
                values = zip(part.groups, records[first : first + len(part.groups)], strict=True)
                first += len(part.groups)
                part.records = [self._known(part.plan, group, those, began_s) for group, those in values]
                part.entities, at = _per_entity(part.plan, part.asked, blobs, at)
                if part.entries is not None:
                    for entity_id, entity, place in zip(part.asked, part.entities, part.places, strict=True):
                        part.entries[entity_id].blobs, part.entries[entity_id].records = entity, part.records[place]
        finally:
            if landed is not None:
                self._land(parts, landed)

    def _take_off(self, parts: Sequence[_Part], tell: bool) -> Pending[None] | None:
        """Let other turns wait for what is kept of this read; the future is done when it has ended."""
        if all(part.entries is None for part in parts):
            return None
        landed = Pending[None]()
        for part in parts:
            if part.entries is not None:
                for entity_id in part.asked:
                    entry = part.entries[entity_id]
                    self._flights[part.plan, entity_id] = entry, landed
                    if tell and part.told:
                        self.cache.listen(entry)
        return landed

    def _land(self, parts: Sequence[_Part], landed: Pending[None]) -> None:
        for part in parts:
            if part.entries is not None:
                for entity_id in part.asked:
                    entry, key = part.entries[entity_id], (part.plan, entity_id)
                    if (flight := self._flights.get(key)) is not None and flight[0] is entry:
                        del self._flights[key]
                    if entry.blobs:
                        self.cache.put(key, entry)
                    else:
                        self.cache.deaf(entry)
        landed.set_result(None)

    def _reading(
        self, plan: ViewPlan, ids: Ids, entries: Mapping[str | int | None, Entry], now_ms: int, late: Collection[str | int | None] = ()
    ) -> Reading:
        """``late``: ids of which all features are stale."""
        places, standings = [], list[Standing]()
        seen: dict[tuple[int, bool], int] = {}
        everything = frozenset(source.name for source in plan.sources)
        for entity_id in ids:
            records, is_late = entries[entity_id].records, entity_id in late
            place = seen.setdefault((id(records), is_late), len(standings))
            if place == len(standings):
                standing = records.standing(now_ms, self._stale_ms)
                standings.append(replace(standing, stale=everything - standing.missing) if is_late else standing)
            places.append(place)
        return Reading(plan, list(ids), places, standings, [entries[entity_id].blobs for entity_id in ids])


def _without_state(plan: ViewPlan, *, missing: bool) -> Entry:
    """Of no entity; or of one of which nothing is known."""
    names = frozenset(source.name for source in plan.sources)
    entry = Entry((), float("-inf"))
    entry.blobs, entry.records = plan.nothing, Records.of(Standing({name: {} for name in names}, names if missing else frozenset()))
    return entry


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
    task = EagerTask(reading).start()
    if not task.done():
        await _Waited(task, budget_s)
        if not task.done():
            raise TimeoutError
    return task.result()


class _Waited(Pending[None]):
    """Done once the task is, or as its time is up."""

    __slots__ = ("_loop", "_timer")

    def __init__(self, task: Pending[Any], budget_s: float) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle = self._loop.call_later(budget_s, self._late, GRACE_ROUNDS)
        task.add_done_callback(self._end)

    def _late(self, rounds: int) -> None:
        if not rounds:
            self._end(self)
        elif not self.done():
            self._timer = self._loop.call_soon(self._late, rounds - 1)

    def _end(self, _: object) -> None:
        self._timer.cancel()
        if not self.done():
            self.set_result(None)
