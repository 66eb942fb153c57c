"""Partitions that no member of a group holds, noticed and mended.

A cooperative rebalance takes two rounds. In the first a member gives partitions up; by joining again it starts the second, in which others
get them. A member with a durable name that dies between the two gets its old share back when it is started again, without a
rebalance (KIP-345): the second round never comes. The group is stable, and those partitions stay in nobody's hands until some member
comes or goes.

So a member with a durable name looks, soon after it has its first share, whether each partition is in somebody's hands, and joins again
where one is not. Its JoinGroup names its share now and not before, which is what makes the broker rebalance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import kafka.errors
from kafka import TopicPartition

from featureflow.errors import UnavailableError

FIRST_LOOK_S = 0.5                         # after the first share
NEXT_LOOK_S = 2.0                          # a rebalance is under way, or the broker does not answer


class Gaps:
    """Of one member. ``describe`` asks the broker for the group, as kafka-python's ``describe_groups`` has it; ``whole`` gives every
    partition of the group's topics; ``rejoin`` starts a rebalance. ``look`` is called after each poll."""

    def __init__(
        self, describe: Callable[[], dict[str, Any]], whole: Callable[[], set[TopicPartition]], rejoin: Callable[[], object]
    ) -> None:
        self._describe, self._whole, self._rejoin = describe, whole, rejoin
        self._due: float | None = None
        self._done = False

    def assigned(self) -> None:
        """The member has a share."""
        if self._due is None:
            self._due = time.monotonic() + FIRST_LOOK_S

    def look(self) -> None:
        """Where it is due: join again if a partition is nobody's. Never raises."""
        if self._done or self._due is None or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + NEXT_LOOK_S
        try:
            group, whole = self._describe(), self._whole()
        except (kafka.errors.KafkaError, UnavailableError):
            return
        if group["group_state"] != "Stable":
            return
        if whole <= held(group):
            self._done = True
        else:
            self._rejoin()


def held(group: dict[str, Any]) -> set[TopicPartition]:
    """Every partition that is some member's."""
    return {
        TopicPartition(topic["topic"], partition)
        for member in group["members"]
        for topic in member["member_assignment"]["assigned_partitions"]
        for partition in topic["partitions"]
    }
