"""What a state says of its own freshness: never that it is complete while the log holds what it does not count."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from worker_rig import RIDER, SECOND_US, Rig

from featureflow.define.spec import View
from featureflow.errors import UnavailableError
from featureflow.store.log.memory import MemoryLog
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Commit, Committed, Refused

HOUR_US = 3_600 * SECOND_US


def age_s(rig: Rig, view: View, partition: int = 0) -> float:
    """Seconds since the instant as of which the view's state of the partition says that it is complete."""
    stored = rig.online.offsets("trip", partition, [view.id])[view.id]
    assert stored is not None
    return rig.clock.now_us() / 1e6 - stored.complete_ms / 1e3


def idle(rig: Rig, worker: Any, seconds: int) -> None:
    for _ in range(2 * seconds):
        rig.clock.advance(SECOND_US // 2)
        worker.step(timeout_s=0.0)


def test_a_state_is_not_complete_before_its_first_claim_and_is_soon_after_it_stands_at_the_end() -> None:
    rig = Rig(1)
    rig.produce(30)
    assert age_s(rig, RIDER) == pytest.approx(rig.clock.now_us() / 1e6, abs=1)
    worker = rig.started()
    rig.drain(worker)
    idle(rig, worker, 3)
    assert age_s(rig, RIDER) <= 3
    idle(rig, worker, 600)
    assert age_s(rig, RIDER) <= 3, "a log that nobody writes to leaves nothing to count"


def test_a_worker_that_was_away_for_hours_says_so_until_it_has_caught_up() -> None:
    rig = Rig(1)
    worker = rig.started()
    rig.produce(10)
    rig.drain(worker)
    idle(rig, worker, 3)
    worker.close()
    rig.produce(200)
    rig.clock.advance(5 * HOUR_US)
    worker = rig.started(poll_records=2)
    ages = []
    for _ in range(30):
        worker.step(timeout_s=0.0)
        rig.clock.advance(SECOND_US)
        stored = rig.online.offsets("trip", 0, [RIDER.id])[RIDER.id]
        assert stored is not None
        ages.append((stored.offset, age_s(rig, RIDER)))
    assert all(age >= 5 * 3_600 for offset, age in ages if offset < 210)
    assert len({offset for offset, age in ages if age > 3_600}) > 5
    assert ages[-1][1] <= 3


def test_a_partition_whose_commits_are_refused_says_so_and_its_neighbour_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(2)
    worker = rig.started()
    rig.drain(worker)
    idle(rig, worker, 3)
    commit = MemoryOnlineStore.commit

    def stuck(self: MemoryOnlineStore, wanted: Commit) -> Committed | Refused:
        return Refused("mismatch", "for ever") if wanted.partition == 1 and wanted.writes else commit(self, wanted)

    rig.append([msgspec.structs.replace(rig.trip(at=rig.clock.now_us()), partition=partition) for partition in (0, 1)])
    with monkeypatch.context() as broken:
        broken.setattr(MemoryOnlineStore, "commit", stuck)
        idle(rig, worker, 60)
    assert age_s(rig, RIDER, 0) <= 3
    assert age_s(rig, RIDER, 1) >= 59


def test_a_log_that_does_not_answer_leaves_the_freshness_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(1)
    worker = rig.started()
    rig.drain(worker)
    idle(rig, worker, 3)

    def away(self: MemoryLog, topic: str) -> None:
        raise UnavailableError("no broker answers; see log.url")

    with monkeypatch.context() as network:
        network.setattr(MemoryLog, "topic", away)
        idle(rig, worker, 60)
        assert age_s(rig, RIDER) >= 59, "nobody knows what was appended meanwhile"
        assert "log.url" in worker.status().problems[0]
    idle(rig, worker, 10)
    assert age_s(rig, RIDER) <= 3
    assert worker.status().ready
