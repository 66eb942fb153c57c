"""What the store in memory does by its clock; the rest is in the contract that all stores share."""

from __future__ import annotations

from featureflow import limits
from featureflow.clock import ManualClock
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Advance, Commit, Committed, Refused
from featureflow.store.online.writes import Patch, StateWrite, Writes

VIEW = "now@1"


def started(clock: ManualClock) -> tuple[MemoryOnlineStore, bytes]:
    store = MemoryOnlineStore(clock)
    store.create_offsets(VIEW, "trip", "topic", {0: 0})
    return store, store.claim("trip", 0, [VIEW], "topic").token


def test_a_key_dies_when_its_time_is_up_unless_a_write_renews_it() -> None:
    clock = ManualClock(0)
    store, token = started(clock)

    def commit(start: int, write: StateWrite) -> Committed | Refused:
        return store.commit(Commit("trip", 0, token, (Advance(VIEW, start, start + 1),), 0, Writes.of([write])))

    commit(0, StateWrite(b"k", 0, b"", 1_000, whole=b"head"))
    clock.advance(999_000)
    commit(1, StateWrite(b"k", 4, b"head", 1_000, patches=(Patch(4, b"row"),)))
    clock.advance(999_000)
    commit(2, StateWrite(b"k", 7, b"head", 0, patches=(Patch(4, b"ROW"),)))
    assert store.read([b"k"]) == [b"headROW"], "renewed by the first patch"
    clock.advance(1_000)
    assert store.read([b"k"]) == [None], "and not by the one that leaves it as it is"
    assert isinstance(commit(3, StateWrite(b"k", 7, b"head", 1_000, patches=(Patch(4, b"row"),))), Refused)


def test_a_patch_renews_a_life_from_the_moment_that_it_names() -> None:
    clock = ManualClock(0)
    store, token = started(clock)
    lives = {b"a": 900, b"b": 901}
    born = Writes.of(StateWrite(key, 0, b"", 1_000, whole=b"head") for key in lives)
    store.commit(Commit("trip", 0, token, (Advance(VIEW, 0, 1),), 0, born))
    clock.advance(900_000)
    patches = Writes.of(StateWrite(key, 4, b"head", 1_000, (Patch(4, b"row"),), renew_ms=ms) for key, ms in lives.items())
    store.commit(Commit("trip", 0, token, (Advance(VIEW, 1, 2),), 0, patches))
    clock.advance(100_000)
    assert store.read([b"a", b"b"]) == [b"headrow", None]


def test_a_key_without_a_time_to_live_stays() -> None:
    clock = ManualClock(0)
    store, token = started(clock)
    store.commit(Commit("trip", 0, token, (Advance(VIEW, 0, 1),), 0, Writes.of([StateWrite(b"k", 0, b"", 0, whole=b"head")])))
    clock.advance(10**15)
    assert store.read([b"k"]) == [b"head"]


def test_committed_time_is_the_stores_own() -> None:
    clock = ManualClock(5_000_000)
    store, token = started(clock)
    assert store.commit(Commit("trip", 0, token, (Advance(VIEW, 0, 9),), 0, Writes())) == Committed(5_000)
    assert store.visible(VIEW, "trip", 0) == [(5_000, 9)]


def test_visibility_remembers_a_bounded_number_of_commits() -> None:
    clock = ManualClock(0)
    store, token = started(clock)
    for start in range(limits.VISIBILITY_ENTRIES + 5):
        store.commit(Commit("trip", 0, token, (Advance(VIEW, start, start + 1),), 0, Writes()))
    seen = store.visible(VIEW, "trip", 0)
    assert len(seen) == limits.VISIBILITY_ENTRIES
    assert seen[-1][1] == limits.VISIBILITY_ENTRIES + 5
