"""A stage of watching: what is the same of scoring, alerting and delivering, and the loop that each of them runs in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from featureflow.backoff import Backoff
from featureflow.clock import SystemClock
from featureflow.errors import FencedError, UnavailableError

POLL_S = 0.5
FIRST_WAIT_US, LONGEST_WAIT_US = 50_000, 5_000_000  # after an error
log = structlog.get_logger("featureflow.watch")


class Stage(Protocol):
    """A member of a group, and what it makes of records. Used from one thread."""

    name: str

    def open(self) -> None: ...
    def step(self, *, timeout_s: float) -> int:
        """One round; how much was made. Raises UnavailableError, FencedError: ``start_over`` and step again."""
        ...

    def start_over(self) -> None:
        """Drop what is in hand: it is read again from where the group stands."""
        ...

    def close(self) -> None: ...


def run_stage(stage: Stage, stop: threading.Event, failed: Callable[[Exception], None]) -> None:
    """Until ``stop`` is set; then leave the group. What a step has in hand is always finished.

    A server that is away is waited for, and what others have taken over is left to them. Whatever waiting does not cure is raised.
    """
    backoff = Backoff(SystemClock(), FIRST_WAIT_US, LONGEST_WAIT_US)
    try:
        while not stop.is_set():
            try:
                stage.open()
                stage.step(timeout_s=POLL_S)
                backoff.succeeded()
            except (UnavailableError, FencedError) as error:
                failed(error)
                stage.start_over()
                wait_s = backoff.failed() / 1e6
                log.warning("starts_over", stage=stage.name, error=str(error), retry_s=wait_s)
                stop.wait(wait_s)
    finally:
        stage.close()
