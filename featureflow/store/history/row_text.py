"""Events as the text of rows, as INSERT and LOAD DATA of MySQL read it alike: a column at a time, because a driver that escapes value
by value costs its client more than all the rest of a row.

A number is written so that it reads back to the bit: the shortest text that is this float64 and no other. Of a string a backslash,
a quote and a NUL are escaped, which is all that ends or changes a literal where sql_mode is the engine's and the text is UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Field, Source
from featureflow.errors import HistoryError
from featureflow.kernel.events import Events
from featureflow.store.history.event_table import VECTOR

NULL = "NULL"
STATEMENT_CHARACTERS = 1_000_000           # of one statement's rows, at most four times as many bytes: servers refuse a longer packet
_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\0": "\\0"})


def row_texts(source: Source, events: Events) -> list[str]:
    """One text per event: its values in the order of the table's columns, between commas.

    Raises HistoryError for a string that is not Unicode text and for a number that is infinite, which no decoder gives.
    """
    n = len(events)
    if not n:
        return []
    columns: list[Sequence[str]] = [
        [str(events.partition)] * n, _numbers(events.offsets.tolist()), _numbers(events.timestamps_us.tolist()),
        [str(int(events.append_time))] * n,
    ]  # fmt: skip
    for field in source.fields:
        if field.name == source.time_field:
            columns.append(_numbers(events.times_us.tolist()))
        elif field.name in events.columns:
            columns.append(_cells(source, field, events.columns[field.name]))
        else:
            columns.append([NULL] * n)
    return list(map(",".join, zip(*columns, strict=True)))


def statements(rows: Sequence[str]) -> Iterator[str]:
    """The rows as lists of VALUES, each of at most STATEMENT_CHARACTERS or one row."""
    room, start, used = STATEMENT_CHARACTERS, 0, 0
    for index, length in enumerate(map(len, rows)):
        used += length + 3
        if used > room and index > start:
            yield f"({'),('.join(rows[start:index])})"
            start, used = index, length + 3
    if rows:
        yield f"({'),('.join(rows[start:])})"


def _cells(source: Source, field: Field, column: NDArray[Any]) -> Sequence[str]:
    if field.type == "str":
        try:
            return _strings(column.tolist())
        except UnicodeEncodeError as error:
            raise HistoryError(f"field {source.name}.{field.name} holds a string that is not Unicode text: {error.reason}") from None
    broken = np.isinf(column)
    if field.type == "vector":             # null is a row of NaN
        broken = ~np.isfinite(column) & ~np.isnan(column).all(axis=1, keepdims=True)
    if broken.any():                       # a text of numbers has no such number: it would be written as null
        raise HistoryError(f"field {source.name}.{field.name} holds an infinity or half a null, which no event has")
    if field.type == "vector":
        return _vectors(column)
    if field.type == "float":
        return _numbers(column.tolist())
    null = np.isnan(column)
    whole: list[int | None] = np.where(null, 0, column).astype(np.int64).tolist()
    for index in np.flatnonzero(null).tolist():
        whole[index] = None
    return _numbers(whole)


def _numbers(values: Sequence[float | None]) -> list[str]:
    """None and NaN are NULL."""
    return msgspec.json.encode(values)[1:-1].decode("ascii").replace("null", NULL).split(",")


def _strings(values: Sequence[str | None]) -> list[str]:
    known = [value for value in values if value is not None]
    together = "\n".join(known)
    if not together.isascii():
        together.encode()                          # half of a surrogate pair has no bytes
    if together.count("\n") == max(0, len(known) - 1):
        escaped = together.translate(_ESCAPES).split("\n")
    else:                                          # some hold a line feed themselves
        escaped = [value.translate(_ESCAPES) for value in known]
    literals = [f"'{value}'" for value in escaped]
    if len(known) == len(values):
        return literals
    following = iter(literals)
    return [NULL if value is None else next(following) for value in values]


def _vectors(column: NDArray[Any]) -> list[str]:
    digits = column.shape[1] * 16
    packed = np.ascontiguousarray(column, VECTOR).tobytes().hex()
    return [
        NULL if null else f"0x{packed[at * digits : (at + 1) * digits]}" for at, null in enumerate(np.isnan(column[:, 0]).tolist())
    ]
