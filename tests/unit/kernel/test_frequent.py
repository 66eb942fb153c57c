"""``top_k`` is exact while there are few values, and then within its stated error of a count of all, on flat and on skewed data."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from unit.kernel.keeper import Keeper
from unit.kernel.worlds import (
    KIND,
    LIFETIME,
    NASTY,
    NOON,
    World,
    X,
    aggregation,
    answers_of,
    bits,
    source,
    view,
    worlds,
)

import oracle
from featureflow.errors import StateError
from featureflow.kernel.accept import too_wide
from featureflow.kernel.columns import Layout
from featureflow.kernel.events import Events
from featureflow.kernel.partial.frequent import FrequentValues, joined, level_of, pack, split, unpack
from featureflow.kernel.partial.peel import DEPTH, LEVELS, Peeling, hashed, places

CLICKS = source()
Ranking = list[tuple[object, float]]


def ranked(values: np.ndarray, k: int, error: float = 0.02, width: int = 0, first: int = 0) -> Ranking:
    """What one group's cells say: values with their counts, best first."""
    sketch = FrequentValues(X, None, error, width)
    _, cells, words = sketch.cells(values, np.arange(first, first + len(values)))
    order = np.argsort(cells, kind="stable")
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    merged = sketch.reduce(words[order], starts)
    found = [
        sketch.estimate(np.zeros(len(starts), np.int64), cells[order][starts], merged, 1, aggregation(op, [LIFETIME], size=k))[0].tolist()
        for op in ("top_k", "top_k_count")
    ]
    return [(value, n) for value, n in zip(*found, strict=True) if n == n]


def counted(values: np.ndarray, k: int) -> Ranking:
    return sorted(((v, float(n)) for v, n in Counter(values.tolist()).items()), key=lambda item: (-item[1], item[0]))[:k]


@pytest.mark.parametrize("error", [0.25, 0.02, 0.005])
def test_few_values_are_counted_exactly_however_many_events_they_have(error: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng([seed, 3])
        different = int(rng.integers(1, 2 / error))
        values = rng.lognormal(3, 2, different)[rng.integers(0, different, int(rng.integers(1, 20_000)))]
        assert ranked(values, 64, error) == counted(values, 64)


@given(st.lists(NASTY | st.sampled_from([0.0, -0.0, 1.0]), min_size=1, max_size=40), st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_any_numbers_are_counted_exactly(values: list[float], k: int) -> None:
    assert [(v.hex(), n) for v, n in ranked(np.array(values), k)] == [
        ((v + 0.0).hex(), n) for v, n in counted(np.array(values) + 0.0, k)
    ]


@given(st.lists(st.text(max_size=4) | st.sampled_from(["", "\0", "a", "a\0", "ab"]), min_size=1, max_size=40), st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_any_strings_are_counted_exactly_the_smaller_first(values: list[str], k: int) -> None:
    column = np.array(values, object)
    assert ranked(column, k, width=16) == counted(column, k)


@pytest.mark.parametrize("skew", [1.1, 1.5])
@pytest.mark.parametrize("error", [0.05, 0.02])
def test_of_many_values_the_frequent_are_found_and_counts_are_within_the_stated_error(skew: float, error: float) -> None:
    missed = frequent = beyond = reported = 0
    n = 60_000
    for seed in range(15):
        rng = np.random.default_rng([seed, 11])
        values = np.minimum(rng.zipf(skew, n), 2.0**40).astype(np.float64)
        exact = Counter(values.tolist())
        assert len(exact) > 16 / error                     # or it would be exact
        found = ranked(values, 64, error, first=seed * n)
        assert all(count >= exact[value] > 0 for value, count in found)
        beyond += sum(count - exact[value] > error * n for value, count in found)
        reported += len(found)
        often = {value for value, count in exact.items() if count >= error * n}
        missed += len(often - {value for value, _ in found})
        frequent += len(often)
    assert frequent > 15
    assert missed == 0
    assert beyond <= (2 * np.e) ** -DEPTH * reported


def test_of_flat_data_nothing_is_made_up() -> None:
    values = np.arange(50_000.0)
    found = ranked(values, 64)
    assert found
    assert all(value in values and 1 <= count <= 0.02 * len(values) for value, count in found)


def test_without_the_levels_above_frequent_values_among_many_are_not_found() -> None:
    """The guard of the promise: the first level alone, which has half of all events, decodes to nothing."""
    values = np.minimum(np.random.default_rng(5).zipf(1.2, 60_000), 2.0**40).astype(np.float64)
    sketch = FrequentValues(X, None)
    _, cells, words = sketch.cells(values, np.arange(len(values)))
    order = np.argsort(cells, kind="stable")
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    table, merged = cells[order][starts], sketch.reduce(words[order], starts)
    stride = DEPTH * sketch.across
    first = table < stride
    _, below, _ = Peeling(table[first], merged[first], sketch.across).found()
    _, above, _ = Peeling(table[~first], merged[~first], sketch.across).found()
    assert 1.0 not in joined(below)
    assert 1.0 in joined(above)


def test_an_event_has_each_level_half_as_often_as_the_one_before() -> None:
    levels = np.bincount(level_of(np.arange(1 << 18)), minlength=LEVELS)
    assert len(levels) == LEVELS
    for j in range(8):
        assert abs(levels[j] / 2 ** (17 - j) - 1) < 0.1


def test_halves_are_one_to_one_and_order_like_the_values() -> None:
    numbers = np.array([-(2.0**62), -1.5, -5e-324, 0.0, 5e-324, 1.0, 2.0**62])
    assert joined(split(numbers)).tolist() == numbers.tolist()
    assert split(np.array([-0.0])).tolist() == split(np.array([0.0])).tolist()
    assert sorted(map(tuple, split(numbers).tolist())) == list(map(tuple, split(numbers).tolist()))
    texts = np.array(["", "\0", "a", "a\0", "ab", "b", "\u00fcnd", "\U0001f600"], object)
    assert unpack(pack(texts, 16)).tolist() == texts.tolist()
    assert sorted(map(tuple, pack(texts, 16).tolist())) == list(map(tuple, pack(texts, 16).tolist()))
    with pytest.raises(StateError, match="a string of 5 bytes was to be counted in 4"):
        pack(np.array(["abcde"], object), 4)
    assert pack(np.array([], object), 4).shape == (0, 2)


def test_groups_do_not_mix_and_one_of_many_values_does_not_change_another() -> None:
    sketch = FrequentValues(X, None)
    rng = np.random.default_rng(3)
    columns = [np.array([1.0, 1.0, 2.0]), np.minimum(rng.zipf(1.2, 30_000), 2.0**40).astype(np.float64), np.array([7.0])]
    group, cell, word = [], [], []
    for i, values in enumerate(columns):
        _, cells, words = sketch.cells(values, np.arange(len(values)))
        order = np.argsort(cells, kind="stable")
        starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
        group.append(np.full(len(starts), 2 * i))
        cell.append(cells[order][starts])
        word.append(sketch.reduce(words[order], starts))
    found = sketch.estimate(*map(np.concatenate, (group, cell, word)), 6, aggregation("top_k", [LIFETIME], size=5))  # type: ignore[arg-type]
    for i, values in enumerate(columns):
        alone = [value for value, _ in ranked(values, 5)]
        assert found[2 * i].tolist()[: len(alone)] == alone
        assert np.isnan(found[2 * i + 1]).all()


def test_damaged_cells_give_an_end_and_no_value_that_was_not_there() -> None:
    sketch = FrequentValues(X, None, 0.25)
    rng = np.random.default_rng(9)
    _, cells, words = sketch.cells(np.arange(20.0), np.arange(20))
    for _ in range(200):
        order = np.argsort(cells, kind="stable")
        starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
        merged = sketch.reduce(words[order], starts)
        kept = rng.random(len(starts)) < 0.9
        merged[rng.integers(0, len(merged)), rng.integers(0, sketch.words)] += rng.integers(-5, 6)
        _, halves, counts = Peeling(cells[order][starts][kept], merged[kept], sketch.across).found()
        assert set(joined(halves).tolist()) <= set(np.arange(20.0).tolist())
        assert (counts > 0).all()


def test_a_value_that_was_read_is_counted_exactly_where_others_of_its_table_were_not() -> None:
    sketch = FrequentValues(X, None, 0.25)
    first = np.flatnonzero(level_of(np.arange(5_000)) == 0)
    stuck = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.random(160), rng.integers(1, 4, 160))
        _, cells, words = sketch.cells(values, first[: len(values)])
        order = np.argsort(cells, kind="stable")
        starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
        _, halves, counts = Peeling(cells[order][starts], sketch.reduce(words[order], starts), sketch.across).found()
        exact = Counter(values.tolist())
        assert all(exact[value] == n for value, n in zip(joined(halves).tolist(), counts.tolist(), strict=True))
        stuck += 0 < len(counts) < len(exact)
    assert stuck > 3


def test_values_that_share_all_their_cells_in_one_table_are_read_in_the_next() -> None:
    values = np.arange(3_000.0)
    across = FrequentValues(X, None, 0.25).across
    hashes = hashed(split(values))
    cells = places(hashes, np.zeros(len(values), np.int64), across)
    _, inverse, shared = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    pairs = [np.flatnonzero(inverse.ravel() == one) for one in np.flatnonzero(shared > 1)]
    assert len(pairs) > 3
    for pair in pairs:
        events = np.concatenate((np.repeat(values[pair[:1]], 60), np.repeat(values[pair[1:]], 20)))
        found = dict(ranked(events, 8, 0.25))
        assert set(found) == set(values[pair].tolist())
        assert all(60 >= found[value] - n >= 0 for value, n in Counter(events.tolist()).items())


def test_a_value_has_one_cell_in_each_row() -> None:
    found = places(hashed(split(np.arange(1000.0))), np.arange(1000) % LEVELS, 50)
    assert (found // 50 == np.arange(DEPTH)).all()
    assert len(np.unique(found)) == 50 * DEPTH


@given(worlds(ops=("top_k", "top_k_count", "count"), most=40))
@settings(max_examples=60, deadline=None)
def test_few_events_in_any_windows_are_what_a_count_of_all_says(world: World) -> None:
    keeper = Keeper(world)
    for record in world.records:
        keeper.fold([record])
    q = np.full(2, world.now)
    values = world.kernel.finalize(keeper.states(("u1", "u2")), q)
    for row, user in enumerate(("u1", "u2")):
        expected = oracle.answers(world.view, world.sources, world.records, user, world.now)
        assert bits(answers_of(world, values, row)) == bits(expected)


def test_an_event_with_a_string_that_is_too_long_to_count_is_refused_where_the_condition_holds() -> None:
    declared = replace(aggregation("top_k", [LIFETIME], value=KIND, width=4), name="kinds")
    layout = Layout.of(view([declared], [CLICKS], ttl_s=3600), CLICKS)
    n = 3
    batch = Events(
        0, np.arange(n), np.full(n, NOON), np.full(n, NOON),
        {"user": np.full(n, "u", object), "x": np.zeros(n), "kind": np.array(["abcd", "abcde", None], object)},
    )  # fmt: skip
    assert too_wide(layout, batch, np.ones(n, np.bool_)).tolist() == [False, True, False]
