"""One server per folder, for as long as somebody uses it, however they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis

from featureflow.errors import UnavailableError
from featureflow.store.online import embedded
from featureflow.store.online.embedded import EmbeddedServer, server_binary

PATIENCE_S = 90.0
USER = """
import sys
from pathlib import Path
from featureflow.store.online.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
print(server.pid, flush=True)
sys.stdin.read()
"""


def user(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Another process that uses the folder's server, and the server's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen[str], how: int) -> None:
    process.send_signal(how)
    process.communicate(timeout=PATIENCE_S)


def wait_gone(pid: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists() if Path("/proc").exists() else _alive(pid):
        assert time.monotonic() < until, f"server {pid} outlived its users"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ask(server: EmbeddedServer, *words: str) -> object:
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*words)  # type: ignore[no-untyped-call]  # untyped in redis-py


def suppressed(server: EmbeddedServer, *words: str) -> None:
    with contextlib.suppress(redis.RedisError):
        ask(server, *words)


def busy(server: EmbeddedServer) -> bool:
    try:
        return not ask(server, "PING")
    except redis.ResponseError as error:
        return "BUSY" in str(error)


def test_the_server_is_ready_when_it_is_handed_out_and_gone_when_it_is_let_go(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        assert ask(server, "PING")
        assert _alive(server.pid)
    wait_gone(server.pid)


def test_it_never_evicts_and_keeps_an_append_only_file(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        settings = client.config_get("maxmemory-policy", "appendonly", "appendfsync", "port")
    assert settings == {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec", "port": "0"}


def test_data_outlives_the_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        ask(server, "SET", "key", "value")
    with EmbeddedServer(tmp_path) as server:
        assert ask(server, "GET", "key") == b"value"


def test_two_users_of_a_folder_share_one_server_and_the_last_one_ends_it(tmp_path: Path) -> None:
    first, second = EmbeddedServer(tmp_path), EmbeddedServer(tmp_path)
    assert first.pid == second.pid
    first.close()
    assert ask(second, "PING")
    second.close()
    wait_gone(second.pid)


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    first, second = EmbeddedServer(tmp_path), EmbeddedServer(tmp_path)
    first.close()
    first.close()
    assert ask(second, "PING")
    second.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_goes_with_a_user_that_was_killed(tmp_path: Path, how: int) -> None:
    process, pid = user(tmp_path)
    end(process, how)
    wait_gone(pid)


def test_the_server_stays_when_the_user_that_started_it_is_killed_before_another(tmp_path: Path) -> None:
    process, pid = user(tmp_path)
    with EmbeddedServer(tmp_path) as server:
        assert server.pid == pid
        end(process, signal.SIGKILL)
        assert ask(server, "PING")
    wait_gone(pid)


def test_a_newcomer_never_meets_a_server_on_its_way_out(tmp_path: Path) -> None:
    """It joins the server while that stays, or waits until it is gone and starts another: either answers, with the data."""
    process, _ = user(tmp_path)
    with EmbeddedServer(tmp_path) as server:
        ask(server, "SET", "key", "value")
    for _ in range(10):
        end(process, signal.SIGKILL)
        process, pid = user(tmp_path)
        with EmbeddedServer(tmp_path) as server:
            assert server.pid == pid
            assert ask(server, "GET", "key") == b"value"
    end(process, signal.SIGKILL)


def test_a_server_that_was_killed_is_started_again_with_its_data(tmp_path: Path) -> None:
    first = EmbeddedServer(tmp_path)
    ask(first, "SET", "key", "value")
    os.kill(first.pid, signal.SIGKILL)
    wait_gone(first.pid)
    with EmbeddedServer(tmp_path) as again:
        assert again.pid != first.pid
        assert ask(again, "GET", "key") == b"value"
        first.close()
        assert ask(again, "PING")


def test_a_server_that_answers_with_an_error_is_joined_and_not_started_beside(tmp_path: Path) -> None:
    """So does one whose disk is full, or that runs a long script. Two of them would write one append-only file, which none can read."""
    with EmbeddedServer(tmp_path) as first:
        ask(first, "CONFIG", "SET", "busy-reply-threshold", "1")
        script = threading.Thread(target=lambda: suppressed(first, "EVAL", "while true do end", "0"))
        script.start()
        try:
            until = time.monotonic() + PATIENCE_S
            while not busy(first):
                assert time.monotonic() < until
            with EmbeddedServer(tmp_path) as second:
                assert second.pid == first.pid
                assert Path(tmp_path, "server.log").read_text().count("is starting") == 1
        finally:
            ask(first, "SCRIPT", "KILL")
            script.join()
        assert ask(first, "PING")
    wait_gone(first.pid)


def test_a_server_that_cannot_be_reached_any_more_is_named_and_none_is_started_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServer(tmp_path) as first:
        first.socket.unlink()                       # as one who cleans up temporary files does
        with monkeypatch.context() as patch:
            patch.setattr(embedded, "STOP_S", 0.2)  # what ends has as long as ever
            with pytest.raises(UnavailableError, match=rf"process {first.pid}\b.*stop it"):
                EmbeddedServer(tmp_path)
        assert Path(tmp_path, "server.log").read_text().count("is starting") == 1
        os.kill(first.pid, signal.SIGTERM)
        wait_gone(first.pid)
    with EmbeddedServer(tmp_path) as again:
        assert ask(again, "PING")


def test_a_server_still_counts_where_its_keeper_and_its_user_were_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells that it runs is a lock of its own, not of those who started it."""
    process, pid = user(tmp_path)
    keeper = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) if Path("/proc").exists() else None
    if keeper is not None:
        os.kill(keeper, signal.SIGKILL)
    (tmp_path / "server.sock").unlink()
    end(process, signal.SIGKILL)
    if keeper is not None:
        with monkeypatch.context() as patch:
            patch.setattr(embedded, "STOP_S", 0.2)
            with pytest.raises(UnavailableError, match=f"process {pid} "):
                EmbeddedServer(tmp_path)
        os.kill(pid, signal.SIGTERM)
    wait_gone(pid)


def test_a_folder_whose_name_is_too_long_for_a_socket_still_works(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / ("long" * 30)) as server:
        assert ask(server, "PING")


def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(UnavailableError, match=r"server\.log"):
        EmbeddedServer(tmp_path)


def test_only_its_owner_may_talk_to_it(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        assert (server.socket.stat().st_mode & 0o777) == 0o700


def test_a_machine_with_no_server_at_all_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnavailableError, match="valkey-server"):
        server_binary()
