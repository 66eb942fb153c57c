"""Records of another format than JSON, as their fields' plain values; and these held to the rules of the fields.

Whoever speaks a format (``store.schemas``) turns a record into Python values by field name, and says nothing of their meaning.
Which value a field takes is told here, by the rules of JSON: a record means the same in every format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw

from featureflow.define.spec import Field
from featureflow.kernel.field import Refused, value_of

WRITABLE = (str, int, float, datetime, list, tuple, dict)     # as JSON; bool is an int
_NAMES: dict[type, str] = {bytes: "bytes"}


class Records(Protocol):
    """Reads one source's records."""

    def read(self, values: Sequence[bytes]) -> list[Mapping[str, Any] | Refused]:
        """Each record as the values of its fields, or why it is none. A field that the record lacks is not among them.

        Never raises for a record's sake. Raises UnavailableError where what describes the records cannot be asked now.
        """
        ...


def given(field: Field, values: Mapping[str, Any]) -> Any:
    """The exact rules for one field of one record; raises Refused. It takes what the struct of ``kernel.decode`` takes."""
    if field.name not in values:
        return value_of(field, UNSET)
    value = values[field.name]
    if value is None:
        return value_of(field, Raw(b"null"))
    _refuse_strange(field, value)
    return value_of(field, Raw(msgspec.json.encode(value)))


def writable(value: Any) -> Any:
    """Decimals as the nearest float, also in lists, and UUIDs as they are written: what other formats have and JSON has not."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [float(one) if isinstance(one, Decimal) else one for one in value]
    return value


def _refuse_strange(field: Field, value: Any) -> None:
    """Raises Refused for what JSON has no word for, or another."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, float) and not math.isfinite(one):
            raise Refused("out_of_range", f"field {field.name!r} is {one}, which cannot be aggregated; send null")
        if one is not None and not isinstance(one, WRITABLE):
            raise Refused("wrong_type", f"field {field.name!r} is {_NAMES.get(type(one), f'a {type(one).__name__}')}")
