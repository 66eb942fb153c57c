"""Fields that were declared after rows of their event had been written.

Producers write a field before anybody declares it, and whoever declares it later has the log folded from its beginning, field and
all. History kept what was declared, so its rows are filled in from the log by the writer, and until then nobody reads these columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec
from sqlalchemy import Connection, Table, bindparam, case, literal, select

from featureflow.define.spec import Source
from featureflow.errors import OffsetConflictError, UnavailableError
from featureflow.kernel.events import Events
from featureflow.store.history.event_table import OFFSET, PARTITION, rows_of
from featureflow.store.history.protocol import RefusedRecord, Unfilled
from featureflow.store.history.queries import named
from featureflow.store.history.read_again import content_of, record_of

AT = "record_offset"                       # a parameter; no column is called so
ROWS = 100                                 # of one statement: of records of 64 KiB at most, so of what a server takes at once


def marks(connection: Connection, source: str) -> dict[int, Unfilled]:
    """Partition -> what its rows may lack."""
    rows = connection.execute(named("unfilled"), {"source": source}).all()
    return {row.partition_id: Unfilled(msgspec.json.decode(row.fields, type=tuple[str, ...]), row.next_offset) for row in rows}


def mark(connection: Connection, source: str, added: Iterable[str]) -> None:
    """All rows that are there may lack ``added``, besides what they lack already."""
    if not (added := set(added)):
        return
    offsets = connection.execute(named("history_offsets"), {"source": source}).all()
    before = marks(connection, source)
    connection.execute(named("forget_all_unfilled"), {"source": source})
    for row in offsets:                    # a writer may go on by the old definition for a while, so also where there are no rows yet
        known = before[row.partition_id].fields if row.partition_id in before else ()
        lacking = Unfilled(tuple(sorted(added.union(known))), row.first_offset)
        connection.execute(named("add_unfilled"), {**_mark(source, row.partition_id, lacking), "next_offset": lacking.first})


def check(connection: Connection, source: Source, partition: int, columns: Iterable[str], until: int | None) -> None:
    """Raise UnavailableError where rows before ``until`` may lack one of the columns, or their time."""
    lacks = marks(connection, source.name).get(partition)
    if lacks is None or (until is not None and until <= lacks.first):
        return
    if asked := {source.time_field, *columns}.intersection(lacks.fields):
        raise UnavailableError(
            f"history of {source.name}/{partition} has yet to fill in {', '.join(sorted(asked))} from offset {lacks.first} on, declared "
            "after its rows were written; `featureflow history` does so while it runs"
        )


def move(connection: Connection, source: str, partition: int, was: Unfilled, to: int | None) -> None:
    """Rows before ``to`` lack nothing any more; None: no row does."""
    parameters = _mark(source, partition, was) | {"from_offset": was.first}
    if to is None:
        moved = connection.execute(named("forget_unfilled"), parameters).rowcount
    else:
        moved = connection.execute(named("advance_unfilled"), {**parameters, "to_offset": to}).rowcount
    if moved != 1:
        raise OffsetConflictError(
            f"rows of {source}/{partition} are filled in by another history writer, or other fields were declared; nothing was written"
        )


def fill(connection: Connection, source: Source, table: Table, events: Events, fields: Sequence[str]) -> None:
    """Those fields of the events' rows, where there are rows; a dropped field's column stays as it is."""
    names = [field.name for field in source.fields if field.name in fields]
    places = [list(table.columns.keys()).index(name) for name in names]
    rows = [
        {name: row[place] for name, place in zip(names, places, strict=True)} | {AT: offset}
        for row, offset in zip(rows_of(source, events), events.offsets.tolist(), strict=True)
    ]
    known = [row for row in rows if any(row[name] is not None for name in names)]
    if not known:
        return
    of, mine = table.c, table.c[PARTITION] == events.partition
    if connection.dialect.name == "sqlite" or any(source.by_name[name].type == "vector" for name in names):
        one = table.update().where(mine & (of[OFFSET] == bindparam(AT))).values({name: bindparam(name) for name in names})
        connection.execute(one, known)
        return
    for first in range(0, len(known), ROWS):       # a server that is far away answers once for many
        some = known[first:first + ROWS]
        values = {name: case({row[AT]: literal(row[name], of[name].type) for row in some}, value=of[OFFSET]) for name in names}
        connection.execute(table.update().where(mine & of[OFFSET].in_([row[AT] for row in some])).values(values))


def refuse(connection: Connection, source: Source, table: Table, partition: int, refused: Sequence[RefusedRecord]) -> None:
    """Those of these records that have rows are no events by definitions with their fields, besides what makes them none already."""
    if not refused:
        return
    here = (table.c[PARTITION] == partition) & table.c[OFFSET].in_([record.offset for record in refused])
    rows = set(connection.execute(select(table.c[OFFSET]).where(here)).scalars())
    before = since(connection, source.name, partition)
    for record in (record for record in refused if record.offset in rows):
        fields = tuple(sorted({*record.fields, *before.get(record.offset, ())}))
        named_so = record_of(source, partition, record.offset)
        connection.execute(named("forget_refused_since"), named_so)
        connection.execute(named("add_refused"), {**named_so, **content_of(replace(record, fields=fields))})


def since(connection: Connection, source: str, partition: int) -> dict[int, tuple[str, ...]]:
    """Offset -> the fields by which its record is no event though it has a row."""
    rows = connection.execute(named("refused_since"), {"source": source, "partition_id": partition}).all()
    return {row.record_offset: _split(row.fields) for row in rows}


def refusing(connection: Connection, source: str, partition: int) -> set[str]:
    """The fields by which records of the partition are no events though they have rows."""
    rows = connection.execute(named("refusing_fields"), {"source": source, "partition_id": partition}).scalars()
    return {name for fields in rows for name in _split(fields)}


def _split(fields: str) -> tuple[str, ...]:
    return tuple(fields.strip(",").split(","))


def _mark(source: str, partition: int, lacking: Unfilled) -> dict[str, object]:
    return {"source": source, "partition_id": partition, "fields": msgspec.json.encode(lacking.fields).decode()}
