"""A state of few events is what rows would be: to the bit, whatever the view, the batches, the commits and the moment it becomes rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from unit.ingest.slabs_rig import Ingest, check, click, give, one_source
from unit.kernel.worlds import (
    EXACT,
    LIFETIME,
    NASTY,
    NOON,
    SECOND,
    SKETCHED,
    World,
    aggregation,
    sliding,
    worlds,
)

from featureflow import limits
from featureflow.define.spec import Call, Column, Literal
from featureflow.errors import StateError
from featureflow.ingest.event_form import EventForm
from featureflow.ingest.order import Index
from featureflow.kernel import event_form
from featureflow.store.online.writes import Writes
from oracle import Record

HOUR = 3_600

SEEN: Counter[str] = Counter()


@settings(max_examples=150, deadline=None)
@given(worlds(ops=(*EXACT, *SKETCHED)), st.integers(0, 2**32), st.sampled_from([2, 5, 15, 15, 200]))
def any_state(world: World, seed: int, few: int) -> None:
    luck = random.Random(seed)
    ingest = Ingest(world, luck)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "FEW_EVENTS", few)
        patched.setattr(limits, "FEW_EVENTS_BYTES", luck.choice([100, 512, 1 << 16]))
        at = 0
        while at < len(world.records):
            one, stop = world.records[at], at + 1
            most = at + luck.choice([1, 3, 30])
            while stop < min(most, len(world.records)) and (world.records[stop].source, world.records[stop].partition) == (
                one.source, one.partition,
            ):  # fmt: skip
                stop += 1
            ingest.fold(world.records[at:stop])
            at = stop
            if luck.random() < 0.1:
                ingest.begin()
                patched.setattr(limits, "FEW_EVENTS", luck.choice([few, 0, 15]))
    SEEN.update(ingest.store.seen)
    check(ingest)


def test_any_state_is_what_the_events_are() -> None:
    SEEN.clear()
    any_state()
    assert min(SEEN[what] for what in ("begun", "appended", "lifted", "cells lifted", "refused")) > 0, SEEN


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([*EXACT, *SKETCHED]), min_size=1, max_size=4, unique=True),
    st.lists(st.tuples(st.sampled_from([0, 1, 20, 90, 400]), st.sampled_from([0, 0, 1, 29]), NASTY), min_size=20, max_size=60),
    st.integers(0, 2**32),
)
def slow_entity(ops: list[str], seen: list[tuple[int, int, float]], seed: int) -> None:
    declared = [aggregation(op, [sliding(60), sliding(600)], size=3, half_life_s=5) for op in ops]
    ingest, now, records = one_source(*declared), NOON, list[Record]()
    ingest.luck = random.Random(seed)
    for offset, (step, ago, x) in enumerate(seen):
        now += step * SECOND
        records.append(click(offset, now - ago * SECOND, x, y=x / 3))
    ingest.world, at = replace(ingest.world, records=tuple(records)), 0
    while at < len(records):
        stop = at + ingest.luck.choice([1, 1, 2, 9])
        ingest.fold(records[at:stop])
        at = stop
        if ingest.luck.random() < 0.1:
            ingest.begin()
    SEEN.update(ingest.store.seen)
    check(ingest)


def test_events_that_no_window_holds_any_more_go() -> None:
    SEEN.clear()
    slow_entity()
    assert min(SEEN[what] for what in ("begun", "appended", "shortened", "lifted", "refused")) > 0, SEEN


def test_an_event_is_appended_in_a_few_bytes_and_has_no_cells_until_rows_are_written() -> None:
    ingest = one_source(aggregation("sum", [sliding(HOUR)]), aggregation("top_k", [sliding(HOUR)], size=3))
    give(ingest, [click(0, NOON)])
    (value,) = ingest.store.values()
    assert len(value) == event_form.HEADER.itemsize + 1 + 2 + 1 + 1 + 1   # length; kinds of three; a time, an offset and 125 hundredths
    give(ingest, [click(i, NOON + i * 7 * SECOND) for i in range(1, 15)])
    (longer,) = ingest.store.values()
    assert longer.startswith(value)
    assert len(longer) < 200
    check(ingest)
    give(ingest, [click(15, NOON + 200 * SECOND)])
    assert len(ingest.store) == 2
    check(ingest)


def test_cells_are_written_with_the_rows_by_an_event_that_changes_none() -> None:
    ingest = one_source(aggregation("count", [sliding(HOUR)]), aggregation("approx_distinct", [sliding(HOUR)], value=Column("y")))
    give(ingest, [click(i, NOON + i * SECOND, y=float(i)) for i in range(15)])
    assert len(ingest.store) == 1
    give(ingest, [click(15, NOON + 20 * SECOND)])                  # y is null
    assert len(ingest.store) == 2
    check(ingest)


@pytest.mark.parametrize("op", SKETCHED)
@pytest.mark.parametrize("turned", [False, True])
def test_cells_written_with_rows_are_not_taken_for_those_of_another_entity_of_the_batch(op: str, turned: bool) -> None:
    ingest = one_source(aggregation("count", [sliding(HOUR)]), aggregation(op, [sliding(HOUR)], value=Column("y"), size=3))
    give(ingest, [click(i, NOON + i * SECOND, user="u1", y=float(i)) for i in range(15)])
    give(ingest, [click(i, NOON + i * SECOND, user="u2", y=100.0 + i) for i in range(15, 40)])
    news = [{"user": "u1"}, *({"user": "u2", "y": float(y)} for y in range(15))]     # of u1, which is rows from now on, no cell changes
    batch = [click(40 + i, NOON + 40 * SECOND, **fields) for i, fields in enumerate(news[::-1] if turned else news)]
    ingest.world = replace(ingest.world, records=(*ingest.world.records, *batch))
    ingest.fold(batch)
    check(ingest)


@pytest.mark.parametrize("op", SKETCHED)
def test_cells_of_which_all_went_before_rows_are_written_leave_none_behind(op: str) -> None:
    ingest = one_source(aggregation("count", [sliding(24 * HOUR)]), aggregation(op, [sliding(60)], value=Column("y"), size=3))
    give(ingest, [click(i, NOON + i * SECOND, y=float(i)) for i in range(15)])
    late = NOON + 2 * HOUR * SECOND
    give(ingest, [click(15, late, user="u2")])                     # the cells of u1 are of the past by now
    batch = [click(16, late), click(17, late, y=99.0)]             # rows from the first one on, which changes no cell
    after_the_first: list[dict[bytes, bytes]] = []
    for of in ingest.views.values():
        of._commit_rows = 1
    apply = ingest.store.apply

    def applied(writes: Writes) -> None:
        apply(writes)
        after_the_first.append(dict(ingest.store))

    ingest.store.apply = applied  # type: ignore[method-assign]
    ingest.world = replace(ingest.world, records=(*ingest.world.records, *batch))
    ingest.fold(batch)
    check(ingest)
    assert len(after_the_first) == 2
    ingest.store.clear()
    ingest.store.update(after_the_first[0])                        # the process died between the two
    ingest.world = replace(ingest.world, records=ingest.world.records[:-1])
    check(ingest)


def test_a_slow_entity_stays_few_events_for_ever() -> None:
    ingest = one_source(aggregation("sum", [sliding(HOUR)]), aggregation("approx_quantile", [sliding(HOUR)]))
    longest = 0
    for i in range(80):
        give(ingest, [click(i, NOON + i * 600 * SECOND, x=i * 1.5)])
        longest = max(longest, *map(len, ingest.store.values()))
        if i % 20 == 19:
            ingest.begin()
    (value,) = ingest.store.values()
    assert value.startswith(event_form.MARK)
    assert longest < 200
    check(ingest)


def test_the_comparison_would_show_cells_that_stay_behind_when_rows_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    lift = EventForm._lift

    def rows_alone(self: EventForm, entities: Index, beside: Sequence[Index], lifted: NDArray[np.bool_], first: Index) -> None:
        lift(self, entities, beside, lifted, first)
        for slab in self._cells:
            slab.lifting = None

    monkeypatch.setattr(EventForm, "_lift", rows_alone)
    with pytest.raises(AssertionError):
        test_cells_are_written_with_the_rows_by_an_event_that_changes_none()


def test_the_comparison_would_show_an_event_that_goes_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_form, "alive", lambda layout, times_us, horizon: times_us > NOON + 70_000 * SECOND)
    with pytest.raises(AssertionError):
        test_a_slow_entity_stays_few_events_for_ever()


def test_an_entity_of_which_rows_are_no_larger_is_rows() -> None:
    ingest = one_source(aggregation("count", [LIFETIME]))
    give(ingest, [click(i, NOON + i * SECOND) for i in range(6)])
    (value,) = ingest.store.values()
    assert not value.startswith(event_form.MARK)
    check(ingest)


def test_a_view_of_vectors_is_rows() -> None:
    ingest = one_source(aggregation("last", [sliding(HOUR)], value=Column("v"), vector=3))
    give(ingest, [click(0, NOON, v=[1.0, 2.0, 3.0])])
    (value,) = ingest.store.values()
    assert not value.startswith(event_form.MARK)


def test_an_event_too_long_for_the_form_makes_its_entity_rows() -> None:
    ingest = one_source(aggregation("count", [sliding(HOUR)], where=Call("ne", (Column("kind"), Literal("a")))))
    give(ingest, [click(0, NOON, kind="b")])
    assert all(value.startswith(event_form.MARK) for value in ingest.store.values())
    give(ingest, [click(1, NOON + SECOND, kind="b" * 300)])
    assert not any(value.startswith(event_form.MARK) for value in ingest.store.values())
    check(ingest)


@pytest.mark.parametrize("damage", ["cut", "layout", "longer", "text"])
def test_a_damaged_value_is_refused_loudly(damage: str) -> None:
    ingest = one_source(aggregation("last", [sliding(HOUR)], value=Column("kind"), width=8))
    give(ingest, [click(0, NOON, kind="abcd"), click(1, NOON, kind="abcd")])
    ((key, value),) = ingest.store.items()
    if damage == "layout":
        value = value[:8] + bytes(8) + value[16:]
    else:
        value = {"cut": value[:-1], "longer": value + b"\x07", "text": value[:-1] + b"\xff"}[damage]
    ingest.store[key] = value
    with pytest.raises(StateError, match="featureflow rebuild"):
        ingest.states()
