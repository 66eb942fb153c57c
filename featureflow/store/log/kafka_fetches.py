"""Kafka's fetches asked for and taken with as few words to kafka-python's I/O thread as it takes.

A poll of kafka-python (3.0.12) speaks with that thread three times, each time until it is answered: whether the coordinator is known,
what is to be fetched next, and to wait for it. Where there are few records at a time that is most of what reading costs. Here

- a coordinator that is known, and connected, is not asked for. Whether to join again, what became of the heartbeats and where positions
  stand is looked at in each poll as before: that is in memory;
- fetches are sent without waiting, and only where there is one to send: the next one is on its way while these records are folded;
- they are waited for by a flag that the I/O thread sets when one has been answered. A poll that may not wait does not.

A poll moves the positions that a fetch is sent from, so it goes on only once what the one before it sent is sent. Each second that
thread is spoken with whatever there is to say: should it have ended, that is raised.

One of the three places that build on kafka-python's private parts (``kafka_columns`` and ``kafka_joins`` are the others): those of
``FETCHER``, ``COORDINATOR`` and ``MANAGER``.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import structlog

COORDINATOR = ("ensure_coordinator_ready", "coordinator_unknown")
FETCHER = (
    "fetch_records", "fetched_records", "send_fetches", "_send_fetches_async", "_clear_pending_fetch_request", "_fetchable_partitions",
    "_nodes_with_pending_fetch_requests", "_completed_fetches", "_next_partition_records", "_reset_task", "_manager",
)  # fmt: skip
MANAGER = ("call_soon", "cluster")
ASK_S = 1.0                                # between two words to the I/O thread, at most
WAIT_S = 0.1                               # for a fetch, before it is looked whether another can be sent


def take_fetches(consumer: Any) -> Fetches | None:
    """Have this kafka-python consumer's ``poll`` take its fetches so, from now on.

    None, a warning, and nothing changed, where kafka-python does not have the parts that this builds on.
    """
    fetcher, coordinator = getattr(consumer, "_fetcher", None), getattr(consumer, "_coordinator", None)
    manager: Any = getattr(fetcher, "_manager", None)
    if all(hasattr(of, part) for of, parts in ((fetcher, FETCHER), (coordinator, COORDINATOR), (manager, MANAGER)) for part in parts):
        return Fetches(fetcher, coordinator)
    structlog.get_logger("featureflow.log").warning(
        "fetches_waited_for", problem="kafka-python has other parts than FeatureFlow builds on: each poll costs several times the CPU"
    )
    return None


class Fetches:
    """Those of one consumer. All but ``_answered`` runs on the thread that polls."""

    def __init__(self, fetcher: Any, coordinator: Any) -> None:
        self._fetcher = fetcher
        self._coordinator = coordinator
        self._ensure = coordinator.ensure_coordinator_ready
        self._clear = fetcher._clear_pending_fetch_request
        self._arrived = threading.Event()
        self._sending: Any = None                              # kafka-python's future of the last send, not yet looked at
        self._ask_due = 0.0
        coordinator.ensure_coordinator_ready = self._ready
        fetcher.fetch_records = self._fetch
        fetcher._clear_pending_fetch_request = self._answered  # the last thing that is called for each answer or failure

    def more(self) -> bool:
        """Whether another poll brings what has arrived already."""
        return bool(self._fetcher._completed_fetches or self._fetcher._next_partition_records)

    def _ready(self, timeout_ms: float | None = None) -> bool:
        known: bool = not self._coordinator.coordinator_unknown() or self._ensure(timeout_ms)
        return known

    def _fetch(self, max_records: int, update_offsets: bool = True, timeout_ms: float | None = None) -> tuple[dict[Any, list[Any]], bool]:
        """In place of ``Fetcher.fetch_records``: (records by partition, False: the caller need not sleep)."""
        self._arrived.clear()
        if (records := self._drained(max_records, update_offsets)) or timeout_ms == 0:
            return records, False
        if (reset := self._fetcher._reset_task) is not None and not reset.is_done:
            reset.add_both(lambda _: self._arrived.set())
        self._arrived.wait(WAIT_S if timeout_ms is None else min(WAIT_S, timeout_ms / 1000))
        return self._drained(max_records, update_offsets), False

    def _drained(self, max_records: int, update_offsets: bool) -> dict[Any, list[Any]]:
        """What has arrived. The fetches after it are sent."""
        self._sent()
        records: dict[Any, list[Any]]
        records, partial = self._fetcher.fetched_records(max_records, update_offsets=update_offsets)
        if not partial and self._lacking():
            self._sending = self._fetcher._manager.call_soon(self._fetcher._send_fetches_async)
        return records

    def _sent(self) -> None:
        """Wait for what is being sent, which is rarely still so; raise what became of it."""
        sending, self._sending = self._sending, None
        now = time.monotonic()
        if now >= self._ask_due or (sending is not None and not sending.is_done):
            self._ask_due = now + ASK_S
            self._fetcher.send_fetches()
        if sending is not None and sending.failed():
            raise sending.exception

    def _lacking(self) -> bool:
        """Whether a partition may be fetched from a broker that no fetch is on its way to."""
        asked = self._fetcher._nodes_with_pending_fetch_requests
        leader = self._fetcher._manager.cluster.leader_for_partition
        return any(leader(place) not in asked for place in self._fetcher._fetchable_partitions())

    def _answered(self, node: Any, outcome: Any) -> None:
        self._clear(node, outcome)
        self._arrived.set()
