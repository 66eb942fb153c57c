"""A short storm: each fault once, on real servers of its own. ``make faults KILLS=200 SEED=1`` is the long one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from storm.faults import OTHERS
from verdict import Replay

import oracle

KILLS = 12
TESTS = Path(__file__).resolve().parent.parent


def test_a_bad_record_without_an_answer_hides_no_record_that_the_log_has_lost() -> None:
    event = oracle.Record("ride", 0, 0, 7, 7, {})
    log = Replay([event], {"ride/0/1", "tip/2/5"})                       # of which the second was never acknowledged
    acknowledged = [("ride", 0, 0), ("ride", 0, 1), ("ride", 0, 2)]
    assert log.lacks(acknowledged) == ["ride/0/2"]
    assert log.lacks(acknowledged[:2]) == []


@pytest.mark.timeout(1_500)                # about a minute and a half where the machine is free
def test_after_every_kind_of_fault_everything_is_what_a_naive_replay_gives() -> None:
    seed = random.SystemRandom().randrange(2**32)
    command = [sys.executable, "-m", "storm", "--kills", str(KILLS), "--seed", str(seed), "--warm"]
    path = os.pathsep.join((str(TESTS), str(TESTS.parent)))
    done = subprocess.run(command, cwd=TESTS, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-10_000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["lost"], told["doubled"], told["wrong"], told["problems"]) == (0, 0, 0, [])
    assert told["faults"].keys() == {fault.__name__ for fault in OTHERS} | {"killed"}
    assert told["kills"] == KILLS <= told["restarts"]
    assert told["kills_mid_batch"] >= 0.75 * KILLS
    assert told["commits_refused"] >= told["pauses"] == 1
    assert told["dead_letters"] == told["dead_letters_expected"] > 0
    assert told["entities_nonempty_share"] >= 0.9
