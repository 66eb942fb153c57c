"""What was computed is given again while the state's bytes and the moment are what they were, and never longer."""

from __future__ import annotations

import asyncio
import random

from msgspec.structs import replace
from serve_rig import DirectReader
from worker_rig import PROJECT, RIDERS, SECOND_US, START_US, TRIP, Rig, replace_views

from featureflow.clock import SystemClock
from featureflow.define.version import with_version
from featureflow.kernel.finalize import Values
from featureflow.reading.fetch import Fetcher, Unread
from featureflow.reading.finalized import Blobs, Finalized, compute
from featureflow.reading.plan import Plan, ViewPlan

PLENTY = 1 << 30
IDS = [*RIDERS, "nobody", None]


def same(a: Values, b: Values) -> bool:
    columns = ((a.values, b.values), (a.statuses, b.statuses), (a.event_times_us, b.event_times_us))
    return all(one.tobytes() == other.tobytes() for one, other in columns)


def read(rig: Rig, view: ViewPlan, ids: list[str | int | None]) -> list[Blobs]:
    found = asyncio.run(Fetcher(DirectReader(rig.online), SystemClock(), 1).fetch({view: ids}, None))
    assert not isinstance(found, Unread)
    return found[view].blobs


def rider_view(rig: Rig) -> ViewPlan:
    return Plan(PROJECT, {"trip": rig.partitions}, 1).views["rider_now"]


def test_it_is_what_would_be_computed_whatever_happens_meanwhile() -> None:
    draw, rig = random.Random(5), Rig()
    worker, view, finalized = rig.worker(), rider_view(rig), Finalized(PLENTY)
    worker.open()
    for _ in range(150):
        now = rig.clock.now_us()
        if draw.random() < 0.4:
            ago = draw.choice([-5, 0, 0, 20]) * SECOND_US
            rig.append([rig.trip(at=now - ago, rider=draw.choice(RIDERS)) for _ in range(draw.choice([1, 3, 20]))])
            rig.drain(worker)
        ids = draw.sample(IDS, draw.randint(1, len(IDS)))
        blobs = read(rig, view, ids)
        got = finalized.compute(view, ids, blobs, now)
        assert same(got.values, compute(view, ids, blobs, now).values)
        assert not got.corrupt and not got.unanswerable
        rig.clock.advance(draw.choice([0, 1, 999_999, 4 * SECOND_US, 61 * SECOND_US, -SECOND_US]))
    assert min(finalized.found, finalized.computed) > 50


def test_a_damaged_state_is_looked_at_each_time_and_named_by_its_place() -> None:
    rig = Rig()
    worker, view, finalized = rig.worker(), rider_view(rig), Finalized(PLENTY)
    worker.open()
    now = rig.clock.now_us()
    rig.append([rig.trip(at=now, rider=rider) for rider in RIDERS])
    rig.drain(worker)
    ids: list[str | int | None] = list(RIDERS)
    whole = read(rig, view, ids)
    damaged = [whole[0], (b"\1" * 7,), *whole[2:]]
    for found in (0, len(ids) - 1, 2 * (len(ids) - 1)):
        got = finalized.compute(view, ids, damaged, now)
        assert list(got.corrupt) == [1]
        assert finalized.found == found
    mended = finalized.compute(view, ids, whole, now)
    assert not mended.corrupt
    assert same(mended.values, compute(view, ids, whole, now).values)


def test_it_is_bounded_by_bytes() -> None:
    rig = Rig()
    view, finalized = rider_view(rig), Finalized(100_000)
    most = 0
    for start in range(0, 5_000, 100):
        ids: list[str | int | None] = [f"r{i}" for i in range(start, start + 100)]
        blobs: list[Blobs] = [view.nothing] * len(ids)
        finalized.compute(view, ids, blobs, rig.clock.now_us())
        most = max(most, finalized.bytes)
    assert 100_000 < most < 200_000, "the turn that goes beyond it is the last before all is forgotten"


def test_of_what_hangs_on_the_instant_itself_nothing_is_kept() -> None:
    rider, _ = PROJECT.views
    since = replace(rider.aggregations[0], name="since", op="time_since_last")
    timed = with_version(replace(rider, aggregations=(*rider.aggregations, since)), {"trip": TRIP})
    for declared, found in ((rider, 1), (timed, 0)):
        view = Plan(replace_views(PROJECT, declared), {"trip": 1}, 1).views["rider_now"]
        finalized = Finalized(PLENTY)
        for _ in range(2):
            finalized.compute(view, ["ada"], [view.nothing], START_US)
        assert (finalized.found, finalized.bytes > 0) == (found, found > 0)
