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
    """Add the columns that ``table`` has and the database has not; widen strings that grew; leave columns of dropped fields.

    Raises HistoryError, before any change, for a column that holds another type: its old values would mean something else.
    """
    present = {column["name"]: column["type"] for column in inspect(connection).get_columns(table.name)}
    for column in table.columns:
        stored = present.get(column.name)
        if stored is not None and _family(stored) != _family(column.type):
            raise HistoryError(
                f"field {source.name}.{column.name} is now a {_family(column.type)}, but table {table.name} holds "
                f"it as a {_family(stored)}; "
                "give the field a new name"
            )
    operations = Operations(MigrationContext.configure(connection))
    for column in table.columns:
        stored = present.get(column.name)
        if stored is None:
            operations.add_column(table.name, Column(column.name, column.type, nullable=True))
        elif connection.dialect.name != "sqlite" and _width(stored) < _width(column.type):
            operations.alter_column(table.name, column.name, type_=column.type, existing_nullable=True)


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
