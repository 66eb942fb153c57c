"""``featureflow up`` as a process: alone in its folder, and never survived by its children."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

from processes import until
from world import Http, check_state, embedded


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_up_in_the_same_folder_says_who_runs_there_and_ends(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world:
        world.featureflow("apply")
        first = world.start("up")
        first.wait_for("Scoring at")
        said = world.featureflow("up", code=1)
        assert f"featureflow up already runs in {world.folder.resolve()}, as process {first.pid}" in said
        assert first.told_to_end() == 0
        again = world.start("up")
        again.wait_for("Scoring at")
        assert again.told_to_end() == 0


def test_a_port_that_another_process_has_is_an_error_that_names_it(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world, socket.socket() as taken:
        world.featureflow("apply")
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for verb, workers in (("up", "1"), ("serve", "1"), ("serve", "2")):
            said = world.featureflow(verb, code=1, FEATUREFLOW_SERVE_PORT=str(port), FEATUREFLOW_SERVE_WORKERS=workers)
            assert f"cannot listen on 127.0.0.1:{port}" in said
            assert f"process {os.getpid()} (" in said
            assert "serve.port" in said


def test_a_child_that_does_not_finish_is_killed_and_the_exit_code_says_so(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world:
        world.featureflow("apply")
        up = world.start("up")
        until(lambda: '"event":"serving"' in up.err(), "the scorer")
        ours = [pid for pid in up.children() if b"featureflow.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(ours[0], signal.SIGSTOP)               # it hears no SIGTERM
        assert up.told_to_end() == 1, "told_to_end does not wait for ever"
        assert not any(map(running, ours))


LABEL_AND_ALERT = """

from featureflow import Alert, Label


class Generosity(Label, of=Generous, source=Ride, entity="rider", value=Ride.cash, within="1h"): ...


class Tipping(Alert, model=Generous, on=Ride, of=Rider, above=0.9):
    context = {Ask.hour: Ride.zone}
"""


def test_labels_and_alerts_that_are_applied_later_are_joined_and_watched_and_waited_for_when_they_are_gone(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world:
        world.featureflow("apply")
        up = world.start("up")
        until(lambda: '"event":"serving"' in up.err(), "the scorer")
        definitions = world.folder / "features.py"
        before = definitions.read_text()
        definitions.write_text(before + LABEL_AND_ALERT)
        world.featureflow("apply")
        until(lambda: all(f'"event":"{event}"' in up.err() for event in ("joining", "watching")), "accuracy and watch")
        definitions.write_text(before)
        world.featureflow("apply")
        until(lambda: all(f'"event":"nothing_to_{what}"' in up.err() for what in ("join", "watch")), "both to wait for another")
        assert "ended by itself" not in up.err()
        assert up.told_to_end() == 0


def test_children_of_an_up_that_was_killed_finish_and_end(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world:
        world.featureflow("apply")
        up = world.start("up", FEATUREFLOW_SERVE_WORKERS="2")
        until(lambda: up.err().count('"event":"serving"') == 2, "both scorers")
        children = up.children()
        several = [int(p) for c in children for p in Path(f"/proc/{c}/task/{c}/children").read_text().split()]
        assert len(several) >= 1
        os.kill(up.pid, signal.SIGKILL)
        until(lambda: not any(map(running, (*children, *several))), "all children to end")
        until(lambda: up.err().count('"event":"ended"') == 2, "the scorers to say that they drained")


def test_an_embedded_server_that_died_is_started_again_and_nothing_is_lost(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world:
        world.featureflow("apply")
        world.add_model()
        up = world.start("up")
        scorer = Http(world.serve_port)
        world.ended_with(scorer.close)
        until(scorer.ready, "the scorer")
        server, sent = world.folder / ".featureflow" / "server" / "server.pid", 0

        def tips() -> int:
            """Sent again while they are refused: the scorer may not have heard yet that the server died, and is ready until then."""
            now = world.context.clock.now_us()
            answers: list[tuple[int, Any]] = []

            def sent() -> bool:
                answers.append(scorer.post("/v1/events/tip", [{"at": now, "rider": "ann", "amount": 1.0}] * 50))
                assert answers[-1][0] in (200, 503), answers[-1]
                return answers[-1][0] == 200

            until(sent, "events to be taken")
            return len(answers[-1][1]["positions"])

        for _ in range(2):                 # the second one dies under a keeper that is not the first's
            sent += tips()
            pid = int(server.read_text())
            os.kill(pid, signal.SIGKILL)
            until(lambda gone=pid: server.exists() and int(server.read_text() or 0) not in (0, gone), "another server")
            until(scorer.ready, "the scorer again")
        sent += tips()
        until(lambda: world.folded() and world.recorded(), "every event to be folded and written")
        records = world.records()
        assert len(records) == sent
        assert check_state(world, records, [world.context.clock.now_us()]) > 0
        assert up.err().count("it is started again") >= 2  # the server, or first whoever ended without it and starts it by beginning anew
        assert up.told_to_end() == 0
