"""LOAD DATA LOCAL INFILE without a file: the server takes rows for 6 us of its time each, and as an INSERT for 10.

The client of this statement sends whatever file the server names, and LOCAL makes a warning of what is an error elsewhere: a value
that does not fit is cut, a row whose key is there already is left out. So this connection opens no file, whatever a server asks for,
and a load counts only where every row went in and nothing was warned of.
"""

from __future__ import annotations

from collections.abc import Sequence

import pymysql
from pymysql.connections import MySQLResult
from pymysql.constants import CR
from sqlalchemy import Connection, Table
from sqlalchemy.types import LargeBinary

from featureflow.errors import HistoryError

PACKET_BYTES = 64 * 1024


class RowsChangedError(HistoryError):
    """The server changed or left out rows that it loaded; its transaction must be rolled back."""


class LoadingConnection(pymysql.connections.Connection):  # type: ignore[misc]  # the driver has no types
    """PyMySQL's, with ``lines`` to send to a server that asks for a file. Where there are none the server is lying."""

    lines: bytes | None = None
    warned = 0                             # by the last load

    def _read_query_result(self, unbuffered: bool = False) -> int:
        self._result = None
        result = _Result(self)
        if unbuffered:
            result.init_unbuffered_query()
        else:
            result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return int(result.affected_rows)


class _Result(MySQLResult):  # type: ignore[misc]  # the driver has no types
    def _read_load_local_packet(self, first_packet: object) -> None:
        """In place of the driver's own, which opens the file that ``first_packet`` names."""
        connection, lines = self.connection, self.connection.lines
        for start in range(0, len(lines or b""), PACKET_BYTES):
            connection.write_packet(lines[start : start + PACKET_BYTES])
        connection.write_packet(b"")               # that was all
        answer = connection._read_packet()
        if lines is None or not answer.is_ok_packet():
            raise pymysql.err.OperationalError(
                CR.CR_COMMANDS_OUT_OF_SYNC, "the server asked for a file, for which no statement gives it a reason; it was sent nothing"
            )
        self._read_ok_packet(answer)
        connection.warned = self.warning_count


def load(connection: Connection, table: Table, rows: Sequence[str]) -> None:
    """Add ``rows``, as ``row_texts`` makes them, with one statement.

    Raises RowsChangedError where they are not all there as they were given, and DBAPIError with whatever the server says.
    """
    quote = connection.dialect.identifier_preparer
    columns, made = [], []
    for number, column in enumerate(table.columns):
        name = quote.format_column(column)
        if isinstance(column.type, LargeBinary):
            columns.append(f"@b{number}")
            made.append(f"{name} = UNHEX(SUBSTR(@b{number}, 3))")      # 0x and its digits
        else:
            columns.append(name)
    statement = (
        f"LOAD DATA LOCAL INFILE 'rows' INTO TABLE {quote.format_table(table)} CHARACTER SET utf8mb4 "
        r"FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\'' ESCAPED BY '\\' LINES TERMINATED BY '\n' "
        f"({', '.join(columns)}){' SET ' if made else ''}{', '.join(made)}"
    ).replace("%%", "%")                           # doubled in names, for a driver that is given parameters
    sender = connection.connection.dbapi_connection
    assert isinstance(sender, LoadingConnection)
    sender.lines = ("\n".join(rows) + "\n").encode()
    try:
        added = connection.exec_driver_sql(statement, execution_options={"no_parameters": True}).rowcount
    finally:
        sender.lines = None
    if added != len(rows) or sender.warned:
        raise RowsChangedError(f"of {len(rows)} rows loaded into {table.name} {added} went in, with {sender.warned} warnings")
