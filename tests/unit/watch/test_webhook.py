"""Alerts to a receiver: each at least once, in order, and never in the way of anything."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from watch_rig import ALERTS, WATCHED

from featureflow.errors import SettingsError
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Partition
from featureflow.watch.failpoint import unarmed
from featureflow.watch.metrics import WatchMetrics
from featureflow.watch.score import Alert
from featureflow.watch.webhook import Webhook, checked


class Receiver:
    """Answers with the statuses that it is told to, in order; then with 204."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.heard: list[tuple[str, bytes]] = []
        self.logins: list[str | None] = []
        heard, statuses, logins = self.heard, self.statuses, self.logins

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                logins.append(self.headers["Authorization"])
                heard.append((self.headers["Idempotency-Key"], self.rfile.read(int(self.headers["Content-Length"]))))
                status = statuses.pop(0) if statuses else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def keys(self) -> list[str]:
        return [key for key, _ in self.heard]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog()
    made.ensure_topic(ALERTS.topic, 1)
    return made


class Quick(threading.Event):
    """``wait`` passes at once, and keeps how long it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


def told(log: MemoryLog, *names: str) -> None:
    for name in names:
        alert = Alert(1, name, "rule", "raised", 0.9, 0.87, 0.9, "fraud", "1", "user", "ada", "payment", 0, 1, "{}", "[]")
        log.append(ALERTS.topic, [alert.record()])


def webhook(log: MemoryLog, url: str, stop: threading.Event | None = None, registry: CollectorRegistry | None = None) -> Webhook:
    metrics = WatchMetrics(registry or CollectorRegistry())
    made = Webhook(log, WATCHED.name, url, metrics, unarmed, stop or Quick(), group="webhook", member="")
    made.open()
    return made


def stands(log: MemoryLog) -> int | None:
    return log.stands.get("webhook", {}).get(Partition(ALERTS.name, 0))


def steps(made: Webhook, count: int) -> None:
    for _ in range(count):
        made.step(timeout_s=0.0)


def test_each_alert_is_posted_as_it_stands_with_its_id_and_then_the_group_moves(log: MemoryLog, receiver: Receiver) -> None:
    told(log, "a", "b")
    made = webhook(log, receiver.url)
    steps(made, 3)
    assert receiver.keys() == ["default/a", "default/b"]
    assert b'"alert_id":"a"' in receiver.heard[0][1]
    assert stands(log) == 2


def test_one_that_is_not_taken_is_posted_again_and_nothing_overtakes_it(log: MemoryLog, receiver: Receiver) -> None:
    told(log, "a", "b", "c")
    receiver.statuses[:] = [204, 503, 429, 500, 204, 503]
    stop = Quick()
    steps(webhook(log, receiver.url, stop), 8)
    assert receiver.keys() == ["default/a", "default/b", "default/b", "default/b", "default/b", "default/c", "default/c"]
    assert stop.waits == [0.5, 1.0, 2.0, 0.5]
    assert stands(log) == 3


def test_a_receiver_that_is_away_is_waited_for(log: MemoryLog, receiver: Receiver) -> None:
    told(log, "a")
    gone = webhook(log, "http://127.0.0.1:9/nobody")
    steps(gone, 4)
    assert stands(log) is None
    steps(webhook(log, receiver.url), 3)
    assert (receiver.keys(), stands(log)) == (["default/a"], 1)


@pytest.mark.parametrize("status", [400, 401, 410, 302])
def test_one_that_is_refused_for_good_is_counted_and_passed_by(log: MemoryLog, receiver: Receiver, status: int) -> None:
    told(log, "a", "b")
    receiver.statuses[:] = [status]
    registry = CollectorRegistry()
    steps(webhook(log, receiver.url, registry=registry), 3)
    assert receiver.keys() == ["default/a", "default/b"]
    assert stands(log) == 2
    assert registry.get_sample_value("featureflow_watch_delivered_total", {"outcome": "refused"}) == 1.0


def test_what_was_delivered_and_not_committed_is_delivered_again_with_the_same_id(log: MemoryLog, receiver: Receiver) -> None:
    told(log, "a")
    dying = webhook(log, receiver.url)
    webhook(log, receiver.url).close()     # takes the group, and gives it back
    dying.step(timeout_s=0.0)
    steps(dying, 2)
    heir = webhook(log, receiver.url)
    steps(heir, 3)
    assert set(receiver.keys()) == {"default/a"}
    assert stands(log) == 1


def test_what_is_told_to_end_delivers_nothing_more(log: MemoryLog, receiver: Receiver) -> None:
    told(log, "a", "b")
    stop = Quick()
    made = webhook(log, receiver.url, stop)
    stop.set()
    steps(made, 3)
    assert (receiver.keys(), stands(log)) == ([], None)


def test_a_login_in_the_address_is_sent_and_no_part_of_it_is_logged(log: MemoryLog, receiver: Receiver) -> None:
    told(log, "a", "b")
    receiver.statuses[:] = [401]
    secret = receiver.url.replace("//", "//me:s3cret%40x@").replace("/alerts", "/t0ken?key=t0ken")
    with capture_logs() as logs:
        steps(webhook(log, secret), 3)
        assert receiver.logins == [f"Basic {base64.b64encode(b'me:s3cret@x').decode()}"] * 2
        assert stands(log) == 2
        receiver.statuses[:] = [503]
        told(log, "c")
        steps(webhook(log, secret), 2)
        for gone in ("http://me:s3cret@127.0.0.1/t0ken", "http://me:s3cret@127.0.0.1:9/t0ken"):
            steps(webhook(log, gone), 2)
    assert {line["event"] for line in logs} >= {"webhook_refused", "webhook_waits"}
    assert not [line for line in logs if "s3cret" in str(line) or "t0ken" in str(line)]


@pytest.mark.parametrize("within", ["the status", "the headers"])
def test_a_receiver_that_drips_its_answer_is_given_up_as_one_that_is_away(
    log: MemoryLog, within: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featureflow.watch.webhook.ANSWER_S", 0.5)
    told(log, "a")
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            conn, _ = server.accept()
            with conn:
                conn.sendall(b"" if within == "the status" else b"HTTP/1.1 503 Busy\r\nX: ")
                try:
                    while not ended.wait(0.1):
                        conn.sendall(b"a")
                except OSError:
                    return

        threading.Thread(target=drip, daemon=True).start()
        made = webhook(log, f"http://127.0.0.1:{server.getsockname()[1]}/")
        told_of = threading.Thread(target=steps, args=(made, 2), daemon=True)
        told_of.start()
        told_of.join(30.0)
        assert not told_of.is_alive()
        ended.set()
    assert stands(log) is None


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "https://", "file:///etc/passwd", "http://me:s3cret@host:x/", "https://[s3cret/"])
def test_what_is_no_address_is_refused_and_shows_no_password(url: str) -> None:
    with pytest.raises(SettingsError, match="watch.webhook") as caught:
        checked(url)
    assert "s3cret@" not in str(caught.value)
