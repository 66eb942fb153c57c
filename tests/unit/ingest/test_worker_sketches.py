"""A worker whose views have sketches: their cells are as exactly once as every other row."""

from __future__ import annotations

import random

import pytest
from troubled_store import TroubledStore
from worker_rig import KEYS, PROJECT, RIDERS, Rig, with_sketches

from featureflow.store.online.memory import MemoryOnlineStore

SKETCHED = with_sketches(PROJECT)


@pytest.mark.parametrize("seed", range(12))
def test_lost_replies_duplicates_rollbacks_and_crashes_change_no_estimate(seed: int) -> None:
    luck = random.Random(seed)
    rig = Rig(seed=seed, online_class=MemoryOnlineStore, luck=luck, project=SKETCHED)
    store = rig.online
    assert isinstance(store, TroubledStore)
    worker = rig.started(commit_rows=luck.choice((4, 30)))
    store.rate = 0.08
    for _ in range(60):
        rig.produce(luck.randrange(6), bad=0.05)
        if luck.random() < 0.05:
            worker = rig.started()
        worker.step(timeout_s=0.0, wait=lambda seconds: None)
        rig.clock.advance(luck.choice((1_000, 200_000, 3_000_000)))
    assert store.troubles > 0
    store.rate, store.flying = 0.0, []
    rig.drain(rig.started())
    assert rig.agrees()


def test_the_comparison_notices_a_cell_that_is_lost() -> None:
    rig = Rig(project=SKETCHED)
    assert isinstance(rig.online, MemoryOnlineStore)
    rig.produce(120)                                               # more than are kept as events
    rig.drain(rig.started())
    assert rig.agrees()
    view = SKETCHED.views[0]
    for rider in RIDERS:
        rig.online.damage(KEYS.state("rider", rider, view.id, "trip", None, "cells1"), None)
    assert not rig.agrees()
