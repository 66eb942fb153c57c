"""scripts/services.py says what to do where it cannot go on, and touches only what it started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "services.py"


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments, "--dir", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


def test_status_names_the_command_that_starts_what_is_down(tmp_path: Path) -> None:
    done = run(tmp_path, "status")
    assert done.returncode == 1
    assert done.stdout.count("down (run: make services)") == 3


def test_status_can_be_read_by_a_program(tmp_path: Path) -> None:
    told = json.loads(run(tmp_path, "status", "--json").stdout)
    assert [row["name"] for row in told["services"]] == ["kafka", "redis", "mysql"]
    assert not any(row["up"] for row in told["services"])


def test_stopping_what_was_never_started_is_no_error(tmp_path: Path) -> None:
    assert run(tmp_path, "stop").returncode == 0


def test_wipe_removes_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "services"
    folder.mkdir()
    (folder / "kafka").mkdir()
    assert run(folder, "stop", "--wipe").returncode == 0
    assert not folder.exists()


def test_a_process_that_only_has_the_same_number_is_left_alone(tmp_path: Path) -> None:
    """The machine has restarted, and the number of a server now belongs to somebody else: here, to this test."""
    row = {"version": "", "port": 1, "pid": os.getpid(), "started": "1"}
    (tmp_path / "services.json").write_text(json.dumps({"redis": row}))
    assert run(tmp_path, "stop").returncode == 0


def test_without_docker_and_the_right_to_install_it_says_so(tmp_path: Path) -> None:
    """A PATH with nothing on it stands for a machine that is no Debian."""
    empty = tmp_path / "bin"
    empty.mkdir()
    done = run(tmp_path / "services", "start", "--cache", str(tmp_path / "cache"), PATH=str(empty))
    assert done.returncode == 1
    assert "without Docker this needs java" in done.stderr
    assert "Install Docker" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named_with_its_setting(services: object, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(tmp_path, "start", FEATUREFLOW_KAFKA_PORT=port)
    assert done.returncode == 1
    assert f"port {port} is in use" in done.stderr
    assert "FEATUREFLOW_KAFKA_PORT" in done.stderr
