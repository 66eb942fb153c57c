from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import kill_at
import pytest
from kill_at import KillAt, parse

from featureflow.ingest.failpoint import NAMES, unarmed


def test_nothing_is_armed_unless_it_is_named() -> None:
    assert parse("") is unarmed
    for name in NAMES:
        unarmed(name)


def test_a_failpoint_is_named_with_the_time_it_kills_at() -> None:
    assert parse("after_fold") == KillAt("after_fold", 1)
    assert parse("before_commit:3") == KillAt("before_commit", 3)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'after_lunch'.*before_commit"):
        parse("after_lunch")


def test_the_process_dies_at_the_nth_passing_and_no_handler_runs() -> None:
    program = (
        "from kill_at import parse\n"
        "point = parse('after_fold:3')\n"
        "try:\n"
        "    for _ in range(5):\n"
        "        point('after_poll'); point('after_fold'); print('passed', flush=True)\n"
        "finally:\n"
        "    print('handled', flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(kill_at.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "passed\npassed\n"
