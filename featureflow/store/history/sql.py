"""History in MySQL 8/9 or SQLite, through SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal, TypeVar

import numpy as np
import structlog
from sqlalchemy import Connection, Table, inspect, select
from sqlalchemy.exc import DBAPIError

from featureflow.define.spec import Source
from featureflow.errors import OffsetConflictError
from featureflow.kernel.events import Events
from featureflow.store.history import filling
from featureflow.store.history.database import Database
from featureflow.store.history.engine import collation_of
from featureflow.store.history.event_by import event_by, judged_by
from featureflow.store.history.event_table import (
    APPEND_TIME,
    OFFSET,
    PARTITION,
    TIMESTAMP,
    event_table,
    events_of,
    insert_into,
    rows_of,
)
from featureflow.store.history.failure import Failure, failure_of
from featureflow.store.history.load import RowsChangedError, load
from featureflow.store.history.migrate import alone, upgrade
from featureflow.store.history.protocol import Extent, HistoryPage, RefusedRecord, Statement, Unfilled
from featureflow.store.history.queries import named
from featureflow.store.history.read_again import content_of, definition_of, record_of
from featureflow.store.history.row_text import row_texts, statements
from featureflow.store.history.schema import change_columns, refuse_other_types

T = TypeVar("T")
Step = Literal[
    "offset_moved", "rows_inserted",                               # of an append
    "refused_settled", "events_inserted", "after_settle",
    "mark_moved", "fields_filled", "after_fill",
]  # fmt: skip

LOAD_ROWS = 100                            # fewer are an INSERT, which needs one answer of the server's and not two
_logger = structlog.get_logger("featureflow.history")


class SqlHistory:
    """``HistoryStore`` over one database. Safe to use from several threads; connections are pooled.

    ``setting`` names the setting that ``url`` came from, so that errors can point at it. ``passing`` is called at each step of a
    transaction with rows of events, and where the name says so after its COMMIT: a test may end the process there.
    """

    def __init__(self, url: str, *, setting: str = "history.url", passing: Callable[[Step], None] = lambda step: None) -> None:
        self._database, self._passing = Database(url, setting=setting), passing
        self._tables: dict[Source, Table] = {}
        self._loads = True                 # until a server does not take that

    def __repr__(self) -> str:
        return f"SqlHistory({self._database.place!r})"

    # -- tables --------------------------------------------------------------------------------------------------------

    def migrate(self) -> None:
        self._transact(upgrade)

    def ensure_source(self, source: Source, *, added: Sequence[str] = ()) -> None:
        def work(connection: Connection) -> None:
            table = event_table(source, collation=collation_of(connection))
            with alone(connection):
                if inspect(connection).has_table(table.name):
                    filling.mark(connection, source.name, added)   # before the columns are there: MySQL commits at each of them
                    change_columns(connection, source, table)
                else:
                    table.create(connection)

        self._transact(work)

    def check_source(self, source: Source) -> None:
        with self._database.reading() as connection:
            table = event_table(source, collation=collation_of(connection))
            if inspect(connection).has_table(table.name):
                refuse_other_types(connection, source, table)

    # -- offsets -------------------------------------------------------------------------------------------------------

    def create_offsets(self, source: str, offsets: Mapping[int, int]) -> list[int]:
        def work(connection: Connection) -> list[int]:
            present = {row.partition_id for row in connection.execute(named("history_offsets"), {"source": source})}
            absent = [partition for partition in sorted(offsets) if partition not in present]
            for partition in absent:
                self._start(connection, source, partition, offsets[partition], offsets[partition])
            return absent

        return self._transact(work)

    def extents(self, source: str) -> dict[int, Extent]:
        with self._database.reading() as connection:
            rows = connection.execute(named("history_offsets"), {"source": source}).all()
        return {row.partition_id: Extent(row.first_offset, row.next_offset) for row in rows}

    def offsets(self, source: str) -> dict[int, int]:
        return {partition: extent.next for partition, extent in self.extents(source).items()}

    # -- rows ----------------------------------------------------------------------------------------------------------

    def append(
        self, source: Source, partition: int, events: Events, from_offset: int, to_offset: int, refused: Sequence[RefusedRecord] = ()
    ) -> None:
        """One transaction: (1) compare and set the offset, (2) insert the rows, (3) commit.

        The offset comes first: its row lock makes a second writer of the partition wait, and then find it moved.
        """
        kept = [{**record_of(source, partition, record.offset), **content_of(record)} for record in refused]

        def work(connection: Connection) -> None:
            # (1)
            moved = connection.execute(
                named("advance_history_offset"),
                {"source": source.name, "partition_id": partition, "from_offset": from_offset, "to_offset": to_offset},
            ).rowcount
            if moved != 1:
                present = connection.execute(named("history_offsets"), {"source": source.name}).all()
                stored = {row.partition_id: row.next_offset for row in present}
                if from_offset != 0 or partition in stored:
                    raise OffsetConflictError(
                        f"history of {source.name}/{partition} stands at {stored.get(partition, 'no offset')}, not "
                        f"at {from_offset}: another "
                        "history writer has moved it; nothing was written. Read the offset again and go on from there"
                    )
                self._start(connection, source.name, partition, 0, to_offset)
            self._passing("offset_moved")
            # (2)
            self._add(connection, source, [events])
            if kept:
                connection.execute(named("add_refused"), kept)
            self._passing("rows_inserted")

        # (3)
        self._transact(work, what=f"{source.name}/{partition} offsets {from_offset}..{to_offset}")

    def refused(self, source: Source, partition: int, most: int) -> list[RefusedRecord]:
        parameters = {
            "source": source.name, "partition_id": partition, "definition": definition_of(source), "most": most
        }  # fmt: skip
        with self._database.reading() as connection:
            found = connection.execute(named("refused_otherwise"), parameters).all()
        return [
            RefusedRecord(row.record_offset, row.timestamp_us, bool(row.append_time), row.record_key, row.record_value) for row in found
        ]

    def settle(self, source: Source, partition: int, events: Sequence[Events], still_refused: Sequence[int]) -> None:
        gone = [record_of(source, partition, offset) for some in events for offset in some.offsets.tolist()]
        marked = [record_of(source, partition, offset) for offset in still_refused]

        def work(connection: Connection) -> None:
            rows = filling.since(connection, source.name, partition)
            for statement, records in (("forget_refused", gone), ("mark_refused", marked)):
                for record in records:                            # one by one: a driver does not say how many rows many statements met
                    if connection.execute(named(statement), record).rowcount != 1:
                        raise OffsetConflictError(
                            f"a record of {source.name}/{partition} that was refused, {record['record_offset']}, was read again by another "
                            "history writer; nothing was written"
                        )
            self._passing("refused_settled")
            for some in events:
                there = np.isin(some.offsets, list(rows))
                filling.fill(connection, source, self._table(connection, source), some.take(np.flatnonzero(there)), list(source.by_name))
                self._add(connection, source, [some.take(np.flatnonzero(~there))])
            self._passing("events_inserted")

        self._transact(work, what=f"records of {source.name}/{partition} that were refused")
        self._passing("after_settle")

    def unfilled(self, source: str) -> dict[int, Unfilled]:
        with self._database.reading() as connection:
            return filling.marks(connection, source)

    def fill(self, source: Source, partition: int, events: Events, refused: Sequence[RefusedRecord], was: Unfilled, to: int | None) -> None:
        def work(connection: Connection) -> None:
            filling.move(connection, source.name, partition, was, to)
            self._passing("mark_moved")
            table = self._table(connection, source)
            filling.fill(connection, source, table, events, was.fields)
            filling.refuse(connection, source, table, partition, refused)
            self._passing("fields_filled")

        self._transact(work, what=f"rows of {source.name}/{partition} that lack fields")
        self._passing("after_fill")

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
        while True:
            with self._database.reading() as connection:
                filling.check(connection, source, partition, (*columns, *judged_by(by)), to_offset)
                of = self._table(connection, source).c
                wanted = (
                    select(of[OFFSET], of[APPEND_TIME], of[TIMESTAMP], of[source.time_field], *(of[name] for name in columns))
                    .where(of[PARTITION] == partition, of[OFFSET] >= from_offset)
                    .order_by(of[OFFSET])
                    .limit(page_rows)
                )
                if to_offset is not None:
                    wanted = wanted.where(of[OFFSET] < to_offset)
                if by:
                    wanted = wanted.where(event_by(by, filling.refusing(connection, source.name, partition)))
                rows = connection.execute(wanted).fetchall()
            for append_time, group in groupby(rows, key=itemgetter(1)):     # nearly always one group
                run = list(group)
                yield HistoryPage(partition, run[-1][0] + 1, events_of(source, partition, columns, run, bool(append_time)))
            if len(rows) < page_rows:
                return
            from_offset = rows[-1][0] + 1

    # -- named statements ----------------------------------------------------------------------------------------------

    def query(self, name: str, parameters: Mapping[str, object]) -> list[dict[str, object]]:
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(named(name), dict(parameters)).mappings()]

    def execute(self, statements: Sequence[Statement]) -> None:
        def work(connection: Connection) -> None:
            for statement in statements:
                connection.execute(named(statement.name), dict(statement.parameters))

        self._transact(work)

    def ping(self) -> str:
        with self._database.reading() as connection:
            if connection.dialect.name == "sqlite":
                return f"SQLite {connection.exec_driver_sql('SELECT sqlite_version()').scalar_one()}"
            version, loads = connection.exec_driver_sql("SELECT VERSION(), @@GLOBAL.local_infile").one()
            slow = "" if loads else ", whose local_infile is OFF: each row costs it twice the CPU"
            return f"{'MariaDB' if 'maria' in version.lower() else 'MySQL'} {version}{slow}"

    def close(self) -> None:
        self._database.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _start(self, connection: Connection, source: str, partition: int, first: int, following: int) -> None:
        try:
            connection.execute(
                named("create_history_offset"),
                {"source": source, "partition_id": partition, "first_offset": first, "next_offset": following},
            )
        except DBAPIError as error:
            if failure_of(error) is not Failure.DUPLICATE:
                raise
            raise OffsetConflictError(
                f"history of {source}/{partition} was started by another history writer just now; nothing was written. "
                "Read the offset again and go on from there"
            ) from error

    def _table(self, connection: Connection, source: Source) -> Table:
        table = self._tables.get(source)
        if table is None:
            table = self._tables[source] = event_table(source, collation=collation_of(connection))
        return table

    def _add(self, connection: Connection, source: Source, events: Sequence[Events]) -> None:
        """Rows of the events, in the way that costs this server least."""
        table = self._table(connection, source)
        if connection.dialect.name == "sqlite":
            if rows := [row for some in events for row in rows_of(source, some)]:
                connection.exec_driver_sql(f"{insert_into(connection, table)}({', '.join('?' * len(table.columns))})", rows)
            return
        texts = [text for some in events for text in row_texts(source, some)]
        if self._loads and len(texts) >= LOAD_ROWS:
            try:
                load(connection, table, texts)
            except DBAPIError as error:
                if failure_of(error) is not Failure.REFUSED:
                    raise
                self._loads_no_more(str(error.orig))       # it undid that statement; an INSERT says what is wrong, if it is the rows
            else:
                return
        into = insert_into(connection, table).replace("%%", "%")         # doubled in names, for a driver that is given parameters
        for values in statements(texts):
            try:
                connection.exec_driver_sql(into + values, execution_options={"no_parameters": True})
            except DBAPIError as error:
                error.statement = into             # rows of events have no place in an error message
                raise

    def _loads_no_more(self, problem: str) -> None:
        """Not before the next start: a server that takes no load is not asked at every batch."""
        self._loads = False
        cure = "SET PERSIST local_infile = ON, and start this again"
        _logger.info("history_inserts", database=self._database.place, reason=problem, to_load=cure)

    def _transact(self, work: Callable[[Connection], T], *, what: str = "this change") -> T:
        """As ``Database.transact``; once more, and without a load, where the server changed rows that it loaded."""
        try:
            return self._database.transact(work, what=what)
        except RowsChangedError as error:
            self._loads_no_more(str(error))
            return self._database.transact(work, what=what)
