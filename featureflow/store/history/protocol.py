"""The history store: every decodable event as a typed row, each (partition, offset) once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from featureflow.define.spec import Source
from featureflow.kernel.events import Events


@dataclass(frozen=True)
class HistoryPage:
    """Rows of one partition in offset order; ``next`` is where the following page starts."""

    partition: int
    next: int
    events: Events


@dataclass(frozen=True)
class Extent:
    """The offsets that history holds of one partition: ``first <= offset < next``."""

    first: int
    next: int


@dataclass(frozen=True)
class RefusedRecord:
    """A record that is no event as its source is defined, as it came. ``fields``: those, declared later, that make a row's record none."""

    offset: int
    timestamp_us: int
    append_time: bool
    key: bytes | None
    value: bytes
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unfilled:
    """Rows of a partition from the offset ``first`` on may have been written before these fields of their event were declared."""

    fields: tuple[str, ...]
    first: int


@dataclass(frozen=True)
class Statement:
    """A named statement of ``store/history/queries/`` with its parameters."""

    name: str
    parameters: Mapping[str, object]


class HistoryStore(Protocol):
    """Events in the order of the log, how far they reach, and what is recorded of the definitions. Safe to use from several threads.

    Anything raises UnavailableError where the database is away, and HistoryError for what waiting does not cure.
    """

    def migrate(self) -> None:
        """Bring the fixed tables (offsets, registry, ...) to the newest revision."""
        ...

    def ensure_source(self, source: Source, *, added: Sequence[str] = ()) -> None:
        """Create the source's event table, or add columns that are new. ``added``: fields that rows may have been written without, which
        are unfilled from now on.

        Raises HistoryError where a field's type is not the type of the column that already holds it.
        """
        ...

    def check_source(self, source: Source) -> None:
        """Raises HistoryError where ``ensure_source`` would; changes nothing."""
        ...

    def create_offsets(self, source: str, offsets: Mapping[int, int]) -> list[int]:
        """Start partitions that have no offset yet at these offsets. The partitions started."""
        ...

    def offsets(self, source: str) -> dict[int, int]:
        """Partition -> next offset. A partition never written is absent."""
        ...

    def extents(self, source: str) -> dict[int, Extent]:
        """Partition -> the offsets that history holds of it."""
        ...

    def append(
        self, source: Source, partition: int, events: Events, from_offset: int, to_offset: int, refused: Sequence[RefusedRecord] = ()
    ) -> None:
        """Rows and offset in one transaction, and the records between them that are no events.

        Raises OffsetConflictError when the stored offset is not ``from_offset`` (0 or absent for the first), UnavailableError,
        UnknownOutcomeError when the connection broke during COMMIT.
        """
        ...

    def refused(self, source: Source, partition: int, most: int) -> list[RefusedRecord]:
        """So many of the partition's records that were refused when the source was defined otherwise, in offset order."""
        ...

    def settle(self, source: Source, partition: int, events: Sequence[Events], still_refused: Sequence[int]) -> None:
        """Records that ``refused`` gave, by this definition: rows of those that are events, and the offsets of those that are not.

        One transaction. Raises OffsetConflictError where another writer has settled one of them.
        """
        ...

    def unfilled(self, source: str) -> dict[int, Unfilled]:
        """Partition -> what its rows may lack. A partition whose rows lack nothing is absent."""
        ...

    def fill(self, source: Source, partition: int, events: Events, refused: Sequence[RefusedRecord], was: Unfilled, to: int | None) -> None:
        """The unfilled fields of those rows, from the same records of the log. ``to``: before it they have them now; None: all have.

        A row whose record is ``refused`` by some of these stays, and is an event only by definitions without those. One transaction. Raises
        OffsetConflictError where it is not ``was`` any more: another writer fills the rows, or other fields were declared.
        """
        ...

    def scan(
        self,
        source: Source,
        *,
        partition: int,
        columns: Sequence[str],
        from_offset: int = 0,
        to_offset: int | None = None,
        page_rows: int = 50_000,
        by: Sequence[Source] = (),
    ) -> Iterator[HistoryPage]:
        """Rows with from_offset <= offset < to_offset, in offset order, a page at a time. ``by``: only those that are events by one of
        these definitions of the source, whatever is in ``columns``.

        A row that lacks a value for one of ``columns`` that is not nullable was stored before that field existed: it is no event
        of this source as it is defined now, and is left out. Raises UnavailableError where some of ``columns`` may be unfilled there.
        """
        ...

    def query(self, name: str, parameters: Mapping[str, object]) -> list[dict[str, object]]:
        """Run a named query of ``store/history/queries/``."""
        ...

    def execute(self, statements: Sequence[Statement]) -> None:
        """Run named statements that write, all in one transaction."""
        ...

    def ping(self) -> str:
        """The database's name and version. Raises UnavailableError."""
        ...

    def close(self) -> None:
        """Let go of its connections."""
        ...
