"""The bodies of the v1 routes. Their JSON Schemas stand in /openapi.json.

Instants: ``q`` is microseconds since 1970 UTC, the instant the features were computed for; ``asked_at`` the same as RFC 3339.
A value that is undefined is null.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from featureflow import limits

EntityId = str | int | None
Scalar = bool | int | float | str | None
Entities = Annotated[
    dict[str, EntityId],
    Meta(description="join key -> id; null: there is no such entity, its features take their defaults"),
]
Value = Scalar | list[float]
Context = Annotated[dict[str, Value], Meta(description="request inputs by field name")]
DeadlineMs = Annotated[
    float, Meta(gt=0, le=60_000, description="milliseconds until the answer is useless; default: x-deadline-ms, else the model's")
]

PriorityName = Annotated[
    Literal["critical", "normal", "batch"], Meta(description="what is shed last, or first; default: the header x-priority, else normal")
]


# -- scoring -----------------------------------------------------------------------------------------------------------


class RowBody(Struct, forbid_unknown_fields=True):
    """One row of several to be scored."""

    entities: Entities
    context: Context = {}


class ScoreBody(Struct, forbid_unknown_fields=True):
    """Either ``entities`` (and ``context``) for one score, or ``rows`` for many."""

    entities: Entities | UnsetType = UNSET
    context: Context | UnsetType = UNSET
    rows: Annotated[list[RowBody], Meta(min_length=1, max_length=limits.ROWS_PER_REQUEST)] | UnsetType = UNSET
    deadline_ms: DeadlineMs | None = None
    explain: bool = False
    priority: PriorityName | None = None


class FeatureValue(Struct):
    """``status``: present, default (no event counts), expired (older than the view's ttl), stale (ingest is behind), missing (no state)."""

    value: float | str | list[float | str | None] | None
    status: str
    event_time: str | None  # RFC 3339: the newest event that counts


class Assignment(Struct):
    """The release of the model that is under way, and the arm of it that answered: ``stable``, ``canary``."""

    release: int
    arm: str  # where rows have several: their names, joined by +
    arms: list[str] | UnsetType = UNSET  # then one per row


class ScoreAnswer(Struct, omit_defaults=False):
    """One score per row, and what made them."""

    model: str
    version: str  # where rows have several: joined by +
    variant: str
    provider: str
    asked_at: str
    scores: list[float]
    prediction_ids: list[str]
    degraded: list[str]  # "view:stale", "view:missing", "view:corrupt", "view:unanswerable", "fetch:timeout", "fetch:unavailable"
    request_id: str
    features: list[dict[str, FeatureValue]] | UnsetType = UNSET  # with explain: per row, "view:feature" -> value
    members: dict[str, str] | UnsetType = UNSET  # of an ensemble: member -> its version
    parts: list[dict[str, float | None]] | UnsetType = UNSET  # with explain: per row, "member@version" or a rule -> its value
    assignment: Assignment | UnsetType = UNSET  # where the model is released, and the caller named no version


# -- events ------------------------------------------------------------------------------------------------------------


class Position(Struct):
    """Where an event stands in the log."""

    partition: int
    offset: int


class EventsAnswer(Struct):
    """All events are in the log."""

    source: str
    positions: list[Position]  # in the order of the events sent; durable when this is read
    request_id: str


class RefusedEvent(Struct):
    """Why an event would be no event; then none of those sent is in the log."""

    index: int
    reason: str
    detail: str


# -- features ----------------------------------------------------------------------------------------------------------


class FeaturesBody(Struct, forbid_unknown_fields=True):
    """Entities by id, or by join key, as of an instant or of now."""

    entities: Annotated[list[EntityId | dict[str, EntityId]], Meta(max_length=limits.ROWS_PER_REQUEST)]
    at: str | int | None = None  # RFC 3339 with a zone, or microseconds since 1970 UTC


class FeaturesRow(Struct):
    """One entity's values, statuses and times of their newest events, each in the order of ``features``."""

    id: EntityId
    values: list[float | str | list[float | str | None] | None]  # in the order of ``features``; last_n is a list, newest first
    statuses: list[str]
    event_times_us: list[int | None]
    applied: dict[str, dict[str, int]] | UnsetType = UNSET  # where it is not that of the first row: their states are in different buckets


class FeaturesAnswer(Struct):
    """One view's values at the instant ``at``, ``q`` in microseconds since 1970 UTC."""

    view: str
    version: str
    entity: str
    q: int
    at: str
    applied: dict[str, dict[str, int]]  # source -> partition -> the offset up to which events are counted, of the first row
    features: list[str]
    rows: list[FeaturesRow]
    degraded: list[str]


class EntityFeatures(Struct):
    """One entity's values in one view, by name."""

    view: str
    version: str
    entity: str
    id: EntityId
    q: int
    at: str
    applied: dict[str, dict[str, int]]
    features: dict[str, FeatureValue]
    degraded: list[str]


# -- what there is -----------------------------------------------------------------------------------------------------


class FeatureInfo(Struct):
    """One feature as it is defined."""

    name: str
    op: str
    source: str
    window: str
    size: int
    default: float | str | None


class PartitionInfo(Struct):
    """How far a partition is folded."""

    partition: int
    offset: int | None  # null: the offset record is absent
    committed_ms_ago: int | None
    complete_ms_ago: int | None  # all that the log held so long ago is counted; null: not known of any instant
    dirty: bool


class ViewInfo(Struct):
    """One view as it is applied, and how far its partitions are folded."""

    name: str
    version: str
    entity: str
    join_key: str
    sources: dict[str, list[PartitionInfo]]
    features: list[FeatureInfo]


class ViewsAnswer(Struct):
    """All views that are applied."""

    views: list[ViewInfo]


class LoadedInfo(Struct):
    """The version of a model that is in memory."""

    version: str
    variant: str  # fp32 | fp16 | int8 | w8 | w4; ensemble
    provider: str  # cpu | cuda | tensorrt; of an ensemble those of its members: cpu+cuda
    reason: str  # why this variant


class ArmInfo(Struct):
    """One version of a release, and what it did in this process."""

    arm: str
    version: str
    share: float  # of the traffic, 0 to 1
    rows: int
    failed: int  # rows without a score
    mean_infer_ms: float | None
    lacking: int = 0  # rows that were stable's instead, since they lacked what this version reads


class ReleaseInfo(Struct):
    """Which versions answer whom. ``ended``: why its candidates answer nobody any more."""

    release: int
    step: str
    made_at: str
    arms: list[ArmInfo]
    shadow: str | None
    sticky: str | None  # the join key whose entity keeps its arm
    ended: str | None
    bounds: dict[str, float]
    processes: (
        int | None
    )  # whose counts of its candidates are judged together, this one among them; null: it has none on trial


class ModelInfo(Struct):
    """One model as it is applied, and what answers for it."""

    name: str
    inputs: list[str]
    entities: list[str]  # join keys that a request must give
    context: dict[str, str]  # request inputs and their types
    deadline_ms: float
    when_missing: str
    loaded: LoadedInfo | None  # what answers when no version is named; null: see ``problem``
    problem: str | None
    release: ReleaseInfo | None = None  # null: nothing is released, the latest version answers


class StageCapacity(Struct):
    """One stage of a full turn."""

    stage: str  # read, fetch, finalize, derive, infer, answer, other (the event loop, and sending)
    typical_ms: float  # median
    slow_ms: float  # 99th percentile
    share: float  # of the turn's typical time


class BatchCapacity(Struct):
    """What turns of up to so many rows took lately."""

    rows: int
    typical_ms: float
    slow_ms: float
    rows_s: float


class CapacityAnswer(Struct):
    """What this process measured of one model while it served it."""

    model: str
    deadline_ms: float
    req_s: float | None  # requests of one row a second, each within the deadline; null: nothing was measured lately
    rows_per_turn: int | None  # of a turn that still fits into the deadline as often as there may be before an answer
    turn_ms: float | None
    limit: str | None  # the stage that takes most
    why: str
    margin: float  # by which predictions are widened, because answers came late
    lag_ms: float  # of the event loop
    waiting: int  # requests, of all models
    stages: list[StageCapacity]
    batches: list[BatchCapacity]


class ModelsAnswer(Struct):
    """All models that are applied."""

    models: list[ModelInfo]


class Ready(Struct):
    """Whether scores can be answered, and what is wrong."""

    ready: bool
    down: dict[str, str]  # part -> what is wrong and what to do
    warnings: dict[str, str]  # what does not work yet, and is nobody's fault: a model without a version
    breakers: dict[str, str] = {}  # dependency -> closed, half_open or open: whether it is asked


class Health(Struct):
    """The process runs."""

    status: str = "ok"


class Problem(Struct):
    """RFC 9457 problem details, as application/problem+json."""

    title: str
    status: int
    detail: str
    request_id: str
    type: str = "about:blank"
    refused: list[RefusedEvent] | UnsetType = UNSET


SCORE_BODY = msgspec.json.Decoder(ScoreBody)
FEATURES_BODY = msgspec.json.Decoder(FeaturesBody)
