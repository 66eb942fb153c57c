"""Which events are duplicates: the kernel, a naive reading of the sentence, and every way to cut the log agree."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import recompute
from unit.kernel.worlds import NOON, SECOND, World, answers_of, events_of, partitions_of, same, source, worlds

import oracle
from featureflow.clock import NO_TIME_US
from featureflow.define.version import with_version
from featureflow.kernel.accept import judge
from featureflow.kernel.dedupe import Ids, hashes
from oracle import Record

HORIZON = 60 * SECOND
ORDERED = msgspec.structs.replace(source(), dedupe="kind", within_us=HORIZON)


def deduping(world: World, within_us: int) -> World:
    """The same world, its sources told to look for copies by ``kind``, of which there are few: most events are."""
    sources = {name: msgspec.structs.replace(s, dedupe="kind", within_us=within_us) for name, s in world.sources.items()}
    return World(with_version(world.view, sources), sources, world.records)


@given(worlds(), st.sampled_from([1, 7, 60, 3600, 86_400]), st.data())
@settings(max_examples=80, deadline=None)
def test_features_equal_the_oracle(world: World, within: int, data: st.DataObject) -> None:
    world = deduping(world, within * SECOND)
    q = data.draw(st.sampled_from([r.time_us for r in world.records] or [world.now]))
    offsets = data.draw(st.fixed_dictionaries({(s, p): st.integers(0, 100) for s in world.sources for p in (0, 1)}))
    applied = {s: {p: offsets[s, p] for p in (0, 1)} for s in world.sources}
    got = recompute(world.kernel, world.sources, partitions_of(world), ["u1", "u2"], np.array([q, q]), applied)
    for i, user in enumerate(("u1", "u2")):
        expected = oracle.answers(world.view, world.sources, world.records, user, q, offsets)
        assert same(answers_of(world, got, i), expected)


def verdicts(records: list[Record], cuts: list[int], *, prune: bool) -> list[bool]:
    ids, maximum, found = Ids(ORDERED), NO_TIME_US, []
    for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        events = events_of(records[begin:end], 0)
        verdict = judge(events, maximum, ORDERED)
        maximum = verdict.max_time_us(maximum)
        takes = verdict.accepted & (events.columns["user"] != None)  # noqa: E711  # element by element
        duplicate, counted = ids.judge(events, "user", takes, verdict.running_max_us)
        assert not duplicate[[place for place, _ in counted]].any()
        found += duplicate.tolist()
        if prune:
            ids.prune(maximum)
            assert len(ids.tiles) <= 2
    return found


@given(worlds(), st.data())
@settings(max_examples=80, deadline=None)
def test_batches_and_pruning_do_not_show(world: World, data: st.DataObject) -> None:
    records = [r for r in world.records if (r.source, r.partition) == ("click", 0)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=5)))
    assert verdicts(records, cuts, prune=True) == verdicts(records, [], prune=False)


def at(offset: int, seconds: float, kind: str | None = "a", user: str = "u1") -> Record:
    time_us = NOON + round(seconds * SECOND)
    return Record("click", 0, offset, time_us, NOON + 10**9, {"at": float(time_us), "user": user, "x": 1.0, "y": None, "kind": kind})


@pytest.mark.parametrize(("records", "duplicates"), [
    ([at(0, 0), at(1, 0)], [False, True]),
    ([at(0, 0), at(1, 60, "b"), at(2, 0)], [False, False, True]),            # t = M - H: still within
    ([at(0, 0), at(1, 60.000001, "b"), at(2, 0)], [False, False, False]),    # older by a microsecond: the copy counts
    ([at(0, 0), at(1, 60.000001, "b"), at(2, 0), at(3, 60)], [False, False, False, False]),   # and makes none itself: as old
    ([at(0, 0), at(1, 61), at(2, 61)], [False, False, True]),                # it moves the maximum itself
    ([at(0, 0), at(1, 59), at(2, 118)], [False, True, False]),               # a copy does not renew its original
    ([at(0, 0), at(1, 0, user="u2"), at(2, 0)], [False, False, True]),       # another entity's event is another event
    ([at(0, 0, None), at(1, 0, None)], [False, False]),
    ([at(0, 1000, "b"), at(1, 0), at(2, 0)], [False, False, False]),              # too old to make any
])  # fmt: skip
def test_the_edges_of_the_horizon(records: list[Record], duplicates: list[bool]) -> None:
    assert verdicts(records, [], prune=False) == duplicates
    assert verdicts(records, list(range(1, len(records))), prune=True) == duplicates


def test_ids_and_entities_do_not_run_into_each_other() -> None:
    text = [("a", "bc"), ("ab", "c"), ("1:a", "b"), ("a", "1:b"), ("", "abc"), ("abc", "")]
    ids, entities = (np.array(column, object) for column in zip(*text, strict=True))
    assert len(set(hashes(ids, entities))) == len(text)
    users = np.array(["u"] * 3, object)
    assert hashes(np.array([1.0, 2.0, np.nan]), users) == hashes(np.array(["1", "2", None], object), users)
    assert hashes(np.array([float(2**53)]), np.array([-7.0])) == hashes(np.array([str(2**53)], object), np.array(["-7"], object))
