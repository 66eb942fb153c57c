"""Every score, with all that is needed to compute it again: appended to the log off the event loop, never in a request's way.

The queue is bounded in rows; what does not fit is dropped and counted, because a slow log must not slow an answer.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.kernel.finalize import Status
from featureflow.serve.request import Row
from featureflow.store.log.protocol import Log, Record

BATCH_ROWS = 100  # appended in one call: small, so that neither the interpreter nor the store is held for long
GATHER_S = 0.02  # the thread looks this often: to be woken by every turn would cost the loop more
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 5.0
LETTERS = np.array([status.letter for status in sorted(Status)], "S1")


@dataclass(frozen=True, slots=True)
class Predictions:
    """The scores of one model in one turn: n rows that share everything but their inputs."""

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
    applied: dict[str, dict[str, dict[int, int]]]
    features: NDArray[np.float64]  # (n, all columns of all views of the model), as finalized
    statuses: NDArray[np.int8]  # (n, all features of all views)
    degraded: Sequence[str]


class PredictionLog:
    """``offer`` from the event loop; one thread encodes and appends."""

    def __init__(
        self,
        log: Log,
        topic: str,
        *,
        capacity_rows: int = limits.PREDICTION_LOG_QUEUE,
        dropped: Callable[[str, int], None],
        logged: Callable[[int], None],
    ) -> None:
        self._log, self._topic = log, topic
        self._capacity, self._dropped, self._logged = capacity_rows, dropped, logged
        self._queue: deque[Predictions] = deque()
        self._closing = threading.Event()
        self._offered = self._taken = 0  # rows; each is written by one thread only
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
        n = len(predictions.rows)
        if self.waiting + n > self._capacity:
            self._dropped("queue_full", n)
            return False
        self._offered += n
        self._queue.append(predictions)
        return True

    def close(self, timeout_s: float) -> None:
        """Append what is queued, for at most ``timeout_s``; what is left then is dropped and counted."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self.waiting:
            self._dropped("shutdown", self.waiting)

    def _drain(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            if not self._queue:
                if self._closing.is_set():
                    return
                self._closing.wait(GATHER_S)
                continue
            batch, rows = [self._queue.popleft()], 0
            while self._queue and (rows := rows + len(batch[-1].rows)) < BATCH_ROWS:
                batch.append(self._queue.popleft())
            records = [record for predictions in batch for record in encode(predictions)]
            whole = [record for record in records if len(record.value) <= limits.RECORD_BYTES]
            if len(whole) < len(records):
                self._dropped("too_large", len(records) - len(whole))
            while whole:
                try:
                    self._log.append(self._topic, whole)
                    self._logged(len(whole))
                    self.problem, retry_s = None, FIRST_RETRY_S
                    break
                except Exception as error:  # whatever it is, the thread goes on: nobody would start another
                    self.problem = str(error)
                    if self._closing.wait(retry_s):
                        return  # close() counts what is left
                    retry_s = min(2 * retry_s, LAST_RETRY_S)
            self._taken += len(records)


def encode(predictions: Predictions) -> list[Record]:
    """One record per row, keyed by its prediction id; fields as in ``define.system.predictions``.

    What the rows share is encoded once; the rest is joined as bytes, since this runs beside the event loop and takes time from it.
    """
    dump = msgspec.json.encode
    shared = dump(
        {
            "asked_at": predictions.asked_at_us,
            "model": predictions.model,
            "model_version": predictions.version,
            "variant": predictions.variant,
            "provider": predictions.provider,
            "views": dump(predictions.views).decode(),
            "applied": dump(predictions.applied).decode(),
            "degraded": dump(list(predictions.degraded)).decode(),
        }
    )[:-1]
    features = np.ascontiguousarray(predictions.features, "<f8").tobytes()
    width = 8 * predictions.features.shape[1]
    letters = LETTERS[predictions.statuses].tobytes()
    count = predictions.statuses.shape[1]
    records = []
    for i, row in enumerate(predictions.rows):
        prediction_id = predictions.prediction_ids[i].encode()
        value = (
            b'%b,"prediction_id":"%b","request_id":%b,"score":%b,"entities":%b,"context":%b,"features":"%b","statuses":"%b"}'
            % (
                shared,
                prediction_id,
                dump(predictions.request_ids[i]),
                dump(predictions.scores[i]),
                dump(dump(row.entities).decode()),
                dump(dump(row.context).decode()),
                b64encode(features[i * width : (i + 1) * width]),
                letters[i * count : (i + 1) * count],
            )
        )
        trace = predictions.traces[i]
        records.append(Record(value, prediction_id, headers=(("traceparent", trace.encode()),) if trace else ()))
    return records
