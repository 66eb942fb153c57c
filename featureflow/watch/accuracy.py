"""Live accuracy: the prediction log and the sources of labels, read side by side, joined, counted, and told to all readers.

    1. read what came, from the offsets where the state stands
    2. join it in memory
    3. every two seconds write state and offsets as one value, then the accuracy that it comes to

State and offsets are one document of the online store's mirror: whatever dies when, what is found there counts each score once, up to just
those offsets. Of two processes that do this at once each writes what is right for its own offsets. Where a topic was made anew, or has
deleted what was not read, counting begins anew too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import structlog
from msgspec import Struct

from featureflow import limits
from featureflow.backoff import Backoff
from featureflow.clock import Clock
from featureflow.define import spec, system
from featureflow.errors import OffsetOutOfRangeError, UnavailableError
from featureflow.kernel.decode import Decoder
from featureflow.kernel.expression import evaluate
from featureflow.kernel.record import Records
from featureflow.store.log.protocol import Batch, Consumer, Log
from featureflow.store.mirror import ACCURACY_DOCUMENT, ACCURACY_STATE_DOCUMENT, Accuracy
from featureflow.store.online.protocol import OnlineStore
from featureflow.watch.join import JoinState, LabelEvent, LabelJoin, WaitingScore

SAVE_US = 2_000_000
SAVE_RECORDS = 20_000
POLL_RECORDS = 5_000
STEP_S = 0.5
FIRST_WAIT_US, LONGEST_WAIT_US = 100_000, 5_000_000


class Saved(Struct):
    """State and offsets. ``offsets`` and ``seen_us`` by source and partition: the next record, and the newest event time before it."""

    topics: dict[str, str]                 # source -> id of its topic
    offsets: dict[str, dict[int, int]]
    seen_us: dict[str, dict[int, int]]
    joins: dict[str, JoinState]


class _Prediction(Struct):
    asked_at: int
    prediction_id: str
    model: str
    model_version: str
    entities: str
    score: float | None = None


_SAVED = msgspec.msgpack.Decoder(Saved)
_PREDICTION = msgspec.json.Decoder(_Prediction)
_ENTITIES = msgspec.json.Decoder(dict[str, str | int | None])
log = structlog.get_logger("featureflow.watch")


class AccuracyWatch:
    """Of all labels of a project. Used from one thread. ``records``: what reads the records of a source that are not JSON."""

    def __init__(
        self, log_store: Log, online: OnlineStore, project: spec.Project, clock: Clock, *,
        records: Callable[[spec.Source], Records | None] = lambda source: None,
    ) -> None:
        self._log, self._online, self._clock, self._labels = log_store, online, clock, project.labels
        self._predictions = system.predictions(project.name)
        sources = {label.source: project.source(label.source) for label in project.labels}
        self._sources = {self._predictions.name: self._predictions, **sources}
        self._decoders = {name: Decoder(source, _columns(source, project.labels), records(source)) for name, source in sources.items()}
        self._consumer: Consumer | None = None
        self._saved = Saved({}, {}, {}, {})
        self._joins: dict[str, LabelJoin] = {}
        self._complete_us: dict[str, dict[int, int]] = {}      # source -> partition -> all that was appended until then is read
        self._unsaved, self._due_us = 0, 0

    def open(self) -> None:
        """Take up what was saved. Raises UnavailableError, LogError."""
        topics = {name: self._log.topic(source.topic) for name, source in self._sources.items()}
        document = self._online.get_meta(ACCURACY_STATE_DOCUMENT)
        saved = None if document is None else _decoded(document)
        if saved is not None and (gone := _gone(saved, {name: (t.topic_id, t.beginning) for name, t in topics.items()})):
            log.warning("accuracy_begins_anew", because=gone)
            saved = None
        saved = saved or Saved({}, {}, {}, {})
        saved.topics = {name: topic.topic_id for name, topic in topics.items()}
        for name, topic in topics.items():
            offsets = saved.offsets.setdefault(name, {})
            for partition in range(topic.partitions):
                offsets.setdefault(partition, topic.beginning[partition])
            saved.seen_us.setdefault(name, {})
        self._saved = saved
        self._joins = {
            label.name: LabelJoin(label, self._sources[label.source].disorder_us, saved.joins.get(label.name)) for label in self._labels
        }
        self._complete_us = {name: {} for name in self._sources}
        self._due_us = self._clock.now_us() + SAVE_US
        self._consumer = self._log.reader({name: source.topic for name, source in self._sources.items()})

    def close(self) -> None:
        """Stop reading. What was not saved is read again by the next."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def run(self, leave: threading.Event) -> None:
        """Until ``leave``; what is in hand then is saved. A server that is down is waited for, but for one that was down at the start.

        Raises UnavailableError at the start; StateError, LogError and SettingsError at any time.
        """
        self.open()
        log.info("joining", labels=[label.name for label in self._labels])
        backoff = Backoff(self._clock, FIRST_WAIT_US, LONGEST_WAIT_US)
        while not leave.is_set():
            try:
                if self._consumer is None:
                    self.open()
                self.step(STEP_S)
                backoff.succeeded()
            except UnavailableError as error:
                self.close()                   # what was not saved is read again
                wait_s = backoff.failed() / 1e6
                log.warning("waiting", problem=str(error), retry_s=wait_s)
                leave.wait(wait_s)
        if self._consumer is not None:
            self.save()
            self.close()

    def step(self, timeout_s: float = 1.0) -> int:
        """Read, join, and save when it is time. How many records were read. Raises UnavailableError, LogError; then open it again."""
        consumer = self._consumer
        assert consumer is not None, "open() first"
        try:
            polled = consumer.poll(timeout_s=timeout_s, max_records=POLL_RECORDS, max_bytes=limits.POLL_BYTES)  # 1
        except OffsetOutOfRangeError as error:
            self._online.put_meta(ACCURACY_STATE_DOCUMENT, b"")
            raise UnavailableError(f"live accuracy begins anew: {error}") from error
        for partition in polled.assignment.assigned:
            consumer.seek(partition, self._saved.offsets[partition.source][partition.partition])
        for batch in polled.batches:
            self._read(batch)  # 2
        read = sum(len(batch) for batch in polled.batches)
        self._unsaved += read
        if self._unsaved >= SAVE_RECORDS or self._clock.now_us() >= self._due_us:
            self.save()
        return read

    def save(self) -> dict[str, dict[str, Accuracy]]:
        """(3) What was saved. Raises UnavailableError, LogError."""
        now_us = self._clock.now_us()
        self._look(now_us)
        scores_us = self._progress_us(self._predictions.name)
        found: dict[str, dict[str, Accuracy]] = {}
        for label in self._labels:
            join = self._joins[label.name]
            join.settle(scores_us, self._progress_us(label.source), now_us)
            found[label.model] = join.state.rolling.accuracy(now_us, join.share)
        self._saved.joins = {name: join.state for name, join in self._joins.items()}
        self._online.put_meta(ACCURACY_STATE_DOCUMENT, msgspec.msgpack.encode(self._saved))
        self._online.put_meta(ACCURACY_DOCUMENT, msgspec.json.encode(found))
        self._unsaved, self._due_us = 0, now_us + SAVE_US
        return found

    def _read(self, batch: Batch) -> None:
        if batch.source == self._predictions.name:
            self._scores(batch)
        else:
            self._events(batch)
        self._saved.offsets[batch.source][batch.partition] = batch.next

    def _scores(self, batch: Batch) -> None:
        joins = {label.model: (self._joins[label.name], label.entity) for label in self._labels}
        for value in batch.values:
            try:
                found = _PREDICTION.decode(value or b"")
                self._saw(batch, found.asked_at)
                if found.model not in joins or found.score is None:
                    continue
                join, key = joins[found.model]
                entity_id = _ENTITIES.decode(found.entities).get(key)
            except msgspec.DecodeError:        # history says what of it is wrong; nothing here can be counted
                continue
            if entity_id is not None:
                join.add_score(WaitingScore(found.prediction_id, str(entity_id), found.model_version, found.asked_at, found.score))

    def _events(self, batch: Batch) -> None:
        source = self._sources[batch.source]
        events = batch.decoded_by(self._decoders[batch.source]).events
        appended = dict(zip(batch.offsets.tolist(), batch.timestamps_us.tolist(), strict=True))
        times, offsets = events.times_us.tolist(), events.offsets.tolist()
        present = [at_us <= appended[offset] + source.future_us for at_us, offset in zip(times, offsets, strict=True)]
        for at_us in (at_us for at_us, counts in zip(times, present, strict=True) if counts):
            self._saw(batch, at_us)
        for label in (label for label in self._labels if label.source == source.name):
            values = np.asarray(evaluate(label.value, events.columns, len(times)), np.float64)
            ids = events.columns[label.field].tolist()
            for entity_id, value, at_us, offset, counts in zip(ids, values.tolist(), times, offsets, present, strict=True):
                if counts and entity_id is not None and entity_id == entity_id and value == value:  # a null number is NaN
                    entity = str(int(entity_id)) if isinstance(entity_id, float) else str(entity_id)
                    self._joins[label.name].add_label(LabelEvent(entity, at_us, batch.partition, offset, value != 0))

    def _saw(self, batch: Batch, at_us: int) -> None:
        seen = self._saved.seen_us[batch.source]
        seen[batch.partition] = max(at_us, seen.get(batch.partition, at_us))

    def _look(self, now_us: int) -> None:
        """Where all that a partition holds is read, it is complete until now, though nothing comes."""
        for name, source in self._sources.items():
            end = self._log.topic(source.topic).end
            for partition, offset in self._saved.offsets[name].items():
                if offset >= end.get(partition, 0):
                    self._complete_us[name][partition] = now_us

    def _progress_us(self, name: str) -> int:
        """The instant up to which every partition of the source has been read."""
        seen, complete, never = self._saved.seen_us[name], self._complete_us[name], -limits.INTEGER_ABS
        return min((max(seen.get(p, never), complete.get(p, never)) for p in self._saved.offsets[name]), default=never)


def _columns(source: spec.Source, labels: tuple[spec.Label, ...]) -> list[str]:
    of = [label for label in labels if label.source == source.name]
    return list(dict.fromkeys(name for label in of for name in (label.field, *spec.columns_of(label.value))))


def _decoded(document: bytes) -> Saved | None:
    try:
        return _SAVED.decode(document)
    except msgspec.MsgspecError as error:  # nothing, or written by another version
        if document:
            log.warning("accuracy_begins_anew", because=f"what was saved cannot be read: {error}")
        return None


def _gone(saved: Saved, topics: Mapping[str, tuple[str, dict[int, int]]]) -> str:
    """Why what was saved cannot be gone on from; empty where it can."""
    for name, topic_id in saved.topics.items():
        if name not in topics:
            continue
        now_id, beginning = topics[name]
        if now_id != topic_id:
            return f"the topic of {name} was made anew"
        if any(offset < beginning.get(partition, 0) for partition, offset in saved.offsets.get(name, {}).items()):
            return f"the log has deleted records of {name} that were not read"
    return ""
