"""Alerts to a webhook: a reader of the alert topic of its own, so that a slow or dead receiver delays nothing but itself.

Each alert is posted until it is answered, and only then the group moves on: at least once, and in the order of its entity. Its
``Idempotency-Key`` is the alert's id, which is the same each time. What waits stands in the topic, not in memory.
"""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import structlog

from featureflow.backoff import Backoff
from featureflow.clock import SystemClock
from featureflow.define import system
from featureflow.settings import check_webhook
from featureflow.store.log.protocol import Batch, Log
from featureflow.watch.failpoint import Failpoint
from featureflow.watch.member import Member
from featureflow.watch.metrics import WatchMetrics
from featureflow.watch.score import ALERT

ANSWER_S = 5.0                             # for the receiver to answer
BATCH_S = 2.0                              # then what was delivered is committed: a member that says nothing for long loses its partitions
FIRST_WAIT_US, LONGEST_WAIT_US = 500_000, 60_000_000
LATER = (408, 425, 429)                    # besides 5xx: the receiver may take it another time
AT_ONCE = 50                               # alerts read at a time; delivered one by one
logger = structlog.get_logger("featureflow.watch")


def checked(url: str) -> str:
    """Raises SettingsError for what is no address of a webhook."""
    check_webhook(url)
    return url


class Webhook:
    """One stage; see ``stage.Stage``. ``stop`` ends the waits between attempts."""

    name = "deliver"

    def __init__(
        self,
        log: Log,
        project: str,
        url: str,
        metrics: WatchMetrics,
        failpoint: Failpoint,
        stop: threading.Event,
        *,
        group: str,
        member: str,
    ) -> None:
        self._metrics, self._failpoint, self._stop = metrics, failpoint, stop
        parts = urlsplit(checked(url))
        login, _, host = parts.netloc.rpartition("@")
        self._url = parts._replace(netloc=host).geturl()
        user, _, password = login.partition(":")
        said = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        self._login = {"Authorization": f"Basic {said}"} if login else {}
        self._place = f"{parts.scheme}://{host}"       # what is behind the host is a secret of many receivers
        self._project = project
        alerts = system.alerts(project)
        self._member = Member(log, group, {alerts.name: alerts.topic}, member)
        self._opener = urllib.request.build_opener(_NoRedirect, _Http, _Https(context=ssl.create_default_context()))
        self._backoff = Backoff(SystemClock(), FIRST_WAIT_US, LONGEST_WAIT_US)

    def open(self) -> None:
        self._member.open()

    def close(self) -> None:
        self._member.close()

    def start_over(self) -> None:
        self._member.start_over()

    def step(self, *, timeout_s: float) -> int:
        """How many alerts were answered for. One whose attempt fails is tried again by the next step."""
        self._member.start(self._member.place())
        batches = self._member.poll(timeout_s=timeout_s, max_records=AT_ONCE)
        self._metrics.partitions.labels(self.name).set(len(self._member.at))
        if not batches:
            return 0
        self._failpoint("delivering_polled")
        done = 0
        until = time.monotonic() + BATCH_S
        for batch in batches:
            taken, waits = self._deliver(batch, until)
            done += taken
            upto = batch if taken == len(batch) else batch.until(int(batch.offsets[taken]))
            if taken:
                self._backoff.succeeded()
            if upto.next > batch.first:
                self._member.commit({}, [upto])
                self._failpoint("delivery_committed")
            if taken < len(batch):         # what was polled behind it is read again
                self._member.start_over()
                if waits:
                    self._stop.wait(self._backoff.failed() / 1e6)
                break
        return done

    def _deliver(self, batch: Batch, until: float) -> tuple[int, bool]:
        """How many of the batch, from its beginning, were answered for; whether the next one has to wait for its receiver."""
        for index, value in enumerate(batch.values):
            if self._stop.is_set() or time.monotonic() >= until:
                return index, False
            if value is not None and not self._post(value):
                return index, True
            self._failpoint("delivered")
        return len(batch), False

    def _post(self, value: bytes) -> bool:
        """Whether the receiver has taken it, or will never."""
        try:
            alert_id = ALERT.decode(value).alert_id
        except msgspec.MsgspecError as error:
            self._metrics.delivered.labels("refused").inc()
            logger.error("no_alert", error=str(error))
            return True
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{self._project}/{alert_id}", **self._login}
        request = urllib.request.Request(self._url, value, headers, method="POST")
        try:
            with self._opener.open(request, timeout=ANSWER_S) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            with error:
                status = error.code
        except (OSError, http.client.HTTPException) as error:
            return self._again(alert_id, f"{type(error).__name__}: {error}")
        if 200 <= status < 300:
            self._metrics.delivered.labels("delivered").inc()
            return True
        if status >= 500 or status in LATER:
            return self._again(alert_id, f"answered {status}")
        self._metrics.delivered.labels("refused").inc()
        logger.error("webhook_refused", alert_id=alert_id, status=status, url=self._place)
        return True

    def _again(self, alert_id: str, problem: str) -> bool:
        self._metrics.delivered.labels("retried").inc()
        logger.warning("webhook_waits", alert_id=alert_id, problem=problem, url=self._place)
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An alert goes to where it was told to and nowhere else: a redirect is an answer like any other."""

    def redirect_request(self, *args: Any, **named: Any) -> None:
        return None


class _Bounded(http.client.HTTPConnection):
    """A time-out of a socket is of each byte; here it is of the whole answer too."""

    def getresponse(self) -> http.client.HTTPResponse:
        ending = threading.Timer(ANSWER_S, self._end)
        ending.daemon = True
        ending.start()
        try:
            return super().getresponse()
        finally:
            ending.cancel()

    def _end(self) -> None:
        with suppress(OSError, TypeError):     # TypeError: it is closed already, and has no socket
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class _SecureBounded(_Bounded, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Bounded, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureBounded, req, context=self._context)  # type: ignore[attr-defined]  # as its own https_open does
