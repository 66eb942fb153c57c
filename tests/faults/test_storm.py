"""A short storm: each fault once, on real servers of its own. ``make faults KILLS=200 SEED=1`` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from storm.faults import OTHERS
from storm.members import warm
from storm.run import run

KILLS = 12


@pytest.mark.timeout(1_500)                # a minute and a half where the machine is free
def test_after_every_kind_of_fault_everything_is_what_a_naive_replay_gives(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    report = run(tmp_path, kills=KILLS, seed=seed, launch=warm)
    document = report.document()
    assert report.good, document
    assert {fault.__name__ for fault in OTHERS} | {"killed"} == report.faults.keys()
    assert (document["lost"], document["doubled"], document["wrong"]) == (0, 0, 0)
    assert len(report.kills) == KILLS
