"""An event table that exists already, brought to what its source says now."""

from __future__ import annotations

from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Connection, Float, Integer, LargeBinary, SmallInteger, String, Table, Text, inspect
from sqlalchemy.dialects.mysql import LONGTEXT, MEDIUMTEXT
from sqlalchemy.types import TypeEngine

from featureflow.define.spec import Source
from featureflow.errors import HistoryError


def change_columns(connection: Connection, source: Source, table: Table) -> None:
    """Add the columns that ``table`` has and the database has not; widen strings that grew, and whole numbers that are any number now;
    leave columns of dropped fields.

    Raises HistoryError, before any change, as ``refuse_other_types`` does.
    """
    present = refuse_other_types(connection, source, table)
    operations = Operations(MigrationContext.configure(connection))
    for column in table.columns:
        stored = present.get(column.name)
        if stored is None:
            operations.add_column(table.name, Column(column.name, column.type, nullable=True))
        elif connection.dialect.name == "sqlite":
            if _widens(stored, column.type):
                _replace(connection, operations, table, column)
        elif _width(stored) < _width(column.type) or _widens(stored, column.type):
            operations.alter_column(table.name, column.name, type_=column.type, existing_nullable=True)


def refuse_other_types(connection: Connection, source: Source, table: Table) -> dict[str, TypeEngine[Any]]:
    """The columns that there are. Raises HistoryError for one that holds another type: its old values would mean something else."""
    present: dict[str, TypeEngine[Any]] = {column["name"]: column["type"] for column in inspect(connection).get_columns(table.name)}
    for column in table.columns:
        stored = present.get(column.name)
        if stored is not None and _family(stored) != _family(column.type) and not _widens(stored, column.type):
            raise HistoryError(
                f"field {source.name}.{column.name} is now a {_family(column.type)}, but table {table.name} holds "
                f"it as a {_family(stored)}; "
                "give the field a new name"
            )
    return present


def _family(kind: TypeEngine[Any]) -> str:
    match kind:
        case SmallInteger():
            return "bool"
        case Integer():
            return "int"
        case Float():
            return "float"
        case LargeBinary():
            return "vector"
        case _:
            return "str"


def _replace(connection: Connection, operations: Operations, table: Table, column: Column[Any]) -> None:
    """Put a column of the wanted type in a column's place, with its values: SQLite does not change the type of one."""
    quote = connection.dialect.identifier_preparer
    name, new = column.name, f"_{column.name}"                     # no field's name starts so
    operations.add_column(table.name, Column(new, column.type, nullable=True))
    connection.exec_driver_sql(f"UPDATE {quote.format_table(table)} SET {quote.quote(new)} = {quote.quote(name)}")
    connection.exec_driver_sql(f"ALTER TABLE {quote.format_table(table)} DROP COLUMN {quote.quote(name)}")
    connection.exec_driver_sql(f"ALTER TABLE {quote.format_table(table)} RENAME COLUMN {quote.quote(new)} TO {quote.quote(name)}")


def _widens(stored: TypeEngine[Any], wanted: TypeEngine[Any]) -> bool:
    """Whether every value that is stored is exactly one of what is wanted: whole numbers, which are below 2^53, as floats."""
    return (_family(stored), _family(wanted)) == ("int", "float")


def _width(kind: TypeEngine[Any]) -> int:
    """How many bytes a string column can hold, in order; 0 for every other type."""
    match kind:
        case LONGTEXT():
            return 2**32
        case MEDIUMTEXT():
            return 2**24
        case Text():
            return 2**16
        case String():
            return kind.length or 2**16
        case _:
            return 0
