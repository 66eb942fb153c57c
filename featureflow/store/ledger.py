"""What the history database has recorded of the definitions that were applied: its owner, topics, view versions and positions.

Reads are here, each a struct whose fields are the columns of its table (``store/history/fixed_tables.py``). What is written together is
one transaction, put together by ``store/registry.py``. Whatever reads raises TablesMissingError before the first apply, and
UnavailableError.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from featureflow.store.history.protocol import HistoryStore


class Owner(msgspec.Struct, frozen=True):
    """The project that was applied here first, and the random id by which the online store knows this database."""

    project: str
    registry_id: str


class AppliedTopic(msgspec.Struct, frozen=True):
    """The topic that a source was applied with; ``topic_id`` changes where it is created again."""

    source: str
    topic: str
    topic_id: str
    partitions: int


class ViewVersion(msgspec.Struct, frozen=True):
    """``definition``: JSON of ``define.spec.View``."""

    view_id: str
    state: Literal["live", "retired", "dropping", "dropped"]
    changed_at_us: int
    definition: str


class Position(msgspec.Struct, frozen=True):
    """Where a view version begins to fold a partition: at ``beginning``, an offset of the topic with this id.

    ``planned`` before its offset record is made and ``created`` after: one that is created and absent was lost.
    """

    view_id: str
    source: str
    partition_id: int
    topic_id: str
    beginning: int
    state: Literal["planned", "created"]


class Ledger:
    """Of one history database."""

    def __init__(self, history: HistoryStore) -> None:
        self._history = history

    def owner(self) -> Owner | None:
        """None before the first apply."""
        return next((msgspec.convert(row, Owner) for row in self._history.query("owner", {})), None)

    def buckets(self) -> int | None:
        """How many the project's states are in; None before that was settled. Wants the tables to be of this version."""
        return next((msgspec.convert(row["buckets"], int | None) for row in self._history.query("buckets", {})), None)

    def definition(self) -> str | None:
        """The project that was applied last, as JSON of ``define.spec.Project``; None before the first apply."""
        return next((str(row["project"]) for row in self._history.query("newest_definition", {})), None)

    def topic(self, source: str) -> AppliedTopic | None:
        """None where no such source was applied."""
        return next((msgspec.convert(row, AppliedTopic) for row in self._history.query("topic", {"source": source})), None)

    def versions(self) -> dict[str, ViewVersion]:
        """View id -> version, of all that were ever applied, those that changed last at the end."""
        rows = self._history.query("view_versions", {})
        return {version.view_id: version for version in (msgspec.convert(row, ViewVersion) for row in rows)}

    def positions(self, view_id: str) -> list[Position]:
        """Of all sources and partitions of a view version, in their order."""
        return [msgspec.convert(row, Position) for row in self._history.query("positions", {"view_id": view_id})]
