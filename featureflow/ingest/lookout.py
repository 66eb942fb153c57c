"""What a worker asks its servers now and then, whatever it folds: where the log ends, and whether state is safe where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from featureflow.clock import Clock
from featureflow.errors import HistoryAwayError, UnavailableError
from featureflow.ingest import claim
from featureflow.ingest.backfill import Backfill
from featureflow.ingest.owned import Owned
from featureflow.ingest.problems import Problems
from featureflow.store.log.protocol import Log, Partition
from featureflow.store.online.protocol import OnlineStore

LOOK_US = 1_000_000                        # where the log ends: how fresh a commit may say it is
INSPECT_US = 5_000_000


class Lookout:
    """Of the partitions ``held``. What waiting cannot cure is raised; what it can is told to ``problems``."""

    def __init__(
        self, log: Log, online: OnlineStore, topics: dict[str, str], backfill: Backfill, clock: Clock,
        held: Mapping[Partition, Owned], problems: Problems,
    ) -> None:  # fmt: skip
        self._log, self._online, self._topics, self._backfill, self._clock = log, online, topics, backfill, clock
        self._held, self._problems = held, problems
        self._look_due_us = self._inspect_due_us = 0
        self.warnings: tuple[str, ...] = ()                        # of the store, when it was last asked

    def settings(self) -> None:
        """Raises StateError where the store loses state as it is set up, UnavailableError."""
        self.warnings = tuple(claim.fit(self._online))

    def look(self) -> None:
        """Each second: where the log ends, whether it was recreated or truncated. Raises LogError, OffsetOutOfRangeError."""
        now_us, held = self._clock.now_us(), self._held
        if now_us < self._look_due_us or not held:
            return
        self._look_due_us = now_us + LOOK_US
        try:
            for name in {partition.source for partition in held}:
                at_ms = self._online.now_ms()                  # before the log is asked: what came since may be missing
                topic = self._log.topic(self._topics[name])
                for partition, owned in held.items():
                    if partition.source == name:
                        with suppress(HistoryAwayError):       # it is asked again, and its reading says so
                            claim.readable(owned, self._topics[name], topic, self._backfill)
                        owned.ends.saw(at_ms, topic.end[partition.partition])
        except UnavailableError as error:
            self._look_due_us = now_us + INSPECT_US            # each attempt may take a time-out
            self._problems.failed("look", error)
        else:
            self._problems.over("look")

    def inspect(self) -> None:
        """Every few seconds: settings that lose state, partitions that readers do not know of. Raises StateError."""
        now_us = self._clock.now_us()
        if now_us < self._inspect_due_us:
            return
        self._inspect_due_us = now_us + INSPECT_US
        try:
            self.settings()
            for name in {partition.source for partition in self._held}:
                topic = self._log.topic(self._topics[name])
                for partition in [partition for partition in self._held if partition.source == name]:
                    claim.listed(self._online, partition, topic)
        except UnavailableError as error:
            self._problems.failed("inspect", error)
        else:
            self._problems.over("inspect")
