"""What the consumers' verbs share, ingest, history, watch and accuracy: signals, the metrics endpoint, definitions that change."""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from featureflow import port
from featureflow.backoff import Backoff
from featureflow.clock import SystemClock
from featureflow.errors import SettingsError, StateError, UnavailableError
from featureflow.settings import WorkerSettings
from featureflow.store.mirror import NOTHING_APPLIED

LOOK_S = 2.0  # how often new definitions are looked for
T = TypeVar("T")  # what is applied: definitions, and what else a consumer is made from
FIRST_WAIT_US, LONGEST_WAIT_US = 100_000, 5_000_000  # for a server that is down when they change


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set: finish what is in hand, then leave."""
    stop = threading.Event()

    def ask(signum: int, frame: object) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def metrics(section: str, settings: WorkerSettings) -> Iterator[CollectorRegistry]:
    """A registry of this process; served at ``metrics_port`` of the settings unless that is 0.

    Raises SettingsError where something else listens there.
    """
    registry = CollectorRegistry()
    if not settings.metrics_port:
        yield registry
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        taken = port.holder(settings.metrics_port) if error.errno == errno.EADDRINUSE else ""
        raise SettingsError(
            f"{section}.metrics_port: {settings.metrics_host}:{settings.metrics_port} cannot be listened on ({error.strerror}){taken}; "
            "give another port, or 0 for no metrics"
        ) from error
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def follow(
    stop: threading.Event, current: Callable[[], T | None], run: Callable[[T, threading.Event], None]
) -> None:
    """Run a consumer with the applied definitions, and again with the new ones each time others are applied, until ``stop``.

    A server that is down at the very start is an error, as ``run`` says; one that is down when the definitions change is waited for.
    """
    ran, backoff = False, Backoff(SystemClock(), FIRST_WAIT_US, LONGEST_WAIT_US)
    while not stop.is_set():
        try:
            _run(stop, current, run)
        except UnavailableError as error:
            if not ran:
                raise
            wait_s = backoff.failed() / 1e6
            structlog.get_logger("featureflow").warning("waiting", problem=str(error), retry_s=wait_s)
            stop.wait(wait_s)
        else:
            ran = True
            backoff.succeeded()


def _run(
    stop: threading.Event, current: Callable[[], T | None], run: Callable[[T, threading.Event], None]
) -> None:
    """Once, with the definitions that are applied now, until others are."""
    project = current()
    if project is None:
        raise StateError(NOTHING_APPLIED)
    leave = threading.Event()
    watcher = threading.Thread(target=_watch, args=(project, stop, leave, current), name="definitions", daemon=True)
    watcher.start()
    try:
        run(project, leave)
    finally:
        leave.set()
        watcher.join()


def _watch(
    project: T, stop: threading.Event, leave: threading.Event, current: Callable[[], T | None]
) -> None:
    """Set ``leave`` when the process is to stop, other definitions stand, or they cannot be read: ``follow`` then raises why.

    It must not end before that by itself: nobody else would tell the consumer of a signal.
    """
    due = time.monotonic() + LOOK_S
    while not leave.is_set():
        if stop.wait(0.05):
            leave.set()
        elif time.monotonic() >= due:
            due = time.monotonic() + LOOK_S
            try:
                changed = current() != project
            except UnavailableError:
                continue  # the consumer itself says so, and waits
            except Exception:
                leave.set()
                return
            if changed:
                structlog.get_logger("featureflow").info("definitions_changed")
                leave.set()
