"""Which rows are events by a definition of their source, also by the fields that nobody asks for.

A row was an event by the definition of its day. A field that is required since, or has lost a category, makes it none: whoever folds the
log by that definition leaves it out, whatever a view reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import ColumnElement, and_, column, exists, false, func, or_, true

from featureflow.define.spec import Source
from featureflow.store.history.event_table import OFFSET, PARTITION, VECTOR, column_type
from featureflow.store.history.fixed_tables import history_refused


def event_by(definitions: Sequence[Source], refusing: Collection[str] = ()) -> ColumnElement[bool]:
    """The condition that a row is an event by one of these definitions. ``refusing``: fields by which records with rows are refused."""
    return or_(false(), *(and_(true(), *_conditions(source), *_none_refused(source, refusing)) for source in definitions))


def judged_by(definitions: Sequence[Source]) -> Iterable[str]:
    """Fields on which that condition hangs, where there is one definition: of several another may hold without them."""
    return [field.name for field in definitions[0].fields] if len(definitions) == 1 else ()


def _none_refused(source: Source, refusing: Collection[str]) -> Iterable[ColumnElement[bool]]:
    if declared := [field.name for field in source.fields if field.name in refusing]:
        of = history_refused.c
        mine = (of.source == source.name) & (of.partition_id == column(PARTITION)) & (of.record_offset == column(OFFSET))
        fields = or_(*(func.instr(of.fields, f",{name},") > 0 for name in declared))
        yield ~exists().where(mine & fields)


def _conditions(source: Source) -> Iterable[ColumnElement[bool]]:
    for field in source.fields:
        stored = column(field.name, column_type(field, None))
        holds: list[ColumnElement[bool]] = []
        if field.categories:
            holds.append(stored.in_(field.categories))
        if field.type == "int":
            holds.append(stored == func.round(stored))
        if field.type == "vector":
            holds.append(func.length(stored) == field.size * VECTOR.itemsize)
        if not field.nullable:
            yield and_(stored.is_not(None), *holds)
        elif holds:
            yield or_(stored.is_(None), *holds)
