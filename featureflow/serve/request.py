"""A request on its way: what was asked, checked against the definitions, and where its answer goes.

Request   one call: some rows, one deadline, one future
Row       one prediction to make: an id per view, and the request's own inputs as floats or strings
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import to_us
from featureflow.errors import RequestError
from featureflow.models.ensemble import Loaded
from featureflow.pending import Pending
from featureflow.reading.plan import ModelPlan
from featureflow.serve.answer import Reply
from featureflow.serve.deadline import Deadline
from featureflow.serve.priority import Priority
from featureflow.serve.ranking import Ranking
from featureflow.serve.wire.v1 import EntityId

if TYPE_CHECKING:
    from featureflow.serve.assigned import Assigned
    from featureflow.serve.sent import Sent

ContextInput = float | str | list[float] | NDArray[np.float64] | None


class Row(msgspec.Struct, eq=False):  # structs are made in a third of the time that classes with a constructor of their own take
    """One prediction to make.

    ``ids``: one per join key of the model, in its order. ``inputs``: one per request input of the model, in its order: a number, a string,
    a vector's numbers (of large ones an array), or None where it is null. ``entities`` and ``context`` are what was sent, as anything that
    msgspec encodes to that JSON; of large vectors the SHA-256.
    """

    entities: Any
    context: Any
    ids: tuple[EntityId, ...]
    inputs: tuple[ContextInput, ...]


class Request(msgspec.Struct, eq=False):
    """A score request that was admitted, on its way through a turn. ``future`` is what its connection waits for.

    ``kind`` is what its work is like (the model's name), ``cost_s`` what admission takes that work to be, in seconds.
    """

    id: str
    plan: ModelPlan
    loaded: Loaded
    rows: list[Row]
    deadline: Deadline
    future: Pending[Reply]
    explain: bool
    trace: str  # W3C traceparent, or empty
    ranking: Ranking | None = None  # of rows that are candidates
    assigned: Assigned | None = None  # None: the caller named a version, or nothing is released
    kind: str = ""
    client: str = ""
    priority: Priority = Priority.NORMAL
    again: tuple[Sent, Sequence[int] | None] | None = None  # what was sent, and which of its rows these are: for a shadow
    usual_s: float = inf  # the deadline of most who ask for the same
    cost_s: float = 0.0


def check_id(value: EntityId, kind: str, place: str) -> None:
    """Raises RequestError (422) unless the id is of the entity's type and within limits; null is allowed."""
    if kind == "str":
        if type(value) is str:
            if not value:
                raise RequestError(
                    "Id is empty",
                    f"{place} is an empty string; send the id, or null where there is no such entity",
                    status=422,
                )
            if len(value) * 4 > limits.KEY_BYTES and len(value.encode()) > limits.KEY_BYTES:
                raise RequestError(
                    "Id too long", f"{place} has more than {limits.KEY_BYTES} bytes of UTF-8", status=422
                )
            return
    elif type(value) is int:
        if abs(value) > limits.INTEGER_ABS:
            raise RequestError("Id out of range", f"{place} must be within +-2^53", status=422)
        return
    if value is not None:
        wanted = "a string" if kind == "str" else "a whole number"
        raise RequestError(
            "Wrong type of id", f"{place} must be {wanted} (or null), not {type(value).__name__}", status=422
        )


def instant_us(value: str | int, place: str) -> int:
    """An instant as RFC 3339 with a zone, or as microseconds since 1970 UTC. Raises RequestError (422)."""
    try:
        us = value if isinstance(value, int) else to_us(msgspec.convert(value, datetime))
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise RequestError(
            "Not an instant",
            f'{place} must be RFC 3339 with a zone ("2013-12-30T22:00:00Z") or microseconds since 1970 UTC',
            status=422,
        ) from error
    except OverflowError:  # its date in UTC is beyond the year 9999, or before 1
        us = limits.INTEGER_ABS + 1
    if abs(us) > limits.INTEGER_ABS:  # beyond it an instant has no exact float64
        raise RequestError(
            "Instant out of range", f"{place} must be within 285 years of 1970: +-2^53 microseconds", status=422
        )
    return us
