"""The rules for one field of a record: which JSON values it takes, and the column that they become."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, UnsetType
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import to_us
from featureflow.define.spec import Field

Reason = Literal[
    "undecodable", "missing_field", "wrong_type", "wrong_length", "unknown_category", "oversized", "out_of_range", "bad_key",
    "null_key", "tombstone", "unknown_schema",
]
"""Why a record is not an event.

undecodable    not one JSON object in UTF-8; of another format: cut off, or not what its schema says
missing_field  a field that is not nullable is absent
wrong_type     null where it may not be, or another JSON type than the field's; a time without a zone
wrong_length   a vector of another size than the field's
unknown_category  a string that is none of the field's categories
oversized      the record, or a string, is longer than its bound
out_of_range   NaN, infinite, or too large to be computed with exactly
bad_key        an empty id, or a record key other than the field that the source promises
null_key       an id that is null
tombstone      the record has no value
unknown_schema the registry has no schema of the record's id, or one by which records cannot be read
"""

_INTEGER = Annotated[int, Meta(ge=-limits.INTEGER_ABS, le=limits.INTEGER_ABS)]
_NUMBER = Annotated[float, Meta(gt=-limits.NUMBER_ABS, lt=limits.NUMBER_ABS)]
_INSTANT = Annotated[datetime, Meta(tz=True)]
_JSON_TYPES = {b'"': "a string", b"{": "an object", b"[": "a list", b"t": "true", b"f": "false", b"n": "null"}
_WANTED = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false",
           "datetime": "an RFC 3339 string with a zone, or whole microseconds since 1970", "vector": "a list of numbers"}


class Refused(Exception):
    """A value, or its record, is refused."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail


def bound(field: Field) -> int:
    """The most bytes of UTF-8 that a string field may have."""
    return min(field.max_bytes, limits.KEY_BYTES) if field.entity else field.max_bytes


def struct_field(i: int, field: Field) -> tuple[str, Any, Any]:
    """A field of the struct that records are decoded to. It takes what ``value_of`` takes, with the same values, but for
    strings between ``bound`` characters and ``bound`` bytes and instants that are too far: ``Decoder`` looks at these after it."""
    kinds: dict[str, Any] = {
        "str": Annotated[str, Meta(min_length=1 if field.entity else 0, max_length=bound(field))],
        "int": _INTEGER, "float": _NUMBER, "bool": bool, "datetime": _INSTANT | _INTEGER,
        "vector": Annotated[list[_NUMBER], Meta(min_length=field.size, max_length=field.size)],
    }
    kind = Literal[field.categories] if field.categories else kinds[field.type]
    if field.nullable:
        return f"f{i}", kind | None, msgspec.field(default=None, name=field.name)
    return f"f{i}", kind, msgspec.field(name=field.name)


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "str": msgspec.json.Decoder(str).decode,
    "int": msgspec.json.Decoder(int).decode,
    "float": msgspec.json.Decoder(float).decode,
    "bool": msgspec.json.Decoder(bool).decode,
    "datetime": msgspec.json.Decoder(datetime | int).decode,
    "vector": msgspec.json.Decoder(list[Raw]).decode,
}


def value_of(field: Field, raw: Raw | UnsetType) -> Any:
    """The exact rules for one field of one record; raises Refused."""
    if raw is UNSET:
        if field.nullable:
            return None
        raise Refused("missing_field", f"field {field.name!r} is absent")
    data = bytes(raw)
    if data == b"null":
        if field.nullable:
            return None
        if field.entity:
            raise Refused("null_key", f"field {field.name!r}, the id of {field.entity!r}, is null")
        raise Refused("wrong_type", f"field {field.name!r} is null and is not declared nullable")
    number = data[:1] not in _JSON_TYPES
    try:
        value = _DECODERS[field.type](data)
    except (msgspec.ValidationError, OverflowError):
        fits = number and (field.type == "float" or (field.type in ("int", "datetime") and not re.search(rb"[.eE]", data)))
        if fits:
            raise Refused("out_of_range", f"field {field.name!r}: {shown(data)} is too large") from None
        got = _JSON_TYPES.get(data[:1], "the number") + (f" {shown(data)}" if number or data[:1] == b'"' else "")
        raise Refused("wrong_type", f"field {field.name!r} should be {_WANTED[field.type]}, is {got}") from None
    except ValueError as error:
        raise Refused("undecodable", f"field {field.name!r}: {error}") from None
    return _CHECKS[field.type](field, value)


def _checked_string(field: Field, value: str) -> str:
    if len(value.encode()) > bound(field):
        raise Refused("oversized", too_long(field, value))
    if field.entity and not value:
        raise Refused("bad_key", f"field {field.name!r}, the id of {field.entity!r}, is empty")
    if field.categories and value not in field.categories:
        known = ", ".join(map(repr, field.categories[:10])) + ", ..." * (len(field.categories) > 10)
        raise Refused("unknown_category", f"field {field.name!r}: {shown(value.encode())!r} is none of {known}")
    return value


def _checked_integer(field: Field, value: int) -> int:
    if abs(value) > limits.INTEGER_ABS:
        raise Refused("out_of_range", f"field {field.name!r}: {value} is beyond 2^53, where numbers have gaps")
    return value


def _checked_number(field: Field, value: float) -> float:
    if not abs(value) < limits.NUMBER_ABS:
        raise Refused("out_of_range", f"field {field.name!r}: {value} is beyond 2^63 and cannot be summed exactly")
    return value


def _checked_instant(field: Field, value: datetime | int) -> datetime | int:
    if isinstance(value, int):
        return _checked_integer(field, value)
    if value.tzinfo is None:
        raise Refused("wrong_type", f"field {field.name!r}: {value.isoformat()} has no time zone, so it names no instant; add Z")
    return value


def _checked_bool(field: Field, value: bool) -> bool:
    return value


def _checked_vector(field: Field, value: list[Raw]) -> list[float]:
    if len(value) != field.size:
        raise Refused("wrong_length", f"field {field.name!r} has {len(value)} numbers; its vectors have {field.size}")
    return [value_of(Field(name=f"{field.name}[{i}]", type="float"), number) for i, number in enumerate(value)]


_CHECKS: dict[str, Callable[[Field, Any], Any]] = {
    "str": _checked_string, "int": _checked_integer, "float": _checked_number,
    "bool": _checked_bool, "datetime": _checked_instant, "vector": _checked_vector,
}


def column(field: Field, values: list[Any]) -> NDArray[Any]:
    """The values of one field as a column, see ``kernel.events.Events``."""
    if field.type == "str":
        return np.fromiter(values, dtype=object, count=len(values))
    if field.type == "vector":
        unknown = [math.nan] * field.size
        values = [unknown if value is None else value for value in values]
        return np.array(values, dtype=np.float64).reshape(len(values), field.size) + 0.0
    numbers: NDArray[np.float64] = np.array(values, dtype=np.float64)     # None becomes NaN
    if field.type == "float":
        numbers += 0.0                                                    # -0.0 + 0.0 is 0.0
    return numbers


def instants(values: list[Any]) -> NDArray[Any]:
    """Microseconds of ints and aware datetimes: int64, or float64 with NaN where there is a None.

    A datetime's float seconds are only rounded to whole ones, which is exact; its microseconds are added as integers.
    """
    try:
        return np.fromiter(values, np.int64, len(values))
    except TypeError:                                                     # not all of them are ints
        pass
    if set(map(type, values)) == {datetime}:
        parts = np.array([value.microsecond for value in values], dtype=np.int64)
        seconds = np.array([value.timestamp() for value in values])
        whole: NDArray[np.int64] = np.rint(seconds - parts * 1e-6).astype(np.int64)
        return whole * 1_000_000 + parts
    mixed = [to_us(value) if isinstance(value, datetime) else value for value in values]
    return np.array(mixed, dtype=np.float64 if None in mixed else np.int64)


def as_json(field: Field, value: Any) -> Any:
    """A Python value as one that JSON has; raises ValueError for NaN and infinities."""
    if isinstance(value, np.generic):
        value = value.item()
    if field.type == "vector" and isinstance(value, list | tuple | np.ndarray):
        return [as_json(Field(name=field.name, type="float"), number) for number in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"field {field.name!r} is {value}; NaN and infinities cannot be aggregated, use None")
    if isinstance(value, datetime):                 # a naive one is written without a zone, for the decoder to refuse
        aware = value.astimezone(UTC) if value.tzinfo is not None else value
        return aware.isoformat().replace("+00:00", "Z")
    return value


def too_long(field: Field, text: str) -> str:
    """The refusal of a string beyond its bound."""
    return f"field {field.name!r} is {len(text.encode())} bytes; at most {bound(field)} are kept"


def shown(data: bytes) -> str:
    """Bytes as text for a message, cut where long."""
    text = data.decode(errors="replace")
    return text if len(text) <= 80 else f"{text[:77]}..."
