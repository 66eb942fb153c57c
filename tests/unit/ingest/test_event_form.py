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
from unit.kernel.worlds import (
    EXACT,
    LIFETIME,
    NASTY,
    NOON,
    SECOND,
    SKETCHED,
    World,
    aggregation,
    answers_of,
    applied_of,
    events_of,
    partitions_of,
    same,
    sliding,
    source,
    view,
    worlds,
)

from featureflow import limits
from featureflow.clock import NO_TIME_US
from featureflow.define.spec import DEFAULT_PROJECT, Aggregation, Call, Column, Entity, Literal, Project
from featureflow.errors import StateError
from featureflow.ingest.claim import Stand
from featureflow.ingest.event_form import EventForm
from featureflow.ingest.slots import Index
from featureflow.ingest.source_views import Judged, SourceViews
from featureflow.kernel import accept, event_form, state
from featureflow.kernel.replay import recompute
from featureflow.store.keys import ONE, Keys
from featureflow.store.log.protocol import Batch
from featureflow.store.online.protocol import Committed, Refused, Track
from featureflow.store.online.writes import StateWrite, Writes
from oracle import Record, answer, counting

KEYS = Keys(DEFAULT_PROJECT)
USERS = ["u1", "u2"]
HOUR = 3_600


class Store(dict[bytes, bytes]):
    """State keys, with the checks that a store makes."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def apply(self, writes: Writes) -> None:
        writes.check()
        for write in writes:
            held = bytearray(self.get(write.key, b""))
            assert len(held) == write.expected_bytes
            assert bytes(held[: len(write.header)]) == write.header
            if write.expected_bytes:
                assert write.header
            if write.whole is not None:
                held = bytearray(write.whole)
            for patch in write.patches:
                held[patch.position : patch.position + len(patch.data)] = patch.data
            self.seen[self._what(write, self.get(write.key, b""))] += 1
            self[write.key] = bytes(held)

    @staticmethod
    def _what(write: StateWrite, before: bytes) -> str:
        """What became of a key."""
        if write.whole is None:
            return "appended" if before.startswith(event_form.MARK) else "patched"
        if write.whole.startswith(event_form.MARK):
            return "shortened" if before else "begun"
        return "lifted" if before.startswith(event_form.MARK) else "cells lifted" if b"~cells" in write.key and not before else "written"


class Ingest:
    """A worker's slabs of a world's sources over such a store."""

    def __init__(self, world: World, luck: random.Random) -> None:
        self.world, self.luck, self.store = world, luck, Store()
        self.project = Project(
            entities=(Entity(name="user", type="str"),), sources=tuple(world.sources.values()), views=(world.view,)
        )
        self.maxima: dict[tuple[str, int], int] = {}
        self.begin()

    def begin(self) -> None:
        """A worker that has nothing yet."""
        self.views = {
            name: SourceViews(self.project, one, slab_bytes=self.luck.choice([1, 1 << 20]), commit_rows=self.luck.choice([1, 7, 500]))
            for name, one in self.world.sources.items()
        }

    def fold(self, records: Sequence[Record]) -> None:
        """Of one partition: until all is committed, though some commits are refused on the way."""
        name, partition = records[0].source, records[0].partition
        of, events = self.views[name], events_of(records, partition)
        before = self.maxima.get((name, partition), NO_TIME_US)
        verdict = accept.judge(events, before, self.world.sources[name])
        layout = of.layouts[self.world.view.id]
        takes = verdict.accepted & ~accept.late(layout, events, verdict) & (events.columns["user"] != None)  # noqa: E711
        if layout.widths:
            takes &= ~accept.too_wide(layout, events, takes)
        none = np.zeros(0, np.int64)
        end = int(events.offsets[-1]) + 1
        judged = Judged(
            Batch(name, partition, 0, end, none, none, [], []), events, verdict.running_max_us, {self.world.view.id: takes}, {}, [],
            np.arange(len(events)), Stand((Track(self.world.view.id, ONE),), 0, before, None, None), {},
        )
        of.load(self.store, judged)
        shares = of.shares(judged)
        while True:
            of.fold(judged, shares)
            (share,) = shares
            while (part := share.part) is not None:
                if self.luck.random() < 0.1:
                    share.settle(Refused("expired", "", ()))
                    self.store.seen["refused"] += 1
                else:
                    self.store.apply(part.writes)
                    share.settle(Committed(NOON // 1_000))
            of.committed(shares)
            if share.refused is None:
                break
            of.load(self.store, judged)
        self.maxima[name, partition] = verdict.max_time_us(before)

    def states(self) -> dict[str, state.States]:
        found = {}
        for name, layout in self.world.kernel.layouts.items():
            owners = [None] if layout.keyed else [0, 1]
            found[name] = state.parse(layout, [self.store.read([
                KEYS.state("user", user, layout.view_id, name, owner, one.part) for one in layout.all for owner in owners
            ]) for user in USERS])  # fmt: skip
        return found


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


def check(ingest: Ingest) -> None:
    """The state that is stored against the replay of all events, and the oracle."""
    world = ingest.world
    q = np.full(len(USERS), world.now)
    kernel = world.kernel
    got = kernel.finalize(ingest.states(), q)
    wanted = recompute(kernel, world.sources, partitions_of(world), USERS, q, applied_of(world.records))
    assert got.values.tobytes() == wanted.values.tobytes()
    assert got.statuses.tobytes() == wanted.statuses.tobytes()
    assert got.event_times_us.tobytes() == wanted.event_times_us.tobytes()
    assert {place: text.tolist() for place, text in got.texts.items()} == {place: text.tolist() for place, text in wanted.texts.items()}
    if not any(a.op in SKETCHED for a in world.view.aggregations):
        for row, user in enumerate(USERS):
            mine = [r for r in counting(world.view, world.sources, world.records) if r.fields["user"] == user]
            assert same(answers_of(world, got, row), answer(world.view, mine, world.now))


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


def one_source(*declared: Aggregation, ttl_s: int | None = None) -> Ingest:
    clicks = source(disorder_s=30, future_s=0)
    return Ingest(World(view(declared, [clicks], ttl_s=ttl_s), {"click": clicks}, ()), random.Random(4))


def click(offset: int, at: int, x: float = 1.25, **fields: object) -> Record:
    return Record("click", 0, offset, at, at, {"at": 0.0, "user": "u1", "x": x, "y": None, "kind": None, **fields})


def give(ingest: Ingest, records: Sequence[Record]) -> None:
    ingest.luck = random.Random(0)
    ingest.luck.random = lambda: 1.0                               # type: ignore[method-assign]  # nothing is refused
    ingest.world = replace(ingest.world, records=(*ingest.world.records, *records))
    for record in records:
        ingest.fold([record])


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
