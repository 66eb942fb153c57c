"""A view's values as any Redis client can read them: one JSON object for an entity.

    {"view": "user_now@5f0c…", "as_of": "2026-03-01T08:15:00.250000Z", "spent_1h": 12.5, "last_shop": null, "last_amounts": [3.0, null]}

Each feature's name with its value: a number, a string, a list where it is a sequence, and null where it is undefined. The view's id stands
first, so that whose values they are is told by how they begin.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from featureflow.clock import from_us
from featureflow.define.spec import View
from featureflow.kernel.finalize import Values

NUMBER_BYTES = 24                          # of the longest, as -2.2250738585072014e-308
PUNCTUATION_BYTES = 4                      # around a name or a value

_json = msgspec.json.Encoder()             # NaN is null


def begins(view_id: str) -> bytes:
    """How the values of this view version begin, and no other's."""
    return b'{"view":%b,' % _json.encode(view_id)


def about_bytes(view: View) -> int:
    """How large a value is, about: where all numbers are as long as any, and no string has what JSON escapes."""
    return sum(
        len(feature.name) + PUNCTUATION_BYTES + feature.size * (PUNCTUATION_BYTES + (feature.aggregation.width or NUMBER_BYTES))
        for feature in view.features
    )


def encode(view: View, values: Values, as_of_us: int) -> Sequence[bytes]:
    """The n entities' values, finalized for that instant."""
    columns: list[Sequence[object]] = []
    for number, (feature, span) in enumerate(zip(view.features, view.spans, strict=True)):
        found = values.texts[number] if feature.is_text else values.values[:, span]
        columns.append(found.tolist() if feature.is_sequence else found[:, 0].tolist())
    names, as_of = [feature.name for feature in view.features], from_us(as_of_us).isoformat().replace("+00:00", "Z")
    # No two features share a name, and none has one of the two: ``define.view`` sees to it.
    front = {"view": view.id, "as_of": as_of}
    return [_json.encode(front | dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
