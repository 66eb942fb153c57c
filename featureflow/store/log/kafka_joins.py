"""Kafka's rebalances finished, whenever the caller polls.

kafka-python (3.0.12) joins a group on its I/O thread and applies the assignment only inside ``poll``. Two things go wrong when a poll
ends first, and both leave a member with nothing, for good where they come in step with the other members' polls:

- a join that finished between two polls is forgotten, and the next poll joins anew: a rebalance for the whole group, again;
- a leader whose JoinGroup was answered but not its SyncGroup believes that nothing is left to do (the metadata that made it join
  is the one it now has): its assignment is never applied and no heartbeat is sent.

One of the three places that build on kafka-python's private parts (``kafka_columns``, ``kafka_fetches``): the consumer's ``_coordinator``,
its ``_do_join_and_sync_async``, ``_on_join_complete_async`` and ``_generation``, and ``rejoining``, ``need_rejoin`` and ``request_rejoin``.
"""

from __future__ import annotations

from typing import Any

PARTS = ("_do_join_and_sync_async", "_on_join_complete_async", "_generation", "rejoining", "need_rejoin", "request_rejoin")


def keep_joins(consumer: Any) -> Joins | None:
    """The joins of a ``KafkaConsumer`` that is a member of a group, kept from now on.

    None, and nothing changed, where kafka-python does not have the parts that this builds on.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    return Joins(coordinator) if all(hasattr(coordinator, part) for part in PARTS) else None


class Joins:
    """What the joins of one coordinator came to; ``take_up`` is called after each poll.

    A finished join is kept until it is applied. Should the group have moved on meanwhile, the first heartbeat afterwards says so,
    as after any join.
    """

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self._join = coordinator._do_join_and_sync_async
        self._complete = coordinator._on_join_complete_async
        self._finished: tuple[Any, bytes] | None = None        # (generation, assignment), not yet applied
        coordinator._do_join_and_sync_async = self._join_once
        coordinator._on_join_complete_async = self._apply

    def take_up(self) -> None:
        """Have the next poll go on with a join that this one left under way."""
        if self._coordinator.rejoining and not self._coordinator.need_rejoin():
            self._coordinator.request_rejoin()

    def again(self) -> None:
        """Have the next poll join once more."""
        self._coordinator.request_rejoin()

    async def _join_once(self) -> bytes:
        if self._finished is None or self._finished[0] is not self._coordinator._generation:
            self._finished = None
            assignment = await self._join()
            self._finished = (self._coordinator._generation, assignment)
        return self._finished[1]

    async def _apply(self, *joined: Any) -> None:
        self._finished = None
        await self._complete(*joined)
