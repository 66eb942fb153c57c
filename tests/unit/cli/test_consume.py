"""What the consumers' verbs share."""

from __future__ import annotations

import os
import signal
import socket
import threading
from urllib.request import urlopen

import pytest
from ports import free_port

from featureflow.cli import consume
from featureflow.define.spec import Project, Request
from featureflow.errors import SettingsError, StateError, UnavailableError
from featureflow.settings import WorkerSettings


def test_metrics_are_served_where_the_settings_say_and_gone_afterwards() -> None:
    port = free_port()
    settings = WorkerSettings(metrics_port=port)
    with consume.metrics("ingest", settings), urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{port}/metrics")


def test_a_metrics_port_that_is_taken_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = WorkerSettings(metrics_port=port)
        named = rf"ingest\.metrics_port.*{port}.*process {os.getpid()} \("
        with pytest.raises(SettingsError, match=named), consume.metrics("ingest", settings):
            pass


def test_a_signal_asks_to_stop_and_its_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with consume.stopping() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(60)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_consumer_runs_again_with_the_definitions_that_are_applied_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "LOOK_S", 0.01)
    old, new = Project(), Project(requests=(Request(name="ask", fields=()),))
    applied, stop, ran = [old], threading.Event(), []

    def run(project: Project, leave: threading.Event) -> None:
        ran.append(project)
        if project == old:
            applied[0] = new
        else:
            stop.set()
        assert leave.wait(60)

    consume.follow(stop, lambda: applied[0], run)
    assert ran == [old, new]


def test_a_server_that_is_down_when_the_definitions_change_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "LOOK_S", 0.01)
    monkeypatch.setattr(consume, "FIRST_WAIT_US", 1_000)
    old, new = Project(), Project(requests=(Request(name="ask", fields=()),))
    applied, stop, ran, down = [old], threading.Event(), list[Project](), [False, False]

    def current() -> Project:
        if down[0]:
            down[0] = False
            raise UnavailableError("Redis does not answer; see online.url")
        return applied[0]

    def run(project: Project, leave: threading.Event) -> None:
        if down[1]:
            down[1] = False
            raise UnavailableError("Kafka does not answer; see log.url")
        ran.append(project)
        if project == new:
            stop.set()
        applied[0] = new
        assert leave.wait(60)
        down[:] = [True, True]

    consume.follow(stop, current, run)
    assert ran == [old, new]


def test_a_server_that_is_down_at_the_very_start_is_an_error() -> None:
    def away() -> Project:
        raise UnavailableError("Redis does not answer; see online.url")

    with pytest.raises(UnavailableError, match=r"online\.url"):
        consume.follow(threading.Event(), away, lambda project, leave: None)


def test_without_applied_definitions_the_command_to_apply_them_is_named() -> None:
    with pytest.raises(StateError, match="featureflow apply"):
        consume.follow(threading.Event(), lambda: None, lambda project, leave: None)


def test_definitions_that_cannot_be_read_any_more_end_the_consumer_with_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "LOOK_S", 0.01)
    broken = threading.Event()

    def current() -> Project:
        if broken.is_set():
            raise StateError("no right to read them")
        return Project()

    def run(project: Project, leave: threading.Event) -> None:
        broken.set()
        assert leave.wait(60), "nobody would tell it of a signal either"

    with pytest.raises(StateError, match="no right to read them"):
        consume.follow(threading.Event(), current, run)
