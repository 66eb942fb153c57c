"""Record values (JSON objects) to columns and back.

Whether a record is accepted is a pure function of its own bytes (and key): never of the batch that it came in, or of how
deep the caller's stack is. So the ingest worker, the history writer and a recomputation agree on every record.

Each value is decoded by itself. Joining the values into one JSON list is no faster (0.25 us a record, both) and can be
fooled: ``{"a": [{}`` followed by ``{}]}`` reads as one object, and makes room for a record that holds two.

A value becomes a struct of the source's types in one call; whatever that call refuses is looked at again field by
field, for a precise reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import compress
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, UnsetType
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import to_us
from featureflow.define.spec import Field, Source
from featureflow.kernel.events import Events

Reason = Literal[
    "undecodable", "missing_field", "wrong_type", "oversized", "out_of_range", "bad_key", "null_key", "tombstone"
]
"""Why a record is not an event.

undecodable    not one JSON object in UTF-8
missing_field  a field that is not nullable is absent
wrong_type     null where it may not be, or another JSON type than the field's; a time without a zone
oversized      the record, or a string, is longer than its bound
out_of_range   NaN, infinite, or too large to be computed with exactly
bad_key        an empty id, or a record key other than the field that the source promises
null_key       an id that is null
tombstone      the record has no value
"""

NESTING = 256                          # levels of lists and objects in one record; a decoder recurses
FLAT_BYTES = 2 * NESTING               # a record this short cannot nest deeper
_INTEGER = Annotated[int, Meta(ge=-limits.INTEGER_ABS, le=limits.INTEGER_ABS)]
_NUMBER = Annotated[float, Meta(gt=-limits.NUMBER_ABS, lt=limits.NUMBER_ABS)]
_INSTANT = Annotated[datetime, Meta(tz=True)]
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_NOT_FINITE = re.compile(rb"-?\b(?:NaN|Infinity)\b")
_JSON_TYPES = {b'"': "a string", b"{": "an object", b"[": "a list", b"t": "true", b"f": "false", b"n": "null"}
_WANTED = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false",
           "datetime": "an RFC 3339 string with a zone, or whole microseconds since 1970"}


@dataclass(frozen=True)
class Refusal:
    """A record that is not an event of its source. ``index`` is its place among the values given."""

    index: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Decoded:
    """``events`` in the order given; ``refused`` in that order too. ``kept`` (n,) is each event's place among the values."""

    events: Events
    refused: tuple[Refusal, ...]
    kept: NDArray[np.intp]


class _Refused(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail


class Decoder:
    """Decodes the records of one source. ``columns``: the fields wanted as columns, all of them by default; every field
    of every record is checked whichever are wanted."""

    def __init__(self, source: Source, columns: Sequence[str] | None = None) -> None:
        self.source = source
        wanted = set(source.by_name if columns is None else columns)
        gets = {field.name: attrgetter(f"f{i}") for i, field in enumerate(source.fields)}
        self._columns = [(f, gets[f.name]) for f in source.fields if f.name in wanted and f.type != "datetime"]
        self._instants = [(f, gets[f.name]) for f in source.fields if f.type == "datetime"]
        self._strings = [(f, gets[f.name]) for f in source.fields if f.type == "str"]
        self._wanted = wanted
        self._key = None if source.keyed_by is None else gets[source.keyed_by]
        self._struct = msgspec.defstruct(
            source.name, [_strict(i, f) for i, f in enumerate(source.fields)], gc=False, kw_only=True
        )
        self._decode = msgspec.json.Decoder(self._struct).decode
        raw = msgspec.defstruct(
            source.name, [(f"f{i}", Raw | UnsetType, msgspec.field(default=UNSET, name=f.name))
                          for i, f in enumerate(source.fields)]
        )
        self._decode_raw = msgspec.json.Decoder(raw).decode

    def decode(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        *,
        partition: int = 0,
        offsets: NDArray[np.int64] | None = None,
        timestamps_us: NDArray[np.int64] | None = None,
        append_time: bool = True,
    ) -> Decoded:
        """Events of the values that are, and a refusal for each that is not. Never raises for a value's sake.

        ``keys`` are the records' keys in the log; None where there are none yet (an event that is being posted). Offsets default to
        the places, timestamps to the event times.
        """
        rows, refused = self._rows(values)
        if keys is not None and self._key is not None:
            self._refuse_keys(rows, keys, refused)
        while True:
            live, kept = rows, np.arange(len(values), dtype=np.intp)
            if refused:
                present = [row is not None for row in rows]
                live, kept = list(compress(rows, present)), kept[present]
            instants = {field.name: _instants(list(map(get, live))) for field, get in self._instants}
            if not self._refuse_instants(rows, kept, instants, refused):
                break
        times_us = instants[self.source.time_field].astype(np.int64)
        columns = {field.name: _column(field, list(map(get, live))) for field, get in self._columns}
        columns |= {name: column.astype(np.float64) for name, column in instants.items() if name in self._wanted}
        events = Events(
            partition=partition,
            offsets=kept.astype(np.int64) if offsets is None else offsets[kept],
            times_us=times_us,
            timestamps_us=times_us if timestamps_us is None else timestamps_us[kept],
            columns=columns,
            append_time=append_time,
        )
        return Decoded(events, tuple(sorted(refused, key=lambda refusal: refusal.index)), kept)

    def _rows(self, values: Sequence[bytes | None]) -> tuple[list[Any], list[Refusal]]:
        """One struct per value, None for a refused one."""
        refused: list[Refusal] = []
        rows: list[Any]
        longest = max(map(len, filter(None, values)), default=0)
        try:
            rows = list(map(self._decode, values)) if longest <= FLAT_BYTES or all(map(_plain, values)) else []  # type: ignore[arg-type]  # a tombstone raises TypeError
        except (ValueError, TypeError):                          # msgspec's and Unicode's errors are ValueErrors
            rows = []
        if len(rows) < len(values):
            rows = []
            for index, value in enumerate(values):
                try:
                    rows.append(self._row(value))
                except _Refused as why:
                    rows.append(None)
                    refused.append(Refusal(index, why.reason, why.detail))
        for field, get in self._strings:
            if longest > _bound(field):                          # escapes only lengthen: a string is no longer than its record
                for index, row in enumerate(rows):
                    text = None if row is None else get(row)
                    if text is not None and len(text) > _bound(field) // 4 and len(text.encode()) > _bound(field):
                        refused.append(Refusal(index, "oversized", _too_long(field, text)))
                        rows[index] = None
        return rows, refused

    def _row(self, value: bytes | None) -> Any:
        if value is None:
            raise _Refused("tombstone", "the record has no value")
        if len(value) > limits.RECORD_BYTES:
            raise _Refused("oversized", f"the record is {len(value)} bytes; at most {limits.RECORD_BYTES} are read")
        if not _plain(value) and _depth(value) > NESTING:
            raise _Refused("undecodable", f"lists and objects are nested deeper than {NESTING}")
        try:
            return self._decode(value)
        except ValueError:
            return self._row_by_field(value)

    def _row_by_field(self, value: bytes) -> Any:
        try:
            raw = self._decode_raw(value)
        except ValueError as error:
            if _NOT_FINITE.search(_STRINGS.sub(b'""', value)):
                raise _Refused("out_of_range", "NaN and Infinity are not JSON and cannot be aggregated; send null") from None
            raise _Refused("undecodable", f"{error}") from None
        return self._struct(**{f"f{i}": _field_value(f, getattr(raw, f"f{i}")) for i, f in enumerate(self.source.fields)})

    def _refuse_keys(self, rows: list[Any], keys: Sequence[bytes | None], refused: list[Refusal]) -> None:
        assert self._key is not None
        for index, (row, key) in enumerate(zip(rows, keys, strict=True)):
            if row is None or str(self._key(row)).encode() == key:
                continue
            found = "the record has no key" if key is None else f"the record's key {_shown(key)!r} is another"
            refused.append(Refusal(
                index, "bad_key",
                f"{found}; source {self.source.name!r} promises the field {self.source.keyed_by!r} as the key, "
                "so that all of an entity's events are in one partition",
            ))
            rows[index] = None

    def _refuse_instants(
        self, rows: list[Any], kept: NDArray[np.intp], instants: dict[str, NDArray[Any]], refused: list[Refusal]
    ) -> bool:
        """Refuse rows with an instant that float64 cannot hold exactly. Whether there were any."""
        found = False
        for name, column in instants.items():
            for index in kept[np.abs(column) > limits.INTEGER_ABS].tolist():
                found = True
                if rows[index] is not None:
                    rows[index] = None
                    refused.append(Refusal(
                        index, "out_of_range", f"field {name!r} is more than 285 years from 1970 (2^53 microseconds)"
                    ))
        return found


class Encoder:
    """Writes the records of one source, and refuses what its ``Decoder`` would refuse."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._decoder = Decoder(source, columns=())

    def encode(self, values: Mapping[str, Any]) -> bytes:
        """One event as a record's value: JSON, datetimes in RFC 3339 UTC (integers are taken for microseconds).

        Raises ValueError with the refusal's text, and for a field that the source does not have.
        """
        name = self.source.name
        unknown = [field for field in values if field not in self.source.by_name]
        if unknown:
            raise ValueError(f"event {name!r} has no field {unknown[0]!r}; its fields are {', '.join(self.source.by_name)}")
        plain = {field: _plain_value(self.source.by_name[field], value) for field, value in values.items()}
        try:
            data = msgspec.json.encode(plain)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"event {name!r} is not JSON: {error}") from None
        for refusal in self._decoder.decode([data]).refused:
            raise ValueError(f"event {name!r} would be refused as {refusal.reason}: {refusal.detail}")
        return data


def encode(source: Source, values: Mapping[str, Any]) -> bytes:
    """``Encoder(source).encode(values)``, for one event; keep an ``Encoder`` for many."""
    return Encoder(source).encode(values)


def key_of(source: Source, values: Mapping[str, Any]) -> bytes | None:
    """The record key that the source promises for this event, or None where it promises none."""
    return None if source.keyed_by is None else str(values[source.keyed_by]).encode()


# -- one field ---------------------------------------------------------------------------------------------------------

def _bound(field: Field) -> int:
    return min(field.max_bytes, limits.KEY_BYTES) if field.entity else field.max_bytes


def _strict(i: int, field: Field) -> tuple[str, Any, Any]:
    """A field of the struct that records are decoded to. It takes what ``_field_value`` takes, with the same values, but for
    strings between ``_bound`` characters and ``_bound`` bytes and instants that are too far: ``Decoder`` looks at these after it."""
    kinds: dict[str, Any] = {
        "str": Annotated[str, Meta(min_length=1 if field.entity else 0, max_length=_bound(field))],
        "int": _INTEGER, "float": _NUMBER, "bool": bool, "datetime": _INSTANT | _INTEGER,
    }
    kind = kinds[field.type]
    if field.nullable:
        return f"f{i}", kind | None, msgspec.field(default=None, name=field.name)
    return f"f{i}", kind, msgspec.field(name=field.name)


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "str": msgspec.json.Decoder(str).decode,
    "int": msgspec.json.Decoder(int).decode,
    "float": msgspec.json.Decoder(float).decode,
    "bool": msgspec.json.Decoder(bool).decode,
    "datetime": msgspec.json.Decoder(datetime | int).decode,
}


def _field_value(field: Field, raw: Raw | UnsetType) -> Any:
    """The exact rules for one field of one record; raises _Refused."""
    if raw is UNSET:
        if field.nullable:
            return None
        raise _Refused("missing_field", f"field {field.name!r} is absent")
    data = bytes(raw)
    if data == b"null":
        if field.nullable:
            return None
        if field.entity:
            raise _Refused("null_key", f"field {field.name!r}, the id of {field.entity!r}, is null")
        raise _Refused("wrong_type", f"field {field.name!r} is null and is not declared nullable")
    number = data[:1] not in _JSON_TYPES
    try:
        value = _DECODERS[field.type](data)
    except (msgspec.ValidationError, OverflowError):
        fits = number and (field.type == "float" or (field.type in ("int", "datetime") and not re.search(rb"[.eE]", data)))
        if fits:
            raise _Refused("out_of_range", f"field {field.name!r}: {_shown(data)} is too large") from None
        shown = _JSON_TYPES.get(data[:1], "the number") + (f" {_shown(data)}" if number or data[:1] == b'"' else "")
        raise _Refused("wrong_type", f"field {field.name!r} should be {_WANTED[field.type]}, is {shown}") from None
    except ValueError as error:
        raise _Refused("undecodable", f"field {field.name!r}: {error}") from None
    return _CHECKS[field.type](field, value)


def _checked_string(field: Field, value: str) -> str:
    if len(value.encode()) > _bound(field):
        raise _Refused("oversized", _too_long(field, value))
    if field.entity and not value:
        raise _Refused("bad_key", f"field {field.name!r}, the id of {field.entity!r}, is empty")
    return value


def _checked_integer(field: Field, value: int) -> int:
    if abs(value) > limits.INTEGER_ABS:
        raise _Refused("out_of_range", f"field {field.name!r}: {value} is beyond 2^53, where numbers have gaps")
    return value


def _checked_number(field: Field, value: float) -> float:
    if not abs(value) < limits.NUMBER_ABS:
        raise _Refused("out_of_range", f"field {field.name!r}: {value} is beyond 2^63 and cannot be summed exactly")
    return value


def _checked_instant(field: Field, value: datetime | int) -> datetime | int:
    if isinstance(value, int):
        return _checked_integer(field, value)
    if value.tzinfo is None:
        raise _Refused("wrong_type", f"field {field.name!r}: {value.isoformat()} has no time zone, so it names no instant; add Z")
    return value


def _checked_bool(field: Field, value: bool) -> bool:
    return value


_CHECKS: dict[str, Callable[[Field, Any], Any]] = {
    "str": _checked_string, "int": _checked_integer, "float": _checked_number,
    "bool": _checked_bool, "datetime": _checked_instant,
}


# -- columns -----------------------------------------------------------------------------------------------------------

def _column(field: Field, values: list[Any]) -> NDArray[Any]:
    if field.type == "str":
        strings: NDArray[Any] = np.empty(len(values), dtype=object)
        strings[:] = values
        return strings
    numbers: NDArray[np.float64] = np.array(values, dtype=np.float64)     # None becomes NaN
    if field.type == "float":
        numbers += 0.0                                                    # -0.0 + 0.0 is 0.0
    return numbers


def _instants(values: list[Any]) -> NDArray[Any]:
    """Microseconds of ints and aware datetimes: int64, or float64 with NaN where there is a None.

    A datetime's float seconds are only rounded to whole ones, which is exact; its microseconds are added as integers.
    """
    kinds = set(map(type, values))
    if kinds <= {int}:
        return np.array(values, dtype=np.int64)
    if kinds == {datetime}:
        parts = np.array([value.microsecond for value in values], dtype=np.int64)
        seconds = np.array([value.timestamp() for value in values])
        whole: NDArray[np.int64] = np.rint(seconds - parts * 1e-6).astype(np.int64)
        return whole * 1_000_000 + parts
    mixed = [to_us(value) if isinstance(value, datetime) else value for value in values]
    return np.array(mixed, dtype=np.float64 if None in mixed else np.int64)


# -- text --------------------------------------------------------------------------------------------------------------

def _plain_value(field: Field, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"field {field.name!r} is {value}; NaN and infinities cannot be aggregated, use None")
    if isinstance(value, datetime):                 # a naive one is written without a zone, for the decoder to refuse
        aware = value.astimezone(UTC) if value.tzinfo is not None else value
        return aware.isoformat().replace("+00:00", "Z")
    return value


def _too_long(field: Field, text: str) -> str:
    return f"field {field.name!r} is {len(text.encode())} bytes; at most {_bound(field)} are kept"


def _plain(value: bytes) -> bool:
    """Whether the record is surely neither too long nor nested too deep."""
    return len(value) <= FLAT_BYTES or (
        len(value) <= limits.RECORD_BYTES and value.count(b"[") + value.count(b"{") <= NESTING
    )


def _depth(value: bytes) -> int:
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", value)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _shown(data: bytes) -> str:
    text = data.decode(errors="replace")
    return text if len(text) <= 80 else f"{text[:77]}..."
