"""The body of POST /v1/events/{source}: an event or a list of them, checked by the decoder that ingest uses, as records to append."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from featureflow import limits
from featureflow.define.spec import Source
from featureflow.errors import RequestError
from featureflow.kernel.decode import Decoder, Refusal, key_of
from featureflow.kernel.nesting import is_too_deep
from featureflow.serve import problem
from featureflow.serve.answer import Answer
from featureflow.serve.wire import v1
from featureflow.store.log.protocol import TRACE_PARENT, Record

SPACE = b" \t\r\n"
SHOWN_REFUSALS = 100


@dataclass(frozen=True)
class Refused:
    """Events of one body that are none of the source's; with them, all of the body is refused."""

    refusals: Sequence[Refusal]
    of: int

    def answer(self, request_id: str) -> Answer:
        """Problem details that name each of the first hundred."""
        first = self.refusals[0]
        whole = v1.Problem(
            title="Not an event of this source",
            status=422,
            detail=f"{len(self.refusals)} of {self.of} events are refused, so none was appended. "
            f"The first, at {first.index}, is {first.reason}: {first.detail}",
            request_id=request_id,
            refused=[v1.RefusedEvent(r.index, r.reason, r.detail) for r in self.refusals[:SHOWN_REFUSALS]],
        )
        return Answer(422, msgspec.json.encode(whole), problem.CONTENT_TYPE)


class Posted:
    """Reads the bodies of one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._decoder = Decoder(source)

    def records(self, raw: bytes, trace: str) -> list[Record] | Refused:
        """One record per event, in order, with the key that the source promises. Raises RequestError for a body that is no list of them."""
        source = self.source
        if source.format != "json":
            raise RequestError(
                "Not posted",
                f"the records of {source.name} are in {source.format}; write them to topic {source.topic} with a Kafka client and "
                "its serializer for your schema registry",
                status=422,
            )
        values = _values(raw)
        decoded = self._decoder.decode(values)
        if decoded.refused:
            return Refused(decoded.refused, len(values))
        headers = ((TRACE_PARENT, trace.encode()),) if trace else ()
        name = source.keyed_by
        if name is None:
            return [Record(value, headers=headers) for value in values]
        fields = decoded.events.columns[name]
        whole = source.by_name[name].type == "int"  # in columns of float64
        return [
            Record(value, key_of(source, {name: int(field) if whole else field}), headers=headers)
            for value, field in zip(values, fields, strict=True)
        ]


def _values(raw: bytes) -> list[bytes]:
    """The events of a body: one object, or a list of them. Raises RequestError.

    What an event has beside its fields is skipped, however deep it is, by a decoder that recurses: so each is looked at.
    """
    if raw.lstrip(SPACE)[:1] != b"[":
        if is_too_deep(raw):
            raise problem.too_deep()
        return [raw.strip(SPACE)]
    try:
        listed = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (ValueError, RecursionError) as error:
        raise problem.undecodable(error, raw) from None
    if not 1 <= len(listed) <= limits.ROWS_PER_REQUEST:
        raise RequestError(
            "Wrong number of events", f"send 1 to {limits.ROWS_PER_REQUEST} events at a time", status=422
        )
    values = [bytes(value) for value in listed]
    if any(map(is_too_deep, values)):
        raise problem.too_deep()
    return values
