"""A worker that keeps up with the log leaves the store to its readers for as long as it had to do with its commits; one behind does not."""

from __future__ import annotations

import pytest
from worker_rig import SECOND_US, Rig

from featureflow import limits
from featureflow.clock import ManualClock
from featureflow.ingest import failpoint
from featureflow.ingest.rest import LONGEST_US, Rest
from featureflow.ingest.worker import Worker


def slow_store(rig: Rig, took_us: int, **settings: int) -> Worker:
    """A worker that holds its partition, to which the store takes so long for the commits of a batch."""

    def slow(name: failpoint.Name) -> None:
        if name == "in_flight":
            rig.clock.advance(took_us)

    worker = rig.started(failpoint=slow, **settings)
    rig.drain(worker)
    return worker


def waits(worker: Worker, turns: int = 1) -> list[float]:
    waited: list[float] = []
    for _ in range(turns):
        worker.step(timeout_s=0.0, wait=waited.append)
    return waited


@pytest.mark.parametrize(("took_us", "rests_s"), [(20_000, [0.02]), (SECOND_US, [LONGEST_US / 1e6]), (0, [])])
def test_one_that_keeps_up_rests_for_as_long_as_its_commits_took(took_us: int, rests_s: list[float]) -> None:
    rig = Rig(1)
    worker = slow_store(rig, took_us)
    rig.produce(20)
    assert waits(worker) == []
    assert rig.at().offset == 20, "what came is committed before it rests"
    assert waits(worker) == rests_s
    rig.clock.advance(LONGEST_US)
    assert waits(worker) == [], "and once"
    assert rig.agrees()


def test_one_that_has_as_much_as_a_poll_may_bring_does_not_rest_and_folds_ahead() -> None:
    rig = Rig(1)
    worker = slow_store(rig, 20_000, poll_records=5)
    rig.produce(30)
    assert waits(worker) == []
    assert rig.at().offset == 30, "in one turn"
    rig.produce(3)
    assert waits(worker, turns=2) == [0.02], "what is less than that is all there is"


def test_one_that_has_not_come_to_where_the_log_was_seen_to_end_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "POLL_BYTES", 250)                 # a few trips
    rig = Rig(1)
    rig.produce(200)
    worker = rig.started(failpoint=lambda name: rig.clock.advance(20_000) if name == "in_flight" else None)
    while not worker.status().partitions:
        worker.step(timeout_s=0.0)
    waited: list[float] = []
    while rig.at().offset < 200:
        waited += waits(worker)
    assert waited == []
    assert waits(worker) != []


def test_a_clock_that_is_put_back_makes_nobody_rest_for_longer() -> None:
    clock, waited = ManualClock(10 * SECOND_US), list[float]()
    rest = Rest(clock)
    rest.began()
    clock.advance(30_000)
    rest.ended(behind=False)
    clock.advance(-5 * SECOND_US)
    rest.over(waited.append)
    assert waited == [LONGEST_US / 1e6]
