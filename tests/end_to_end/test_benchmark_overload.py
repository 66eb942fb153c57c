"""The overload benchmark runs, and what it says of each level adds up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BRIEF = ("--rows", "heavy,light_paused,heavy_killed", "--levels", "1,4", "--seconds", "0.6", "--events", "3000", "--row-ms", "0.1")


def test_each_level_says_what_was_offered_what_was_good_and_why_the_rest_was_refused(own_database: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "BENCH_DATABASE": own_database.rpartition("/")[2]}
    command = [sys.executable, str(BENCHMARKS / "overload.py"), *BRIEF]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    heavy, paused, killed = found["rows"]      # of the second more is told than a pipe holds
    assert [level["level"] for level in heavy["levels"]] == [1.0, 4.0]
    for level in heavy["levels"]:
        assert level["accepted"] + level["shed"] + level["unanswered"] > 0
        assert level["other"] == 0
        assert sum(level["refused"].values()) >= level["shed"]
    assert found["shed_us"] > 0
    assert (paused["unflagged_while_away"], killed["unflagged_while_away"]) == (0, 0)
    assert found["deadline_ms"] == 20
