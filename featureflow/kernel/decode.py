"""Record values (JSON objects) to columns and back.

Whether a record is accepted is a pure function of its own bytes (and key): never of the batch that it came in, or of how
deep the caller's stack is. So the ingest worker, the history writer and a recomputation agree on every record.

Each value is decoded by itself. Joining the values into one JSON list is no faster (0.25 us a record, both) and can be
fooled: ``{"a": [{}`` followed by ``{}]}`` reads as one object, and makes room for a record that holds two.

A value becomes a struct of the source's types in one call; whatever that call refuses is looked at again field by
field, for a precise reason. A large batch is decoded by the chunk: the objects of one take the memory of those before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType
from numpy.typing import NDArray

from featureflow import limits
from featureflow.define.spec import Source
from featureflow.kernel.events import Events
from featureflow.kernel.field import (
    Reason,
    Refused,
    as_json,
    bound,
    column,
    instants,
    shown,
    struct_field,
    too_long,
    value_of,
)
from featureflow.kernel.nesting import FLAT_BYTES, is_too_deep, surely_flat
from featureflow.kernel.record import Records, given, writable

CHUNK = 2_000                          # records; their objects fit into a core's own cache
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)  # one that breaks off goes to the end, so all is looked at once
_NOT_FINITE = re.compile(rb"-?\b(?:NaN|Infinity)\b")


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


@dataclass(frozen=True)
class _Chunk:
    """Some of the records: as ``Decoded``, the columns without the rest of the events."""

    kept: NDArray[np.intp]
    times_us: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]
    refused: list[Refusal]


class Decoder:
    """Decodes the records of one source. ``columns``: the fields wanted as columns, all of them by default; every field
    of every record is checked whichever are wanted. ``records`` reads them where they are not JSON."""

    def __init__(self, source: Source, columns: Sequence[str] | None = None, records: Records | None = None) -> None:
        self.source = source
        self._records = records
        wanted = set(source.by_name if columns is None else columns)
        gets = {field.name: attrgetter(f"f{i}") for i, field in enumerate(source.fields)}
        self._columns = [f for f in source.fields if f.name in wanted and f.type != "datetime"]
        self._instants = [f for f in source.fields if f.type == "datetime"]
        self._key = None if source.keyed_by is None else source.by_name[source.keyed_by]
        read = (*self._columns, *self._instants, *(() if self._key is None else (self._key,)))
        self._read = {field.name: gets[field.name] for field in read}
        self._strings = [(f, gets[f.name]) for f in source.fields if f.type == "str"]
        self._wanted = wanted
        self._struct = msgspec.defstruct(
            source.name, [struct_field(i, f) for i, f in enumerate(source.fields)], gc=False, kw_only=True
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
        """Events of the values that are, and a refusal for each that is not. Never raises for a value's sake; UnavailableError where
        what reads the records cannot be asked now.

        ``keys`` are the records' keys in the log; None where there are none yet (an event that is being posted). Offsets default to
        the places, timestamps to the event times.
        """
        chunks = [
            self._chunk(list(values[first : first + CHUNK]), None if keys is None else list(keys[first : first + CHUNK]), first)
            for first in range(0, max(1, len(values)), CHUNK)
        ]
        refused = tuple(refusal for chunk in chunks for refusal in chunk.refused)
        kept, times_us = _joined([chunk.kept for chunk in chunks]), _joined([chunk.times_us for chunk in chunks])
        if refused:
            offsets, timestamps_us = (None if given is None else given[kept] for given in (offsets, timestamps_us))
        events = Events(
            partition=partition,
            offsets=kept.astype(np.int64) if offsets is None else offsets,
            times_us=times_us,
            timestamps_us=times_us if timestamps_us is None else timestamps_us,
            columns={name: _joined([chunk.columns[name] for chunk in chunks]) for name in chunks[0].columns},
            append_time=append_time,
        )
        return Decoded(events, refused, kept)

    def _chunk(self, values: Sequence[bytes | None], keys: Sequence[bytes | None] | None, first: int) -> _Chunk:
        """Of values that begin at place ``first``."""
        rows, refused = self._rows(values)
        found = True
        while found:                                             # look again at those that are left
            live, kept = rows, np.arange(len(values), dtype=np.intp)
            if refused:
                present = [row is not None for row in rows]
                live, kept = list(compress(rows, present)), kept[present]
            read = {name: list(map(get, live)) for name, get in self._read.items()}
            times = {field.name: instants(read[field.name]) for field in self._instants}
            found = keys is not None and self._refuse_keys(rows, kept, read, keys, refused)
            found = found or self._refuse_instants(rows, kept, times, refused)
        columns = {field.name: column(field, read[field.name]) for field in self._columns}
        columns |= {name: instants_us.astype(np.float64) for name, instants_us in times.items() if name in self._wanted}
        refused = [replace(one, index=first + one.index) for one in sorted(refused, key=lambda refusal: refusal.index)]
        return _Chunk(first + kept, times[self.source.time_field].astype(np.int64), columns, refused)

    def _rows(self, values: Sequence[bytes | None]) -> tuple[list[Any], list[Refusal]]:
        """One struct per value, None for a refused one."""
        if self._records is not None:
            return self._rows_of(self._records, values)
        refused: list[Refusal] = []
        rows: list[Any]
        longest = max(map(len, filter(None, values)), default=0)
        try:
            flat = longest <= FLAT_BYTES or (longest <= limits.RECORD_BYTES and all(map(surely_flat, values)))  # type: ignore[arg-type]
            rows = list(map(self._decode, values)) if flat else []   # type: ignore[arg-type]  # a tombstone raises TypeError
            _refuse_other_text(b"".join(values))                 # type: ignore[arg-type]  # there is none
        except (ValueError, TypeError):                          # msgspec's and Unicode's errors are ValueErrors
            rows = []
        if len(rows) < len(values):
            rows = []
            for index, value in enumerate(values):
                try:
                    rows.append(self._row(value))
                except Refused as why:
                    rows.append(None)
                    refused.append(Refusal(index, why.reason, why.detail))
        self._refuse_long(rows, longest, refused)
        return rows, refused

    def _rows_of(self, records: Records, values: Sequence[bytes | None]) -> tuple[list[Any], list[Refusal]]:
        """The same of records that are not JSON. Each value is converted, and by exact rules where that fails."""
        refused: list[Refusal] = []
        rows: list[Any] = [None] * len(values)
        readable = [value for value in values if value is not None and len(value) <= limits.RECORD_BYTES]
        found = iter(records.read(readable))
        longest = 0
        for index, value in enumerate(values):
            try:
                if value is None:
                    raise Refused("tombstone", "the record has no value")
                if len(value) > limits.RECORD_BYTES:
                    raise Refused("oversized", too_large(value))
                record = next(found)
                if isinstance(record, Refused):
                    raise record
                longest = max(longest, len(value))
                rows[index] = self._row_of(record)
            except Refused as why:
                refused.append(Refusal(index, why.reason, why.detail))
        self._refuse_long(rows, longest, refused)
        return rows, refused

    def _row_of(self, record: Mapping[str, Any]) -> Any:
        record = {name: writable(value) for name, value in record.items()}
        try:
            return msgspec.convert(record, self._struct)
        except ValueError:
            return self._struct(**{f"f{i}": given(f, record) for i, f in enumerate(self.source.fields)})

    def _refuse_long(self, rows: list[Any], longest: int, refused: list[Refusal]) -> None:
        """Refuse rows with a string of more bytes than its bound; ``longest``: the bytes of the longest record."""
        for field, get in self._strings:
            if longest > bound(field):                          # escapes only lengthen: a string is no longer than its record
                for index, row in enumerate(rows):
                    text = None if row is None else get(row)
                    if text is not None and len(text) > bound(field) // 4 and len(text.encode()) > bound(field):
                        refused.append(Refusal(index, "oversized", too_long(field, text)))
                        rows[index] = None

    def _row(self, value: bytes | None) -> Any:
        if value is None:
            raise Refused("tombstone", "the record has no value")
        if len(value) > limits.RECORD_BYTES:
            raise Refused("oversized", too_large(value))
        if is_too_deep(value):
            raise Refused("undecodable", f"lists and objects are nested deeper than {limits.JSON_DEPTH}")
        try:
            row = self._decode(value)
        except ValueError:
            row = self._row_by_field(value)
        try:
            _refuse_other_text(value)
        except UnicodeDecodeError as error:
            raise Refused("undecodable", f"the record is not UTF-8: {error.reason} at byte {error.start}") from None
        return row

    def _row_by_field(self, value: bytes) -> Any:
        try:
            raw = self._decode_raw(value)
        except ValueError as error:
            if _NOT_FINITE.search(_STRINGS.sub(b'""', value)):
                raise Refused("out_of_range", "NaN and Infinity are not JSON and cannot be aggregated; send null") from None
            raise Refused("undecodable", f"{error}") from None
        return self._struct(**{f"f{i}": value_of(f, getattr(raw, f"f{i}")) for i, f in enumerate(self.source.fields)})

    def _refuse_keys(
        self, rows: list[Any], kept: NDArray[np.intp], read: dict[str, list[Any]], keys: Sequence[bytes | None], refused: list[Refusal]
    ) -> bool:
        """Refuse rows with another key than the source promises. Whether there were any."""
        if self._key is None:
            return False
        texts = read[self._key.name] if self._key.type == "str" else list(map(str, read[self._key.name]))
        if len(kept) == len(keys) and _equal(texts, keys):
            return False
        found = False
        for index, text in zip(kept.tolist(), texts, strict=True):
            if (key := keys[index]) == text.encode():
                continue
            found = True
            has = "the record has no key" if key is None else f"the record's key {shown(key)!r} is another"
            refused.append(Refusal(
                index, "bad_key",
                f"{has}; source {self.source.name!r} promises the field {self.source.keyed_by!r} as the key, "
                "so that all of an entity's events are in one partition",
            ))
            rows[index] = None
        return found

    def _refuse_instants(
        self, rows: list[Any], kept: NDArray[np.intp], times: dict[str, NDArray[Any]], refused: list[Refusal]
    ) -> bool:
        """Refuse rows with an instant that float64 cannot hold exactly. Whether there were any."""
        found = False
        for name, instants_us in times.items():
            for index in kept[np.abs(instants_us) > limits.INTEGER_ABS].tolist():
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
        written = {field: as_json(self.source.by_name[field], value) for field, value in values.items()}
        try:
            data = msgspec.json.encode(written)
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


def too_large(value: bytes) -> str:
    """What is said of a record that is longer than is read."""
    return f"the record is {len(value)} bytes; at most {limits.RECORD_BYTES} are read"


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _equal(texts: list[str], keys: Sequence[bytes | None]) -> bool:
    """Whether each text is the key beside it. False, which is looked at again, also where a text has a NUL."""
    try:
        joined = b"\0".join(keys)         # type: ignore[arg-type]  # None raises TypeError
    except TypeError:
        return False
    return len(texts) == len(keys) and joined.count(b"\0") == max(0, len(keys) - 1) and "\0".join(texts).encode() == joined


def _refuse_other_text(values: bytes) -> None:
    """Raises UnicodeDecodeError where records, joined, are not UTF-8: msgspec looks only at the strings that it keeps.

    An event begins and ends in ASCII, so that one cannot complete another's last character.
    """
    if not values.isascii():
        values.decode()
