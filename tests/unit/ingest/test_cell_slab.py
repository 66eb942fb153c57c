"""The slab of cells against the replay of everything that it was given."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from replay import recompute
from unit.kernel.worlds import LIFETIME, NOON, SECOND, SKETCHED, aggregation, events_of, sliding, source, view

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.ingest import roll_up
from featureflow.ingest.cell_slab import CellSlab
from featureflow.ingest.cuts import Changes, Whole, cuts
from featureflow.ingest.slab import Slab
from featureflow.kernel.columns import CellLayout, Layout
from featureflow.kernel.events import Events
from featureflow.kernel.finalize import ViewKernel
from featureflow.kernel.state import parse
from featureflow.store.keys import Keys
from featureflow.store.online.writes import Writes
from oracle import Record

CLICKS = source(disorder_s=30, future_s=0, keyed=False)
WINDOWS = [sliding(120), sliding(3600)]
USERS = [f"u{i}" for i in range(6)]


@dataclass
class Ingest:
    """The slabs of a layout over a store that is a dict, and that checks what a store would."""

    layout: Layout
    store: dict[bytes, bytes] = field(default_factory=dict)
    sent: int = 0                          # bytes
    rolled: int = 0                        # values written whole over another
    parts: int = 0                         # commits that one batch was cut into, at most
    refused: int = 0

    def __post_init__(self) -> None:
        keys = Keys(DEFAULT_PROJECT)
        self.slabs = [CellSlab(one, keys, 60_000) if isinstance(one, CellLayout) else Slab(one, keys, 60_000) for one in self.layout.all]

    def fold(self, slab: Slab, events: Events, watermark_us: int, luck: random.Random, commit_rows: int = 500) -> None:
        """All events, though a commit may be refused on the way: what it held is read, and folded again."""
        at, n = 0, len(events)
        while at < n:
            ids = slab.ids(events)
            absent = list(dict.fromkeys(i for i, slot in zip(ids, slab.find(0, ids).tolist(), strict=True) if slot < 0))
            slab.load(0, absent, [self.store.get(slab.key(0, user)) for user in absent])
            placed = slab.place(0, events, np.arange(at, n), slab.find(0, ids)[at:], watermark_us)
            if not len(placed.slots):
                return
            by_place, heavy = placed.order.argsort(kind="stable"), placed.whole.places.argsort(kind="stable")
            rows = Changes(placed.order[by_place], placed.rows.before[by_place])
            whole = Whole(placed.whole.places[heavy], placed.whole.rows[heavy])
            ends = cuts([(rows, commit_rows)], whole, at, n, rewritten=4_000)
            each = slab.fold(placed, np.searchsorted(ends, np.arange(n), side="right"), len(ends))
            self.parts = max(self.parts, len(each))
            if len(each) > 1 and luck.random() < 0.3:
                each = each[: luck.randrange(1, len(each))]
                self.refused += 1
            for writes, rows in each:
                assert rows <= commit_rows
                self.apply(writes)
            slab.committed([watermark_us // 1000] * len(each) + [-1] * (len(ends) - len(each)))
            at = ends[len(each) - 1]
            slab.evict()

    def apply(self, writes: Writes) -> None:
        writes.check()
        for write in writes:
            held = bytearray(self.store.get(write.key, b""))
            assert len(held) == write.expected_bytes
            assert bytes(held[: len(write.header)]) == write.header
            if write.whole is not None:
                self.rolled += write.expected_bytes > 0
                held = bytearray(write.whole)
            for patch in write.patches:
                held[patch.position : patch.position + len(patch.data)] = patch.data
            self.store[write.key] = bytes(held)
        self.sent += len(writes.data)


def click(offset: int, at: int, user: str, x: float | None) -> Record:
    return Record("click", 0, offset, at, at, {"at": 0.0, "user": user, "x": x, "y": None, "kind": None})


@pytest.mark.parametrize("seed", range(6))
def test_folding_cutting_rolling_up_evicting_and_reading_again_equal_the_replay(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll_up, "LEAST_ROWS", 8)
    luck = random.Random(seed)
    windows = [*WINDOWS, LIFETIME] if seed % 2 else WINDOWS
    declared = view(
        [aggregation("count", [sliding(60)]), *(aggregation(op, windows) for op in SKETCHED)], [CLICKS], ttl_s=7200 if seed % 2 else None
    )
    kernel = ViewKernel(declared, {"click": CLICKS})
    ingest, records, now, watermark = Ingest(kernel.layouts["click"]), list[Record](), NOON, NO_TIME_US
    for _ in range(60):
        batch = []
        for _ in range(luck.randrange(1, 40)):
            now += luck.choice([0, 0, SECOND, 20 * SECOND])
            at = now - luck.choice([0, 0, 0, 25 * SECOND])
            batch.append(click(len(records) + len(batch), at, luck.choice(USERS), luck.choice([None, *map(float, range(300))])))
        records += batch
        events = events_of(batch, 0)
        for slab in ingest.slabs:
            ingest.fold(slab, events, watermark, luck, luck.choice([7, 500]))
            if luck.random() < 0.1:
                slab.drop(0)
        watermark = max(watermark, int(events.times_us.max()))
    assert ingest.rolled
    assert ingest.parts > 1
    assert ingest.refused
    states = parse(ingest.layout, [[ingest.store.get(slab.key(0, user)) for slab in ingest.slabs] for user in USERS])
    q = np.full(len(USERS), now)
    got = kernel.finalize({"click": states}, q)
    wanted = recompute(kernel, {"click": CLICKS}, {"click": [events_of(records, 0)]}, USERS, q, {"click": {0: len(records)}})
    assert got.values.tobytes() == wanted.values.tobytes()
    assert got.statuses.tobytes() == wanted.statuses.tobytes()
    assert not np.isnan(wanted.values).all()


def one_sketch() -> tuple[Ingest, Slab]:
    ingest = Ingest(Layout.of(view([aggregation("approx_distinct", [sliding(3600)])], [CLICKS]), CLICKS))
    return ingest, ingest.slabs[1]


def test_an_event_adds_a_narrow_row_for_its_cell_and_a_second_one_patches_it() -> None:
    ingest, slab = one_sketch()
    for offset in (0, 1):
        ingest.sent = 0
        ingest.fold(slab, events_of([click(offset, NOON, "u1", 4.0)], 0), NOON, random.Random(0))
        assert ingest.sent == 16 + (slab.layout.header_bytes if offset == 0 else 0)
    assert [len(value) for value in ingest.store.values()] == [slab.layout.header_bytes + 16]


def test_events_without_a_value_write_nothing() -> None:
    ingest, slab = one_sketch()
    ingest.fold(slab, events_of([click(0, NOON, "u1", None)], 0), NOON, random.Random(0))
    assert ingest.store == {}
