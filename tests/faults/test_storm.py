"""A short storm: each fault once, on real servers of its own. ``make faults KILLS=200 SEED=1`` is the long one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import verdict
from processes import until
from producer import Producer
from storm.definitions import DEFINITIONS
from storm.faults import OTHERS
from storm.run import BUCKETS
from verdict import Replay, Verdict
from world import SECOND_US, production

import oracle
from servers import Services

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
    assert told["faults"].keys() == {fault.__name__ for fault in OTHERS} | {"killed", "killed_at_any_instant"}
    assert told["kills"] == KILLS <= told["restarts"]
    assert told["kills_mid_batch"] >= 0.9 * KILLS
    assert told["commits_refused"] >= told["pauses"] == 1
    assert told["dead_letters"] == told["dead_letters_expected"] > 0
    assert told["entities_nonempty_share"] >= 0.9
    assert told["duplicates"] > 0 < told["published"]
    assert told["buckets"] == BUCKETS > 1


def test_a_storm_would_show_that_a_worker_starts_without_the_ids_of_the_one_before(
    tmp_path: Path, services: Services, production_redis_url: str, mysql_url: str
) -> None:
    """
        worker     folds rides in four buckets, and is killed
        producer   writes only copies of them
        successor  tells them by what was kept, and is killed
        producer   writes only copies of them
        another    lacks the guard: they count again, and the storm's own comparison says so
    """
    with production(
        tmp_path, services, production_redis_url, mysql_url, definitions=DEFINITIONS, FEATUREFLOW_ONLINE_BUCKETS=str(BUCKETS)
    ) as world:
        world.featureflow("apply")
        producer = Producer(world, random.Random(4), poison=0.0, again=0.0)

        def found(without: str = "") -> tuple[Verdict, Verdict]:
            """The verdict on what another 80 rides and a new process leave."""
            producer.append("ride", 80)
            worker = forked.start(
                world, "ingest", FEATUREFLOW_TEST_HAND=str(tmp_path / "hand"), FEATUREFLOW_TEST_WITHOUT=without,
                FEATUREFLOW_INGEST_MEMBER=f"{world.topic}-worker",
            )  # fmt: skip
            until(world.folded, "the end of the log")
            worker.kill()
            log = verdict.replay(world, producer.bad)
            newest = max(record.time_us for record in log.events)
            return verdict.of_state(world, log, [newest + SECOND_US]), verdict.of_published(world, log)

        state, published = found()
        assert (state.said, published.said, state.duplicates) == ([], [], 0)
        producer.again = 1.0
        state, published = found()
        assert (state.said, published.said, producer.resent) == ([], [], 80)
        assert state.duplicates > 160      # 80 copies in six views, but for those that are late or from the future
        assert published.published > 20
        state, published = found(without="ids")
        assert state.doubled > 0 < published.wrong, "without the ids nothing is doubled: a storm shows nothing"
        assert any("rider_now" in said for said in state.said)
