from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow.ingest import arena as arena_module
from featureflow.ingest.arena import Arena, spans

SLOTS = 6
step = st.one_of(
    st.tuples(st.just("extend"), st.dictionaries(st.integers(0, SLOTS - 1), st.integers(1, 9), min_size=1)),
    st.tuples(st.just("replace"), st.dictionaries(st.integers(0, SLOTS - 1), st.integers(0, 5), min_size=1)),
    st.tuples(st.just("free"), st.sets(st.integers(0, SLOTS - 1), min_size=1)),
)


@given(st.lists(step, max_size=40))
def test_a_slot_keeps_its_rows_in_order_whatever_happens_to_the_others(steps: list[tuple[str, object]]) -> None:
    arena = Arena(width=2, rows=8)
    arena.reserve(SLOTS)
    expected: dict[int, list[int]] = {slot: [] for slot in range(SLOTS)}
    fresh = iter(range(1_000_000))
    for what, argument in steps:
        if what == "extend":
            assert isinstance(argument, dict)
            slots = np.array(list(argument), np.int64)
            before = arena.extend(slots, np.array(list(argument.values()), np.int64))
            for slot, first, more in zip(argument, before.tolist(), argument.values(), strict=True):
                assert first == len(expected[slot])
                for position in range(first, first + more):
                    expected[slot].append(value := next(fresh))
                    arena.table[arena.base[slot] + position] = value
        elif what == "replace":
            assert isinstance(argument, dict)
            counts = {slot: min(count, len(expected[slot])) for slot, count in argument.items()}
            for slot, count in counts.items():
                expected[slot] = [next(fresh) for _ in range(count)]
            rows = np.array([[value, value] for slot in counts for value in expected[slot]], np.int64).reshape(-1, 2)
            arena.replace(np.array(list(counts), np.int64), rows, np.array(list(counts.values()), np.int64))
        else:
            assert isinstance(argument, set)
            arena.free(np.array(sorted(argument), np.int64))
            for slot in argument:
                expected[slot] = []
        rows_at, owner = arena.where(np.arange(SLOTS))
        assert owner.tolist() == [slot for slot in range(SLOTS) for _ in expected[slot]]
        assert arena.table[rows_at].tolist() == [[value, value] for slot in range(SLOTS) for value in expected[slot]]


def test_places_left_behind_are_used_again_and_the_table_does_not_grow_for_ever() -> None:
    arena = Arena(width=1, rows=64)
    arena.reserve(2)
    one = np.array([1], np.int64)
    for _ in range(1_000):
        arena.extend(np.array([0]), 20 * one)
        arena.free(np.array([0]))
    assert len(arena.table) == 64


@pytest.mark.parametrize("begun_with", [0, 5_000])
def test_slots_that_come_to_need_other_places_are_moved_together_and_the_table_keeps_its_bound(begun_with: int) -> None:
    """Each phase fills as many rows as the one before it, in places twice as large, of half as many slots: some of them go on."""
    arena, most = Arena(width=1, rows=begun_with), 4_096
    arena.reserve(most // 4)
    rng = np.random.default_rng(0)
    for size in (4, 8, 16, 32, 64, 128, 256, 512):
        slots = rng.permutation(most // 4)[: most // size]
        arena.free(np.setdiff1d(np.flatnonzero(arena.capacity), slots))
        kept = {slot: arena.table[arena.base[slot] : arena.base[slot] + arena.count[slot], 0].tolist() for slot in slots.tolist()}
        for some in np.array_split(slots, 7):
            before = arena.count[some]
            more = np.maximum(0, size - before)
            arena.extend(some, more)
            arena.table[spans(arena.base[some] + before, more), 0] = np.repeat(some, more)
        for slot, was in kept.items():
            rows = arena.table[arena.base[slot] : arena.base[slot] + arena.count[slot], 0].tolist()
            assert rows[: len(was)] == was
            assert set(rows) == {slot}
        assert len(arena.table) <= 2 * most, size


def test_places_larger_than_what_is_moved_at_once_are_moved_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_module, "MOVED_BYTES", 80)           # ten rows
    arena = Arena(width=1, rows=64)
    arena.reserve(12)
    rng, sizes = random.Random(0), np.zeros(12, np.int64)
    for _ in range(500):
        slot, more = rng.randrange(12), rng.randrange(1, 9)
        if sizes[slot] + more > 40:
            arena.free(np.array([slot]))
            sizes[slot] = 0
        arena.extend(np.array([slot]), np.array([more]))
        for position in range(sizes[slot], sizes[slot] + more):
            arena.table[arena.base[slot] + position] = 100 * slot + position
        sizes[slot] += more
        for other in range(12):
            rows = arena.table[arena.base[other] : arena.base[other] + arena.count[other], 0]
            assert rows.tolist() == list(range(100 * other, 100 * other + sizes[other]))


def test_spans_count_up_from_each_first() -> None:
    assert spans(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert spans(np.array([], np.int64), np.array([], np.int64)).tolist() == []
