"""Events to scores: one model's part of watching. The numbers are those of ``Scoring.step``.

    1. place what was assigned      3. decode      5. score
    2. poll                         4. read the features, once they count the events
    6. append the scores and move the group, in one transaction
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import NO_TIME_US, Clock
from featureflow.define import system
from featureflow.errors import ModelError
from featureflow.kernel.accept import judge
from featureflow.kernel.decode import Decoder
from featureflow.kernel.events import Events
from featureflow.models.ensemble import Loaded, definition_of
from featureflow.reading.plan import ModelPlan, Plan
from featureflow.store.log.protocol import Batch, Log, Partition, Record
from featureflow.store.schemas.open import records_of
from featureflow.store.schemas.protocol import SchemaRegistry
from featureflow.watch.current import CurrentModel
from featureflow.watch.failpoint import Failpoint
from featureflow.watch.features import FeatureReader, ModelFeatures, Positions
from featureflow.watch.member import Member
from featureflow.watch.metrics import WatchMetrics
from featureflow.watch.score import Score
from featureflow.watch.watched import Id, Watched, by_source, ids_of

log = structlog.get_logger("featureflow.watch")
_ENCODE = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class _Arrived:
    """Events of one source, of several partitions."""

    watched: Watched
    events: list[Events]

    def __len__(self) -> int:
        return sum(map(len, self.events))


class Scoring:
    """Of one model, and every source that an alert watches with it. ``begins``: see ``store.mirror.watched_from``."""

    def __init__(
        self,
        log: Log,
        plan: Plan,
        model: str,
        current: CurrentModel,
        reader: FeatureReader,
        clock: Clock,
        wall: Clock,
        metrics: WatchMetrics,
        failpoint: Failpoint,
        *,
        group: str,
        member: str,
        begins: Mapping[Partition, int],
        schemas: SchemaRegistry | None = None,
    ) -> None:
        self.name, self._model, self._current, self._reader = f"score {model}", model, current, reader
        self._clock, self._wall, self._metrics, self._failpoint = clock, wall, metrics, failpoint
        self._everything, self._schemas = plan, schemas
        self._topic = system.scores(plan.project.name).topic
        self._followed: Loaded | None = None
        self._read_by(plan.models[model])
        self.scores = 0
        self._member = Member(
            log, group, {name: watched.source.topic for name, watched in self._watched.items()}, member, begins
        )

    def open(self) -> None:
        self._member.open()

    def close(self) -> None:
        self._member.close()
        self._reader.close()
        self._current.close()

    def start_over(self) -> None:
        self._member.start_over()

    def step(self, *, timeout_s: float) -> int:
        """How many scores were appended. Raises UnavailableError, FencedError, LogError."""
        loaded = self._current.get()
        if placed := self._member.place() if loaded is not None else ():  # 1
            self._failpoint("scoring_placed")
            self._member.start(placed)
        batches = self._member.poll(timeout_s=timeout_s)  # 2: also while there is no model, to remain a member
        self._metrics.partitions.labels(self.name).set(len(self._member.at))
        if loaded is None:
            self._current.wait(timeout_s)
            return 0
        if loaded is not self._followed:
            self._read_by(self._everything.of(definition_of(loaded, self._everything.project)))
            self._followed = loaded
        if not batches:
            return 0
        self._failpoint("scoring_polled")
        records: list[Record] = []
        newest_us = NO_TIME_US
        for arrived in self._arrived(batches):  # 3
            appended_us, found = self._scored(arrived, loaded)
            records += found
            newest_us = max(newest_us, appended_us)
        self._failpoint("scored")
        self._member.commit({self._topic: records}, batches)  # 6
        self._failpoint("scores_committed")
        if records:
            self.scores += len(records)
            self._metrics.scores.labels(self._model, loaded.variant, loaded.provider).inc(len(records))
            self._metrics.score_seconds.labels(self._model).observe((self._wall.now_us() - newest_us) * 1e-6)
        return len(records)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _read_by(self, plan: ModelPlan) -> None:
        """What events are read for: what the version that scores reads."""
        project = self._everything.project
        self._plan = plan
        self._watched = {
            source: Watched(project.source(source), alerts, plan) for source, alerts in by_source(project, self._model).items()
        }
        self._decoders = {
            name: Decoder(watched.source, watched.columns, records_of(watched.source, self._schemas, self._clock))
            for name, watched in self._watched.items()
        }

    def _arrived(self, batches: Sequence[Batch]) -> list[_Arrived]:
        """Step 3. What is no event is ingest's to put aside; here it is counted."""
        found: dict[str, list[Events]] = {}
        for batch in batches:
            decoded = batch.decoded_by(self._decoders[batch.source])
            for refusal in decoded.refused:
                self._metrics.skipped.labels(batch.source, refusal.reason).inc()
            events = decoded.events
            if events.append_time:         # else it depends on all that came before, which nothing here keeps
                accepted = judge(events, NO_TIME_US, self._watched[batch.source].source).accepted
                if not accepted.all():
                    self._metrics.skipped.labels(batch.source, "future").inc(int((~accepted).sum()))
                    events = events.take(np.flatnonzero(accepted))
            if len(events):
                found.setdefault(batch.source, []).append(events)
        return [_Arrived(self._watched[source], events) for source, events in found.items()]

    def _scored(self, arrived: _Arrived, loaded: Loaded) -> tuple[int, list[Record]]:
        """Steps 4 and 5 of one source's events: when the log took the newest, and the records of their scores."""
        watched, parts = arrived.watched, arrived.events
        at = Positions(
            watched.source.name,
            np.concatenate([np.full(len(events), events.partition, np.int64) for events in parts]),
            np.concatenate([events.offsets for events in parts]),
            max(int(events.timestamps_us.max()) for events in parts),
        )
        times = np.concatenate([events.times_us for events in parts])
        ids: dict[str, list[Id]] = {}
        for events in parts:
            for key, own in watched.ids(events).items():
                ids.setdefault(key, []).extend(own)
        contexts = [watched.context(events) for events in parts]
        context = {name: np.concatenate([one[name] for one in contexts]) for name in contexts[0]}
        newest_event_us = min(int(times.max()), self._clock.now_us() + watched.source.future_us)
        read = self._reader.read(watched.plan, ids, at, newest_event_us)  # 4
        self._failpoint("features_read")
        scores, degraded = self._infer(read, read.inputs(context), loaded)  # 5
        records = []
        for entity, field in watched.entities:
            kind = watched.source.by_name[field]
            owners = [one for events in parts for one in ids_of(events.columns[field], kind)]
            for row, owner in enumerate(owners):
                if owner is None:
                    self._metrics.skipped.labels(watched.source.name, "no_entity").inc()
                    continue
                score = float(scores[row])
                records.append(
                    Score(
                        event_time=int(times[row]),
                        scored_at=read.q_us,
                        model=self._model,
                        model_version=loaded.version,
                        variant=loaded.variant,
                        provider=loaded.provider,
                        score=None if np.isnan(score) else score,
                        entity=entity,
                        id=str(owner),
                        source=watched.source.name,
                        partition=int(at.partitions[row]),
                        offset=int(at.offsets[row]),
                        features=_text({**{name: _plain(values[row]) for name, values in context.items()}, **read.shown(row)}),
                        degraded=_ENCODE(degraded[row]).decode(),
                    ).record()
                )
        return at.newest_us, records

    def _infer(
        self, read: ModelFeatures, inputs: NDArray[np.float64], loaded: Loaded
    ) -> tuple[NDArray[np.float64], list[list[str]]]:
        """Scores (n,), NaN where there is none; what was degraded for each event. An event that the model refuses is refused alone."""
        n = len(inputs)
        degraded = [read.degraded(row) for row in range(n)]
        scores = np.full(n, np.nan)
        wanted = np.ones(n, np.bool_)
        if self._plan.model.when_missing == "refuse":
            wanted = ~read.missing()
            self._unscored("missing", np.flatnonzero(~wanted), degraded)
        rows = np.flatnonzero(wanted)
        try:
            if len(rows):
                scores[rows] = loaded.score(inputs[rows])
        except ModelError:
            refused = []
            for row in rows.tolist():
                try:
                    scores[row] = loaded.score(inputs[row : row + 1])[0]
                except ModelError as error:
                    refused.append(row)
                    if len(refused) == 1:
                        log.warning("model_refused_event", model=self._model, error=str(error))
            self._unscored("model", np.array(refused, np.intp), degraded)
        for what in (what for row in degraded for what in row):
            self._metrics.degraded.labels(self._model, what).inc()
        return scores, degraded

    def _unscored(self, reason: str, rows: NDArray[np.intp], degraded: list[list[str]]) -> None:
        for row in rows.tolist():
            degraded[row].append(f"unscored:{reason}")
        if len(rows):
            self._metrics.unscored.labels(self._model, reason).inc(len(rows))


def _plain(value: object) -> object:
    """For JSON: None for what is undefined, a list of a vector."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    if isinstance(value, float):
        return None if value != value else float(value)
    return value


def _text(features: dict[str, object]) -> str | None:
    encoded = _ENCODE(features)
    return encoded.decode() if len(encoded) <= limits.FEATURES_TEXT_BYTES else None
