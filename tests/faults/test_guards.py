"""The table of guards: each in the one scenario that needs it, on the store in memory and on real servers. With all guards the state
is the oracle's; without that one, and nothing else changed, it is not.

    guard     scenario
    token     a store that lost its last second, and a zombie
    offset    a duplicate of an older commit arrives late
    length    a key expires under the cache
    header    a key expires under the cache, and is begun anew to the same length
    mark      an error after the first write
    ids       two buckets, and a crash between their commits

The last is the worker's own: an id that tells duplicates counts only behind its event's offset. Ids share atom and bucket with the
offset of their track, and so only a store that kept them elsewhere would need it: this one does.

Random faults do not show this: nearly always two guards refuse what one of them would have to.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import lua_cuts
import msgspec
import pytest
import redis
from naive import differences
from unit.ingest.test_ids import deduping
from worker_rig import RIDER, RIDERS, SECOND_US, START_US, TRIP, ZONES, Rig

import oracle
from featureflow import limits
from featureflow.clock import ManualClock
from featureflow.errors import OffsetMissingError, StateError
from featureflow.ingest.failpoint import Name
from featureflow.ingest.worker import Worker
from featureflow.store.log.protocol import Record
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Answer, Commit, Committed, OneByOne, OnlineStore, Pipeline, Refused
from featureflow.store.online.redis import RedisOnlineStore
from featureflow.store.online.writes import StateWrite, Writes
from simulate import truth
from simulate.unguarded import NoHeader, NoLength, NoOffset, NoToken

HOURS_US = 3 * 3_600 * SECOND_US           # longer than a rider's state lives


# -- stores, with and without a guard ----------------------------------------------------------------------------------

class Store(Protocol):
    """A store, and what may happen to a server behind everybody's back."""

    online: OnlineStore

    def held(self) -> Any: ...

    def fall_back(self, to: Any) -> None: ...

    def expire(self, keys_with: bytes) -> None:
        """Keys that hold these bytes in their names are gone, as when their time is over."""
        ...


OF_WORKER = ("", "ids")                    # without these a store has all that it has
IN_MEMORY = {
    **dict.fromkeys(OF_WORKER, MemoryOnlineStore), "token": NoToken, "offset": NoOffset, "length": NoLength, "header": NoHeader,
}  # fmt: skip


class InMemory:
    def __init__(self, without: str) -> None:
        self.online = IN_MEMORY[without](ManualClock(START_US))

    def held(self) -> Any:
        return self.online.snapshot()

    def fall_back(self, to: Any) -> None:
        self.online.roll_back(to)

    def expire(self, keys_with: bytes) -> None:
        for key in self.online.snapshot().values:
            if keys_with in key:
                self.online.damage(key, None)


class OnServer:
    def __init__(self, url: str, without: str, client: redis.Redis) -> None:
        self.online = RedisOnlineStore(url, lua=lua_cuts.without(without) if without not in OF_WORKER else None)
        self.client = client

    def held(self) -> Any:
        return {key: self.client.dump(key) for key in self.client.scan_iter()}

    def fall_back(self, to: Any) -> None:
        self.client.flushdb()
        for key, value in to.items():
            self.client.restore(key, 0, value)

    def expire(self, keys_with: bytes) -> None:
        self.client.delete(*(key for key in self.client.scan_iter() if keys_with in key))


@contextmanager
def on_server(url: str, without: str) -> Iterator[OnServer]:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        store = OnServer(url, without, client)
        with closing(store.online):
            yield store


# -- scenarios ---------------------------------------------------------------------------------------------------------

def a_lost_second_and_a_zombie(store: Store) -> Rig:
    """
        zombie     claims, folds 60 events in one batch, is stopped before its commit
        successor  claims, commits the same 60 in small batches: the same rows, in another order
        store      loses its last second: as it was after the successor's claim, its token included
        zombie     wakes up and commits: refused by the token, and by nothing else
        successor  goes on from where it was, patching rows where it believes them to be
    """
    rig = Rig(1, online=store.online, seed=7)
    rig.append([ride(rig, START_US + second * SECOND_US) for second in (3, 1, 2, 0, 3) * 12])
    successor, slept = rig.worker(commit_rows=2), threading.Event()

    def sleep(name: Name) -> None:
        if name != "after_fold" or slept.is_set():
            return
        slept.set()
        successor.open()
        while not any(status.offset >= 0 for status in successor.status().partitions):
            step(successor)
        claimed = store.held()
        rig.drain(successor)
        store.fall_back(claimed)

    zombie = rig.started(commit_rows=1_000, failpoint=sleep)
    while not slept.is_set():
        step(zombie)
    rig.append([ride(rig, START_US + second * SECOND_US, fare=100.0) for second in (0, 1, 2)])
    rig.drain(successor)
    return rig


def a_late_duplicate(store: Store) -> Rig:
    """
        worker     commits three rides of one tile, one by one: the first writes the row, the others patch it
        network    delivers the second commit again: the row is put back to two rides, and the offset behind the third
        worker     goes on with another tile, from where it believes the offset to be
    """
    rig = Rig(1, online=store.online)
    recorder = Recorder(store.online)
    rig.online = recorder  # type: ignore[assignment]  # answers to the same
    worker = rig.started(poll_records=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "FEW_EVENTS", 0)                     # an entity of few events grows with each, and so is known by its length
        rig.append([ride(rig, START_US) for _ in range(3)])
        rig.drain(worker)
    (second,) = [commit for commit in recorder.applied if commit.advances[0].from_offset == 1 != commit.advances[0].to_offset]
    recorder.commit(second)
    rig.append([ride(rig, START_US + 20 * SECOND_US)])
    rig.drain(worker)
    return rig


def an_expiry_under_the_cache(store: Store) -> Rig:
    """
        worker     holds a rider's rows in its slab
        store      hours later the key has expired
        worker     patches a row of it
    """
    rig = Rig(1, online=store.online)
    worker = rig.started()
    rig.append([ride(rig, START_US + 10 * number * SECOND_US) for number in range(3)])
    rig.drain(worker)
    rig.clock.advance(HOURS_US)
    store.expire(f":ada:{RIDER.id}".encode())
    rig.append([ride(rig, rig.clock.now_us())])
    rig.drain(worker)
    return rig


def an_expiry_and_a_new_beginning(store: Store) -> Rig:
    """
        worker     holds a rider's one row in its slab, for the rider's partition
        store      hours later the key has expired
        worker     begins it anew for another partition, where a producer put an event of this rider: the same length
        worker     patches the row that it held, for the first partition: another's now
    """
    rig = Rig(2, online=store.online)
    worker = rig.started()
    rig.append([ride(rig, START_US)])
    rig.drain(worker)
    rig.clock.advance(HOURS_US)
    store.expire(f":ada:{RIDER.id}".encode())
    stray = ride(rig, rig.clock.now_us())
    assert stray.partition is not None
    rig.append([msgspec.structs.replace(stray, partition=1 - stray.partition)])
    rig.drain(worker)
    rig.append([ride(rig, START_US + SECOND_US // 2)])     # of the tile of the row that it held
    rig.drain(worker)
    return rig


def an_error_after_the_first_write(store: Store) -> Rig:
    """
        store      cannot add to a stream that has used up its ids: the script breaks after it has written state
        worker     ends, and is started again once the stream is gone
        operator   rebuilds what it says is to be rebuilt, if anything
    """
    assert isinstance(store, OnServer)
    rig = Rig(1, online=store.online)
    worker = rig.started()
    rig.append([ride(rig, START_US)])
    rig.drain(worker)
    streams = list(store.client.scan_iter(match="seen:*"))
    for stream in streams:
        store.client.xadd(stream, {"to": "the end"}, id=f"{2**64 - 1}-{2**64 - 1}")
    rig.append([ride(rig, START_US + SECOND_US)])
    with pytest.raises(StateError, match="exhausted the last possible ID"):
        rig.drain(worker)
    store.client.delete(*streams)
    try:
        rig.drain(rig.started())
    except OffsetMissingError:             # it broke on the way: `featureflow rebuild`
        topic_id = rig.log.topic(TRIP.topic).topic_id
        for view in rig.project.views:
            rig.online.drop_view(view.id, for_good=False)
            rig.online.create_offsets(view.id, "trip", topic_id, {0: 0})
        rig.drain(rig.started())
    return rig


def two_buckets_and_a_crash_between(store: Store) -> Rig:
    """
        producer   writes a ride of each rider and zone, and each again
        worker     folds them in one batch: their ids are written, then the state of the first bucket, and the process dies
        successor  resumes from the lower offset: the second bucket's rides are not copies of themselves
    """
    dying = HalfDone(store.online)
    rig = Rig(1, online=dying, project=DEDUPING, buckets=2)  # type: ignore[arg-type]  # answers to the same
    assert {rig.keys.number(rider) for rider in RIDERS} == {0, 1}
    rides = [rig.trip(rider=rider, zone=zone, at=START_US, event_id=f"{rider} {zone}") for rider in RIDERS for zone in ZONES]
    rig.append(rides[:1])
    rig.drain(rig.started())
    rig.append([*rides, *rides])
    dying.armed = True
    with pytest.raises(Died):
        rig.drain(rig.started(commit_rows=1_000))
    rig.drain(rig.started())
    return rig


TABLE: dict[str, Callable[[Store], Rig]] = {
    "token": a_lost_second_and_a_zombie,
    "offset": a_late_duplicate,
    "length": an_expiry_under_the_cache,
    "header": an_expiry_and_a_new_beginning,
    "mark": an_error_after_the_first_write,
    "ids": two_buckets_and_a_crash_between,
}


@contextmanager
def lifted(guard: str) -> Iterator[None]:
    """The worker without this guard, if it is one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        if guard == "ids":
            patch.setattr("featureflow.ingest.ids.counts", lambda at, offset: True)
        yield


@pytest.mark.parametrize("guard", [guard for guard in TABLE if guard != "mark"])    # in memory nothing fails after the first write
def test_each_guard_alone_keeps_the_state_the_oracles_in_memory(guard: str) -> None:
    assert wrong(TABLE[guard](InMemory(""))) == []
    with lifted(guard):
        assert wrong(TABLE[guard](InMemory(guard))), f"without the {guard} nothing is wrong: the scenario shows nothing"


@pytest.mark.parametrize("guard", TABLE)
def test_each_guard_alone_keeps_the_state_the_oracles_on_a_server(guard: str, redis_url: str) -> None:
    with on_server(redis_url, "") as store:
        assert wrong(TABLE[guard](store)) == []
    with lifted(guard), on_server(redis_url, guard) as store:
        assert wrong(TABLE[guard](store)), f"without the {guard} nothing is wrong: the scenario shows nothing"


# -- what they are made of ---------------------------------------------------------------------------------------------

DEDUPING = deduping()


class Died(Exception): ...


class HalfDone:
    """Ids stand in an atom of their own, which is written before any state. Once it is armed, the process dies after the first of
    several commits."""

    one_server = False                     # else a batch as small as this is one commit of both buckets

    def __init__(self, online: OnlineStore) -> None:
        self._online, self._ids, self.armed = online, MemoryOnlineStore(ManualClock(START_US)), False

    def pipeline(self) -> HalfSent:
        return HalfSent(self)

    def pipeline_of_states(self) -> Pipeline:
        return self._online.pipeline()

    def apart(self, commits: Sequence[Commit]) -> list[Commit]:
        """Without the ids, which are written."""
        return [replace(commit, writes=Writes.of(self._put_ids(commit))) for commit in commits]

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [(self._ids if key.startswith(b"ids:") else self._online).read([key])[0] for key in keys]

    def _put_ids(self, commit: Commit) -> Iterator[StateWrite]:
        """The writes that are of none."""
        for write in commit.writes:
            if not write.key.startswith(b"ids:"):
                yield write
                continue
            (before,) = self._ids.read([write.key])
            data = bytearray(before or b"") if write.whole is None else bytearray(write.whole)
            for patch in write.patches:
                data[patch.position : patch.position + len(patch.data)] = patch.data
            self._ids.damage(write.key, bytes(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._online, name)


class HalfSent:
    def __init__(self, store: HalfDone) -> None:
        self._store, self._inner = store, store.pipeline_of_states()

    def send(self, commits: Sequence[Commit]) -> None:
        states = self._store.apart(commits)
        if self._store.armed and len(commits) > 1:
            self._store.armed = False
            self._inner.send(states[:1])
            self._inner.answers()
            raise Died
        self._inner.send(states)

    def answers(self) -> list[Answer]:
        return self._inner.answers()


class Recorder:
    """Remembers the commits that were applied."""

    def __init__(self, online: OnlineStore) -> None:
        self._online, self.applied = online, list[Commit]()

    def pipeline(self) -> OneByOne:
        return OneByOne(self._commit)

    def _commit(self, commit: Commit) -> Committed | Refused:
        answer = self._online.commit(commit)
        if isinstance(answer, Committed):
            self.applied.append(commit)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._online, name)


def ride(rig: Rig, at_us: int, fare: float = 20.0) -> Record:
    return rig.trip(rider="ada", zone=7, at=at_us, fare=fare)


def step(worker: Worker) -> None:
    worker.step(timeout_s=0.0, wait=lambda seconds: None)


def wrong(rig: Rig) -> list[str]:
    """Where the state is not what the oracle says of the records in the log, but for those that were put aside as strays."""
    now_us, records = rig.clock.now_us() + SECOND_US, []
    for batch in rig.read(TRIP.topic, rig.log.topic(TRIP.topic).end):
        for offset, stamp, value in zip(batch.offsets.tolist(), batch.timestamps_us.tolist(), batch.values, strict=True):
            fields = json.loads(value or b"")
            records.append(oracle.Record("trip", batch.partition, offset, fields["at"], stamp, fields))
    strays = {str(letter["position"]) for letter in rig.letters() if letter["reason"] == "wrong_partition"}
    found = []
    for view in rig.project.views:
        ids = RIDERS if view.entity == "rider" else ZONES
        counting = [
            record
            for record in oracle.counting(view, {"trip": rig.source}, records)
            if f"trip/{record.partition}/{record.offset}/{view.id}" not in strays
        ]
        expected = {
            entity: oracle.answer(view, [r for r in counting if r.fields[view.keys["trip"]] == entity], now_us) for entity in ids
        }
        try:
            actual = truth.answers(view, ids, rig.actual(view, now_us))
        except StateError as error:
            found.append(f"{view.name} has state that is none: {error}")
        else:
            found += differences(actual, expected)
    return found
