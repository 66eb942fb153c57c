"""The rows that a dataset is asked for: entity ids, an instant, and what came with them (label, request inputs)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.clock import to_us
from featureflow.define.spec import Field, FieldType
from featureflow.errors import RequestError
from featureflow.limits import INTEGER_ABS

SpineLike: TypeAlias = Any
"""A pandas DataFrame, a pyarrow Table, a path to .parquet or .csv, a mapping of columns, or a sequence of mappings."""

TITLE = "The spine cannot be used"
INTEGER = re.compile(r"-?[0-9]+")
UNIT_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}   # of Arrow's timestamps
DAYS_ABS = INTEGER_ABS // 86_400_000_000


@dataclass(frozen=True)
class Spine:
    """n rows. ``ids``: join key -> (n,) object (str) or float64 (int) with None/NaN where there is no id."""

    instants_us: NDArray[np.int64]         # (n,) the instant each row is asked at
    ids: dict[str, NDArray[Any]]
    context: dict[str, NDArray[Any]]       # request input -> (n,) as in kernel.events.Events.columns
    labels: NDArray[np.float64] | None     # (n,)

    def __len__(self) -> int:
        return len(self.instants_us)


def read_spine(
    spine: SpineLike,
    *,
    join_keys: Mapping[str, FieldType],
    context: Mapping[str, Field],
    instant: str,
    label: str | None,
) -> Spine:
    """Take the columns that are needed; others are ignored. Raises RequestError naming the column and what to write."""
    columns = columns_of(spine)
    needed = [instant, *join_keys, *context, *([label] if label is not None else [])]
    absent = [name for name in needed if name not in columns]
    if absent:
        raise RequestError(
            TITLE,
            f"it has no column {absent[0]!r}. It needs {', '.join(needed)}; it has "
            f"{', '.join(map(str, columns)) or 'none'}",
        )
    for name in needed:
        if len(columns[name]) != len(columns[instant]):
            raise RequestError(
                TITLE, f"{instant!r} has {len(columns[instant])} rows and {name!r} {len(columns[name])}; give each row one value of each"
            )
    return Spine(
        instants_of(instant, columns[instant]),
        {key: _typed(key, kind, columns[key]) for key, kind in join_keys.items()},
        {name: _of_field(field, columns[name], name) for name, field in context.items()},
        None if label is None else _numbers(label, columns[label]),
    )


def columns_of(spine: SpineLike) -> dict[str, Sequence[Any] | NDArray[Any]]:
    """The spine's columns, whatever it came as."""
    if isinstance(spine, str | Path):
        try:
            return _from_file(Path(spine))
        except (OSError, ValueError, csv.Error) as error:  # Unicode's and Arrow's errors are ValueErrors
            why = getattr(error, "strerror", None) or error
            raise RequestError(TITLE, f"{spine} cannot be read: {why}. Give a CSV file in UTF-8, or Parquet") from error
    if hasattr(spine, "to_pydict"):                        # pyarrow
        return _from_arrow(spine)
    if hasattr(spine, "columns") and hasattr(spine, "dtypes"):   # pandas
        _refuse_repeated(map(str, spine.columns))
        return {str(name): _from_pandas(str(name), spine[name]) for name in spine.columns if name != ""}
    if isinstance(spine, Mapping):
        _refuse_repeated(map(str, spine))
        return {str(name): column for name, column in spine.items()}
    rows = list(spine)
    if not all(isinstance(row, Mapping) for row in rows):
        raise RequestError(
            TITLE,
            f"a {type(spine).__name__} of something else than rows. Give a DataFrame, a .parquet or .csv path, or a "
            "list of dicts",
        )
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def instants_of(name: str, column: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Microseconds since 1970 UTC of aware datetimes, RFC 3339 strings, or integers that are microseconds already."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "iu":
        _refuse_far(name, column, (column > INTEGER_ABS) | (column < -INTEGER_ABS))
        return column.astype(np.int64)
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        if np.isnat(column).any():
            raise RequestError(TITLE, f"column {name!r} has a row without an instant. Drop that row")
        days = column.astype("datetime64[D]").astype(np.int64)         # in microseconds a far one would come round to another
        _refuse_far(name, column, (days >= DAYS_ABS) | (days < -DAYS_ABS))
        return column.astype("datetime64[us]").astype(np.int64)
    return np.array([_instant(name, index, value) for index, value in enumerate(column)], dtype=np.int64)


# -- one value ---------------------------------------------------------------------------------------------------------

def _instant(name: str, index: int, value: Any) -> int:
    if isinstance(value, bool) or _is_null(value):
        raise RequestError(TITLE, f"row {index}: {name!r} is {value!r}, which names no instant")
    us = _microseconds(name, index, value)
    if abs(us) > INTEGER_ABS:
        raise _far(name, index, value)
    return us


def _microseconds(name: str, index: int, value: Any) -> int:
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, str):
        if INTEGER.fullmatch(value):
            return int(value[:20])         # too far with 19 digits already, and int() refuses thousands of them
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise RequestError(
                TITLE,
                f"row {index}: {name!r} is {value!r}. Write an RFC 3339 time with a zone, or microseconds since 1970",
            ) from None
    if not isinstance(value, datetime):
        raise RequestError(
            TITLE,
            f"row {index}: {name!r} is a {type(value).__name__}. Write a datetime with a zone, or microseconds "
            "since 1970",
        )
    try:
        return to_us(value)
    except ValueError as error:
        raise RequestError(TITLE, f"row {index}: {name!r}: {error}") from error


def _refuse_far(name: str, column: NDArray[Any], far: NDArray[np.bool_]) -> None:
    if far.any():
        index = int(np.argmax(far))
        raise _far(name, index, column[index])


def _far(name: str, index: int, value: object) -> RequestError:
    text = str(value)
    return RequestError(
        TITLE,
        f"row {index}: {name!r} is {text if len(text) <= 40 else text[:40] + '...'}, more than 285 years from 1970 (2^53 microseconds). "
        "Integers are microseconds since 1970; or write RFC 3339 times with a zone",
    )


def _of_field(field: Field, column: Sequence[Any] | NDArray[Any], name: str) -> NDArray[Any]:
    if field.type == "vector":
        return _vectors(name, field.size, column)
    values = _typed(name, field.type, column)
    if field.categories and not {*field.categories, None}.issuperset(values):
        index, value = next((i, v) for i, v in enumerate(values) if v is not None and v not in field.categories)
        raise RequestError(TITLE, f"row {index}: {name!r} is {value!r}, which is none of {', '.join(field.categories)}")
    return values


def _vectors(name: str, size: int, column: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    """float64 (n, size) of lists of numbers, or of such lists as JSON, which a CSV file has; a null one is NaN throughout."""
    found = np.full((len(column), size), np.nan)
    for index, value in enumerate(column):
        if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and np.isnan(value)):
            continue
        if isinstance(value, Mapping):
            raise RequestError(
                TITLE, f"row {index}: of {name!r} only the SHA-256 was logged, as it has many numbers. Give a copy of them in a spine"
            )
        try:
            numbers = np.array(msgspec.json.decode(value) if isinstance(value, str) else value, np.float64)
        except (msgspec.DecodeError, TypeError, ValueError):
            numbers = np.empty(0)
        if numbers.shape != (size,) or not np.isfinite(numbers).all():
            raise RequestError(TITLE, f"row {index}: {name!r} is no list of {size} finite numbers. Write one, in a CSV file as JSON")
        found[index] = numbers + 0.0
    return found


def _typed(name: str, kind: FieldType, column: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    if kind == "str":
        strings: NDArray[Any] = np.empty(len(column), dtype=object)
        strings[:] = [None if _is_null(value) else _text(name, index, value) for index, value in enumerate(column)]
        return strings
    if kind == "datetime":
        return _moments(name, column)
    if kind == "bool":
        column = [{"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value for value in column]
    numbers = _numbers(name, column)
    if kind == "int":
        if not np.array_equal(numbers[~np.isnan(numbers)], np.rint(numbers[~np.isnan(numbers)])):
            raise RequestError(TITLE, f"column {name!r} holds numbers that are not whole, where whole ones are declared")
        for index in np.flatnonzero(np.abs(numbers) >= INTEGER_ABS).tolist():     # equal may be rounded
            if abs(Decimal(str(column[index]))) > INTEGER_ABS:
                raise RequestError(TITLE, f"row {index}: {name!r} is {column[index]}, beyond 2^53, where numbers have gaps")
    return numbers


def _moments(name: str, column: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    """Instants that may be null: NaN there."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        null = np.isnat(column)
    else:
        null = np.fromiter(map(_is_null, column), np.bool_, len(column))
    moments = np.full(len(column), np.nan)
    given = np.flatnonzero(~null)
    moments[given] = instants_of(name, column[given] if isinstance(column, np.ndarray) else [column[i] for i in given.tolist()])
    return moments


def _numbers(name: str, column: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    numbers = np.empty(len(column))
    index = 0
    try:
        for index, value in enumerate(column):
            numbers[index] = np.nan if _is_null(value) or value == "" else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        text = repr(column[index])
        raise RequestError(TITLE, f"row {index}: {name!r} is {text if len(text) <= 40 else text[:40] + '...'}. Write numbers") from error
    if np.isinf(numbers).any():
        raise RequestError(TITLE, f"column {name!r} holds an infinity. Write null where a value is not known")
    return numbers + 0.0                                   # -0.0 becomes 0.0


def _text(name: str, index: int, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise RequestError(TITLE, f"row {index}: {name!r} is {value!r}, a {type(value).__name__}; the definitions say str")


def _is_null(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


# -- files and frames --------------------------------------------------------------------------------------------------

def _refuse_repeated(names: Iterable[str]) -> None:
    """Either of two could be meant. Columns without a name can be meant by nobody, so there may be several."""
    seen: set[str] = set()
    for name in names:
        if name in seen and name:
            raise RequestError(TITLE, f"it has two columns called {name!r}. Give one of them another name, or leave it out")
        seen.add(name)


def _from_file(path: Path) -> dict[str, Sequence[Any] | NDArray[Any]]:
    if path.is_dir():
        raise RequestError(TITLE, f"{path} is a folder. Give a .parquet or .csv file")
    match path.suffix.lower():
        case ".parquet":
            try:
                from pyarrow import parquet
            except ImportError as error:
                raise RequestError(TITLE, "reading Parquet needs pyarrow: pip install 'featureflow[frames]'") from error
            with parquet.ParquetFile(path) as file:
                return _from_arrow(file.read())
        case ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:    # what spreadsheets write begins with a byte order mark
                reader = csv.reader(file)
                names = next(reader, [])
                rows = []
                for row in reader:
                    if len(row) != len(names):
                        raise RequestError(TITLE, f"{path} line {reader.line_num} has {len(row)} fields, the first line names {len(names)}")
                    rows.append(row)
            _refuse_repeated(names)
            return {name: [row[place] or None for row in rows] for place, name in enumerate(names) if name}
        case other:
            raise RequestError(TITLE, f"{path}: files of type {other!r} are not read. Give .parquet or .csv")


def _from_arrow(table: Any) -> dict[str, Sequence[Any] | NDArray[Any]]:
    columns: dict[str, Sequence[Any] | NDArray[Any]] = {}
    _refuse_repeated(table.column_names)
    for name in filter(None, table.column_names):
        column = table.column(name)
        kind = str(column.type)
        if kind.startswith("timestamp"):
            if "tz=" not in kind:
                raise RequestError(
                    TITLE,
                    f"column {name!r} is a timestamp without a zone, so it names no instant. Write it as timestamp "
                    "with tz=UTC",
                )
            columns[name] = _from_timestamps(name, column)
        else:
            columns[name] = column.to_pylist()
    return columns


def _from_timestamps(name: str, column: Any) -> NDArray[Any]:
    """(n,) microseconds since 1970 UTC as int, None where there is none."""
    in_ns = UNIT_NS[column.type.unit]
    return np.array([None if value is None else value * in_ns // 1_000 for value in column.cast("int64").to_pylist()], dtype=object)


def _from_pandas(name: str, series: Any) -> Sequence[Any] | NDArray[Any]:
    kind = series.dtype
    if getattr(kind, "kind", "") == "M":
        if getattr(kind, "tz", None) is None:
            raise RequestError(
                TITLE,
                f"column {name!r} is a datetime without a zone, so it names no instant. Write df[{name!r}] = "
                f"df[{name!r}].dt.tz_localize('UTC')",
            )
        instants: NDArray[Any] = series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return instants
    if getattr(kind, "kind", "") in "iuf" and hasattr(series, "to_numpy") and not series.isna().any():
        numbers: NDArray[Any] = series.to_numpy()
        return numbers
    return list(series.astype(object))
