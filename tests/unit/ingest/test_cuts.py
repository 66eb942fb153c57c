"""Where a batch is cut into commits, against a count event by event."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featureflow.ingest.cuts import Changes, Whole, cuts

Views = list[list[int | None]]                # of each view, the row that each event changes; None: none


def before(rows: list[int | None]) -> np.ndarray:
    last: dict[int, int] = {}
    out = []
    for i, row in enumerate(rows):
        out.append(len(rows) if row is None else last.get(row, -1))
        if row is not None:
            last[row] = i
    return np.array(out, np.int64)


def changed(pairs: list[tuple[int, int]]) -> Changes:
    places, before = np.array(pairs, np.int64).reshape(-1, 2).T
    return Changes(places, before)


def cut(befores: list[np.ndarray], weights: np.ndarray, start: int, stop: int, *, rows: int, rewritten: int) -> list[int]:
    """Every change of every view, and every weight, in order of the event."""
    pairs = [(place, before) for each in befores for place, before in enumerate(each.tolist()) if before < len(each)]
    changes = sorted(pair for pair in pairs if pair[0] >= start)
    (heavy,) = weights.nonzero()
    return cuts([(changed(changes), rows)], Whole(heavy, weights[heavy]), start, stop, rewritten=rewritten)


def slowly(views: Views, weights: list[int], rows: int, rewritten: int) -> list[int]:
    ends: list[int] = []
    changed: set[tuple[int, int]] = set()
    written = 0
    for i in range(len(weights)):
        now = {(view, row) for view, each in enumerate(views) if (row := each[i]) is not None}
        start = ends[-1] if ends else 0
        if i > start and (len(changed | now) > rows or written + weights[i] > rewritten):
            ends.append(i)
            changed, written = set(), 0
        changed |= now
        written += weights[i]
    return [*ends, len(weights)]


@given(
    st.integers(1, 2).flatmap(
        lambda views: st.lists(st.tuples(*[st.none() | st.integers(0, 9)] * views, st.sampled_from([0, 0, 0, 3, 9])), max_size=60)
    ),
    st.integers(1, 8), st.integers(1, 12),
)
def test_each_commit_is_as_long_as_its_bounds_allow(events: list[tuple[int | None, ...]], rows: int, rewritten: int) -> None:
    *views, weights = zip(*events, strict=True) if events else ((), ())
    each = [list(view) for view in views]
    found = cut([before(view) for view in each], np.array(weights, np.int64), 0, len(events), rows=rows, rewritten=rewritten)
    assert found == slowly(each, list(weights), rows, rewritten)


def test_a_batch_that_nobody_folds_is_one_commit() -> None:
    nothing = np.zeros(0, np.int64)
    assert cuts([(Changes(nothing, nothing), 1)], Whole(nothing, nothing), 0, 5, rewritten=1) == [5]
    assert cuts([], Whole(nothing, nothing), 5, 5, rewritten=1) == [5]


def test_what_comes_before_the_first_event_does_not_count() -> None:
    same = before([1, 1, 1, 2, 2])
    assert cut([same], np.zeros(5, np.int64), 2, 5, rows=1, rewritten=1) == [3, 5]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=60), st.integers(1, 8), st.integers(1, 4))
def test_rows_and_keys_have_bounds_of_their_own(events: list[tuple[int, int]], rows: int, keys: int) -> None:
    kinds = [(changed(list(enumerate(before([hash(row) for row in of]).tolist()))), most)
             for of, most in ((events, rows), ([key for key, _ in events], keys))]  # fmt: skip
    nothing = np.zeros(0, np.int64)
    ends = cuts(kinds, Whole(nothing, nothing), 0, len(events), rewritten=1)
    starts = [0, *ends[:-1]]
    for start, stop in zip(starts, ends, strict=True):
        assert len(set(events[start:stop])) <= rows
        assert len({key for key, _ in events[start:stop]}) <= keys
    for start, stop in zip(starts[:-1], ends[:-1], strict=True):
        longer = events[start : stop + 1]
        assert len(set(longer)) > rows or len({key for key, _ in longer}) > keys
