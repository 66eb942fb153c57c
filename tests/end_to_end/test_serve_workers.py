"""Several scorers behind one port: one process tree, which is told to end as one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from functools import partial
from pathlib import Path

from processes import until
from world import embedded


def scorers(pid: int) -> list[int]:
    """The processes that this one started to serve."""
    found = list[int]()
    for task in Path(f"/proc/{pid}/task").iterdir():  # any thread of it may have, and may end meanwhile
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return [child for child in found if Path(f"/proc/{child}/cmdline").read_bytes().endswith(b"\0serve\0")]


def gone(pid: int) -> bool:
    """Ended, whoever has to look at its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_scorers_that_share_a_port_drain_at_the_same_time_and_end_with_0_within_ten_seconds(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world, contextlib.ExitStack() as held:
        world.featureflow("apply")
        server, _ = world.serve(FEATUREFLOW_SERVE_WORKERS="2")
        until(lambda: server.err().count('"event":"serving"') == 2, "both scorers")
        workers = scorers(server.pid)
        assert len(workers) == 1
        for _ in range(40):                # requests without an end, so that each scorer takes all the time it has to drain: each has some
            request = held.enter_context(socket.create_connection(("127.0.0.1", world.serve_port), timeout=60))
            request.sendall(b"POST /v1/events/ride HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
            assert request.recv(100).startswith(b"HTTP/1.1 100"), "it is under way"
        assert server.told_to_end() == 0, server.said()[-2000:]
        assert all(map(gone, workers))
        events = [json.loads(line)["event"] for line in server.err().splitlines() if line.startswith("{")]
        assert events[-4:] == ["draining", "draining", "ended", "ended"]


def test_up_ends_the_other_scorers_where_the_first_one_died_and_starts_all_again(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world:
        world.featureflow("apply")
        up = world.start("up", FEATUREFLOW_SERVE_WORKERS="2")
        until(lambda: up.err().count('"event":"serving"') == 2, "both scorers")
        [first] = scorers(up.pid)
        [other] = scorers(first)
        os.kill(first, signal.SIGKILL)
        until(lambda: gone(other), "the other scorer to end")
        until(lambda: up.err().count('"event":"serving"') == 4, "both scorers again")
        assert up.told_to_end() == 0, up.said()[-2000:]


def test_a_scorer_that_died_is_started_again_beside_the_others_and_counted(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world:
        world.featureflow("apply")
        server, _ = world.serve(FEATUREFLOW_SERVE_WORKERS="2")
        until(lambda: server.err().count('"event":"serving"') == 2, "both scorers")
        [first] = scorers(server.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: server.err().count('"event":"serving"') == 3, "the scorer again")
        assert '"restarts":1' in server.err()
        [second] = scorers(server.pid)
        assert second != first
        assert server.told_to_end() == 0, server.said()[-2000:]
        assert gone(second)


def test_where_the_first_scorer_is_killed_the_others_finish_and_end_and_leave_the_port_free(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world:
        world.featureflow("apply")
        server, _ = world.serve(FEATUREFLOW_SERVE_WORKERS="3")
        until(lambda: server.err().count('"event":"serving"') == 3, "all scorers")
        others = scorers(server.pid)
        assert len(others) == 2
        for other in others:               # one that outlives it would outlive the test too
            world.ended_with(partial(kill, other))
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: all(map(gone, others)), "the others to end")
        assert server.err().count('"event":"ended"') == 2
        with socket.socket() as free:      # no SO_REUSEPORT: bound only where nobody else listens
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", world.serve_port))


def test_a_scorer_that_hangs_is_killed_in_time_and_the_exit_code_says_so(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world:
        world.featureflow("apply")
        server, _ = world.serve(FEATUREFLOW_SERVE_WORKERS="2")
        until(lambda: server.err().count('"event":"serving"') == 2, "both scorers")
        [hung] = scorers(server.pid)
        world.ended_with(partial(kill, hung))
        os.kill(hung, signal.SIGSTOP)
        assert server.told_to_end() == 1, server.said()[-2000:]
        assert gone(hung)
        assert "was killed" in server.err()
