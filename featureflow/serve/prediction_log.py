"""Every score, with all that is needed to compute it again: appended to the log off the event loop, never in a request's way.

It is encoded on the event loop, after the answers have left. In the thread, the two would wait for each other to give the interpreter up,
and all that a row holds would go from one processor's cache to the other's: a score cost a tenth more so (measured).

The queue is bounded in rows and bytes; what does not fit is dropped and counted, because a slow log must not slow an answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow import limits
from featureflow.backoff import Backoff
from featureflow.clock import SystemClock
from featureflow.kernel.finalize import Status
from featureflow.serve.request import Row
from featureflow.store.log.protocol import TRACE_PARENT, Appender, Record

BATCH_ROWS = 200  # appended in one call: small, so that neither the interpreter nor the store is held for long
GATHER_S = 0.02  # the thread looks this often: to be woken by every turn would cost the loop more
FEW_ROWS, LOOKS = 100, 3  # to fewer others are gathered, for so many looks: an append costs Kafka's client as much as 80 rows do
ENCODED_S = 0.001  # and then so often, as it ends, for the last that the event loop encodes
LOOP_BYTES = 512 * 1024  # of predictions that the event loop encodes at once; more, as of many rows with vectors, is the thread's
REMEMBERED = 4_096  # offsets, as they are encoded
ROW_BYTES, NUMBER_BYTES = 1024, 32  # of a row in memory beside its features; of a number of a vector in its request
FIRST_WAIT_US, LONGEST_WAIT_US = 100_000, 5_000_000  # before a log that refuses is asked again
_ENCODER = msgspec.json.Encoder()
log = structlog.get_logger("featureflow.serve")
LETTERS = np.array([status.letter for status in sorted(Status)], "S1")
Standing = Mapping[str, Mapping[int, int]]
T = TypeVar("T")


class Applied(NamedTuple):
    """How far one view's sources had been folded: entities of one bucket share a standing."""

    view: str
    standings: Sequence[Standing]  # source -> partition -> the offset up to which events are counted
    of: Sequence[int]  # each row's standing


@dataclass(frozen=True, slots=True)
class Predictions:
    """The scores of one model in one turn: n rows that share everything but their inputs, and the buckets of their entities."""

    asked_at_us: int  # q
    model: str
    version: str
    variant: str
    provider: str
    rows: Sequence[Row]
    prediction_ids: Sequence[str]
    request_ids: Sequence[str]
    traces: Sequence[str]
    scores: Sequence[float]
    views: dict[str, str]  # view -> version, in the order of ``features``
    applied: Sequence[Applied]  # of each view
    features: NDArray[np.float64]  # (n, all columns of all views of the model), as finalized
    statuses: NDArray[np.int8]  # (n, all features of all views)
    degraded: Sequence[str]
    assignment: str | None = None  # JSON of wire.v1.Assignment
    texts: Sequence[list[str | None]] | None = None  # per row all strings of all views, feature by feature; None: no view has any
    parts: Sequence[dict[str, float | None]] | None = None  # per row what an ensemble's score was made of; None: it is no ensemble's
    row_bytes: int = ROW_BYTES  # what a row takes while it waits, about, beside its features

    @property
    def bytes(self) -> int:
        """What they take in memory, about."""
        return len(self.rows) * self.row_bytes + self.features.nbytes + self.statuses.nbytes


class _Encoded(NamedTuple):
    """Records, how many rows are not among them, and what they were counted for in bytes."""

    records: list[Record]
    lost: int
    bytes: int


class PredictionLog:
    """``offer`` from the event loop, and ``encode`` once it has time; one thread appends, and encodes what was left to it."""

    def __init__(
        self,
        log: Appender,
        topic: str,
        *,
        capacity_rows: int = limits.PREDICTION_LOG_QUEUE,
        capacity_bytes: int = limits.PREDICTION_LOG_BYTES,
        dropped: Callable[[str, int], None],
        logged: Callable[[int], None],
        gather_s: float = GATHER_S,
    ) -> None:
        self._log, self._topic, self._gather_s = log, topic, gather_s
        self._capacity, self._capacity_bytes, self._dropped, self._logged = capacity_rows, capacity_bytes, dropped, logged
        self._offers: deque[Predictions] = deque()  # who takes one encodes it
        self._queue: deque[Predictions | _Encoded] = deque()
        self._written = Written()
        self._closing = threading.Event()
        self._offered = self._taken = 0  # rows; each is written by one thread only
        self._offered_bytes = self._taken_bytes = 0
        self.problem: str | None = None  # why the log cannot be written now
        self._thread = threading.Thread(target=self._drain, name="prediction-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows not yet appended."""
        return self._offered - self._taken

    def offer(self, predictions: Predictions) -> bool:
        """Queue them, or drop and count them where the queue is full."""
        n, size = len(predictions.rows), predictions.bytes
        if self.waiting + n > self._capacity or self._offered_bytes - self._taken_bytes + size > self._capacity_bytes:
            self._dropped("queue_full", n)
            return False
        self._offered += n
        self._offered_bytes += size
        (self._offers if size <= LOOP_BYTES else self._queue).append(predictions)
        return True

    def encode(self) -> None:
        """What was offered."""
        while (predictions := _popped(self._offers)) is not None:
            self._queue.append(self._encoded(predictions))

    def close(self, timeout_s: float) -> None:
        """Append what is queued, for at most ``timeout_s``; what is left then is dropped and counted."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self.waiting:
            self._dropped("shutdown", self.waiting)

    def _drain(self) -> None:
        while True:
            if not (self._queue or self._offers):
                if not self._closing.is_set():
                    self._closing.wait(self._gather_s)
                elif self.waiting:
                    time.sleep(ENCODED_S)
                else:
                    return
                continue
            self._gather()
            records: list[Record] = []
            size = 0
            while len(records) < BATCH_ROWS and (taken := _popped(self._queue) or _popped(self._offers)) is not None:
                encoded = self._encoded(taken) if isinstance(taken, Predictions) else taken
                records += encoded.records
                size += encoded.bytes
                self._taken += encoded.lost
            if not self._append(records):
                return  # close() counts what is left
            self._taken_bytes += size
            self._taken += len(records)

    def _gather(self) -> None:
        """Wait for more where there are few."""
        for _ in range(LOOKS):
            if self.waiting >= FEW_ROWS or self._closing.wait(self._gather_s):
                return

    def _encoded(self, predictions: Predictions) -> _Encoded:
        """What can be logged of them; the rest is counted as dropped."""
        rows, size = len(predictions.rows), predictions.bytes
        try:
            records = encode(predictions, self._written)
        except Exception:  # whatever it is, the thread goes on: nobody would start another
            log.exception("predictions_not_encoded", model=predictions.model, rows=rows)
            self._dropped("unencodable", rows)
            return _Encoded([], rows, size)
        whole = [record for record in records if len(record.value) <= limits.RECORD_BYTES]
        if len(whole) < rows:
            self._dropped("too_large", rows - len(whole))
        return _Encoded(whole, rows - len(whole), size)

    def _append(self, records: list[Record]) -> bool:
        """Append them, again and again until the log takes them; False where the log is being closed and does not."""
        backoff = Backoff(SystemClock(), FIRST_WAIT_US, LONGEST_WAIT_US)
        while records:
            try:
                self._log.append(self._topic, records)
                self._logged(len(records))
                self.problem = None
                break
            except Exception as error:  # whatever it is, as above
                self.problem = str(error)
                if self._closing.wait(backoff.failed() / 1e6):
                    return False
        return True


class _Own(msgspec.Struct, omit_defaults=True):
    """What a record does not share with the others of its turn."""

    prediction_id: str
    request_id: str
    score: float
    entities: str
    context: str
    features: bytes  # written as base64
    statuses: str
    texts: str | None = None
    parts: str | None = None


class Written:
    """Offsets as they stand in records. Those of a bucket stay the same from turn to turn, until something is folded."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[Standing, bytes]] = {}

    def of(self, view: str, standing: Standing) -> bytes:
        """A member of a JSON object that stands in a JSON string."""
        key = view, id(standing)
        known = self._known.get(key)
        if known is None or known[0] is not standing:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            written = _ENCODER.encode(_ENCODER.encode({view: standing})[1:-1].decode())[1:-1]
            known = self._known[key] = standing, written
        return known[1]


def encode(predictions: Predictions, written: Written | None = None) -> list[Record]:
    """One record per row; fields as in ``define.system.predictions``.

    What the rows share is encoded once, and their own in a few calls for all of them (a line each: JSON has no raw line ends).
    ``written``: remembers offsets.
    """
    dump, lines = _ENCODER.encode, _ENCODER.encode_lines
    shared = dump(
        {
            "asked_at": predictions.asked_at_us,
            "model": predictions.model,
            "model_version": predictions.version,
            "variant": predictions.variant,
            "provider": predictions.provider,
            "views": dump(predictions.views).decode(),
            "degraded": dump(list(predictions.degraded)).decode(),
            **({} if predictions.assignment is None else {"assignment": predictions.assignment}),
        }
    )
    features = np.ascontiguousarray(predictions.features, "<f8").tobytes()
    letters = LETTERS[predictions.statuses].tobytes().decode()
    rows = range(len(predictions.rows))
    width, count = 8 * predictions.features.shape[1], predictions.statuses.shape[1]
    own = lines(
        map(
            _Own,
            predictions.prediction_ids,
            predictions.request_ids,
            predictions.scores,
            lines([row.entities for row in predictions.rows]).decode().split("\n"),
            lines([row.context for row in predictions.rows]).decode().split("\n"),
            [features[i * width : (i + 1) * width] for i in rows],
            [letters[i * count : (i + 1) * count] for i in rows],
            repeat(None) if predictions.texts is None else [dump(texts).decode() for texts in predictions.texts],
            repeat(None) if predictions.parts is None else [dump(parts).decode() for parts in predictions.parts],
        )
    )
    head, lines_of = shared[:-1], own.split(b"\n")[:-1]
    values = [
        b'%b,"applied":"{%b}",%b' % (head, b",".join(applied), line[1:])
        for applied, line in zip(_applied(predictions.applied, len(rows), written or Written()), lines_of, strict=True)
    ]
    traces = predictions.traces
    return [
        Record(value, headers=((TRACE_PARENT, trace.encode()),) if trace else ())
        for value, trace in zip(values, traces, strict=True)
    ]


def _applied(views: Sequence[Applied], n: int, written: Written) -> Iterable[Sequence[bytes]]:
    """Per row its views' members of a JSON object that stands in a JSON string."""
    members = []
    for view, standings, of in views:
        own = [written.of(view, standing) for standing in standings]
        members.append([own[place] for place in of])
    return zip(*members, strict=True) if members else repeat((), n)


def _popped(queue: deque[T]) -> T | None:
    """The first; None where somebody else has taken it, or there is none."""
    try:
        return queue.popleft()
    except IndexError:
        return None
