"""A worker's slabs of any views, without a worker: batches in, and what commits write in a dict."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from replay import recompute
from unit.kernel.worlds import (
    NOON,
    SKETCHED,
    World,
    answers_of,
    applied_of,
    events_of,
    partitions_of,
    same,
    source,
    view,
)

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import DEFAULT_PROJECT, Aggregation, Entity, Project
from featureflow.ingest.judged import Judged
from featureflow.ingest.owned import Stand
from featureflow.ingest.source_views import SourceViews
from featureflow.kernel import accept, event_form, state
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
            np.arange(len(events)), Stand((Track(self.world.view.id, ONE),), 0, before, None), {},
        )
        of.load(self.store, judged)
        shares = of.shares(judged)
        while True:
            of.fold(judged, shares)
            (share,) = shares
            for part in share.parts:
                share.sent += 1
                if share.refused is not None or self.luck.random() < 0.1:
                    share.settle(share.refused or Refused("expired", "", ()))
                    self.store.seen["refused"] += 1
                else:
                    self.store.apply(part.writes)
                    share.settle(Committed(NOON // 1_000))
            of.committed(judged, shares)
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


def check(ingest: Ingest) -> None:
    """The state that is stored against the replay of all events, and the oracle."""
    world = ingest.world
    now = max(world.now, *ingest.maxima.values(), NOON)            # no instant before the log's newest is asked about
    q = np.full(len(USERS), now)
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
            assert same(answers_of(world, got, row), answer(world.view, mine, now))


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
