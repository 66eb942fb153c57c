"""The table of one source's events: which columns it has, and how events become rows and rows events.

Every column but the three of the record is nullable in the table, whatever the definition says: a field may be dropped from
the definition, or join it late. Names of the record's own columns start with ``_``, which no field's name does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import LONGTEXT, MEDIUMTEXT
from sqlalchemy.types import TypeEngine

from featureflow import limits
from featureflow.define.spec import Field, Source
from featureflow.errors import HistoryError
from featureflow.kernel.events import Events

PARTITION, OFFSET, TIMESTAMP, APPEND_TIME = "_partition", "_offset", "_timestamp_us", "_append_time"
IDENTIFIER_CHARACTERS = 64                 # MySQL's limit for the name of a table or column
VECTOR = np.dtype("<f8")                   # of a packed vector's numbers
SHORT_BYTES, TEXT_BYTES, MEDIUM_BYTES = 255, 2**16 - 1, 2**24 - 1


def table_name(source: str) -> str:
    """Of a source's events."""
    return f"ev_{source}"


def check_names(source: Source) -> None:
    """Raise HistoryError for names that cannot stand in a table beside each other."""
    name = table_name(source.name)
    if len(name) > IDENTIFIER_CHARACTERS:
        raise HistoryError(
            f"the table name {name!r} of event {source.name!r} is longer than {IDENTIFIER_CHARACTERS} characters; "
            "shorten the event's name"
        )
    seen: dict[str, str] = {}
    for field in source.fields:
        if field.name.startswith("_"):
            raise HistoryError(
                f"field {source.name}.{field.name}: a name that starts with '_' is kept for the record's own "
                "columns; rename it"
            )
        if len(field.name) > IDENTIFIER_CHARACTERS:
            raise HistoryError(f"field {source.name}.{field.name}: longer than {IDENTIFIER_CHARACTERS} characters; shorten it")
        other = seen.setdefault(field.name.casefold(), field.name)
        if other != field.name:
            raise HistoryError(
                f"fields {source.name}.{other} and {source.name}.{field.name} differ only in case, and SQL does not "
                "tell them apart; rename one"
            )


def column_type(field: Field, collation: str | None) -> TypeEngine[Any]:
    """The type of a field's column.

    A string that may be long is a TEXT: MySQL counts the longest possible VARCHARs against 65,535 bytes a row.
    """
    match field.type:
        case "float":
            return Double()
        case "int" | "datetime":
            return BigInteger()
        case "bool":
            return SmallInteger()
        case "vector":
            return LargeBinary()
        case "str":
            if field.entity is not None:
                return String(limits.KEY_BYTES, collation=collation)
            if field.max_bytes <= SHORT_BYTES:
                return String(SHORT_BYTES, collation=collation)
            if field.max_bytes <= TEXT_BYTES:
                return Text(collation=collation)
            if collation is None:
                return Text()
            return MEDIUMTEXT(collation=collation) if field.max_bytes <= MEDIUM_BYTES else LONGTEXT(collation=collation)


def event_table(source: Source, *, collation: str | None) -> Table:
    """``collation``: of string columns; None where the server compares by byte anyhow (SQLite)."""
    check_names(source)
    return Table(
        table_name(source.name),
        MetaData(),
        Column(PARTITION, Integer, primary_key=True, autoincrement=False),
        Column(OFFSET, BigInteger, primary_key=True, autoincrement=False),
        Column(TIMESTAMP, BigInteger, nullable=False),
        Column(APPEND_TIME, SmallInteger, nullable=False),
        *(Column(field.name, column_type(field, collation), nullable=True) for field in source.fields),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        sqlite_with_rowid=False,
    )


def insert_into(connection: Connection, table: Table) -> str:
    """The beginning of a statement that inserts rows, of all columns in the table's order."""
    quote = connection.dialect.identifier_preparer
    columns = ", ".join(quote.format_column(column) for column in table.columns)
    return f"INSERT INTO {quote.format_table(table)} ({columns}) VALUES "


def rows_of(source: Source, events: Events) -> list[tuple[Any, ...]]:
    """One tuple per event, in the order of the table's columns."""
    n = len(events)
    columns = [[events.partition] * n, events.offsets.tolist(), events.timestamps_us.tolist(), [int(events.append_time)] * n]
    for field in source.fields:
        if field.name == source.time_field:
            columns.append(events.times_us.tolist())
        elif field.name in events.columns:
            columns.append(_cells(field, events.columns[field.name]))
        else:
            columns.append([None] * n)
    return list(zip(*columns, strict=True))


def _cells(field: Field, column: NDArray[Any]) -> list[Any]:
    if field.type == "str" or column.dtype == object:
        return list(column)
    if field.type == "vector":
        return _packed(column)
    null = np.isnan(column)
    if field.type == "float":
        values: list[Any] = column.tolist()
    else:
        values = np.where(null, 0, column).astype(np.int64).tolist()
    if null.any():
        for index in np.flatnonzero(null):
            values[index] = None
    return values


def _packed(column: NDArray[Any]) -> list[bytes | None]:
    """The vectors of a column (n, size) as little-endian float64s, None for a null one."""
    size = column.shape[1] * 8
    data = np.ascontiguousarray(column, VECTOR).tobytes()
    return [
        None if null else data[at * size : (at + 1) * size] for at, null in enumerate(np.isnan(column[:, 0]).tolist())
    ]


def _unpacked(field: Field, cells: Sequence[bytes | None]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The column of packed vectors, and which of them are of the field's size (a null is)."""
    size = field.size * 8
    fits = np.array([cell is None or len(cell) == size for cell in cells], dtype=bool)
    unknown = np.full(field.size, np.nan).astype(VECTOR).tobytes()
    data = b"".join(cell if cell is not None and fit else unknown for cell, fit in zip(cells, fits.tolist(), strict=True))
    return np.frombuffer(data, VECTOR).astype(np.float64).reshape(len(cells), field.size), fits


def events_of(
    source: Source, partition: int, names: Sequence[str], rows: Sequence[Sequence[Any]], append_time: bool
) -> Events:
    """Events of rows ``(offset, append_time, timestamp, time, *names)``.

    Rows that lack a value that is not nullable are left out, and rows with a vector of another size, a string that is none of the
    field's categories, or a number that is not whole in a field of whole ones: they were stored when the field was declared otherwise.
    """
    offsets, _, timestamps, times, *values = zip(*rows, strict=True) if rows else [()] * (4 + len(names))
    n = len(rows)
    whole = np.ones(n, dtype=bool)
    if None in times:
        whole &= np.array([time is not None for time in times], dtype=bool)
        times = tuple(0 if time is None else time for time in times)
    columns: dict[str, NDArray[Any]] = {}
    for name, cells in zip(names, values, strict=True):
        field = source.by_name[name]
        if field.type == "str":
            column = np.empty(n, dtype=object)
            column[:] = cells
            if not field.nullable and None in cells:
                whole &= np.array([cell is not None for cell in cells], dtype=bool)
            if field.categories and not {*field.categories, None}.issuperset(cells):
                whole &= np.array([cell is None or cell in field.categories for cell in cells], dtype=bool)
        elif field.type == "vector":
            column, fits = _unpacked(field, cells)
            whole &= fits
            if not field.nullable and None in cells:
                whole &= np.array([cell is not None for cell in cells], dtype=bool)
        else:
            column = np.array(cells, dtype=np.float64)        # None becomes NaN
            if field.type == "int" and (broken := column != np.rint(column)).any():
                whole &= ~broken | np.isnan(column)
            if not field.nullable:
                whole &= ~np.isnan(column)
        columns[name] = column
    events = Events(
        partition,
        np.array(offsets, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(timestamps, dtype=np.int64),
        columns,
        append_time,
    )
    return events if whole.all() else events.take(np.flatnonzero(whole))
