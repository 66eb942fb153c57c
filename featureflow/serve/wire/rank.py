"""The bodies of ``POST /v1/rank/{model}``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from featureflow import limits
from featureflow.serve.wire.v1 import Assignment, Context, DeadlineMs, EntityId, FeatureValue

CandidateId = str | int


class Candidate(Struct, forbid_unknown_fields=True):
    """A candidate that is asked about with request inputs of its own, beside those of all."""

    id: CandidateId
    context: Context = {}


class Recall(Struct, forbid_unknown_fields=True):
    """One way in which candidates are found: ``ids``, or those that a ``feature`` holds, or the ``n`` that are ``near`` in an ``index``."""

    source: Annotated[str, Meta(min_length=1, max_length=64, description="what the answer calls this recall")]
    weight: Annotated[float, Meta(gt=0, le=1_000, description="what scores of its candidates are multiplied by")] = 1.0
    ids: Annotated[list[CandidateId | Candidate], Meta(max_length=limits.CANDIDATES)] | UnsetType = UNSET
    feature: Annotated[str, Meta(description="view:feature, a last_n or top_k of ids, of an entity of the request")] | UnsetType = UNSET
    index: Annotated[str, Meta(description="a vector index of ids")] | UnsetType = UNSET
    near: Annotated[str | list[float], Meta(description="view:feature of an entity of the request, or a vector")] | UnsetType = UNSET
    n: Annotated[int, Meta(ge=1, le=limits.CANDIDATES, description="how many the index is asked for")] = 100


class RankBody(Struct, forbid_unknown_fields=True):
    """One context and many candidates: ids of the one entity of the model that ``entities`` does not name."""

    recalls: Annotated[list[Recall], Meta(min_length=1, max_length=limits.RECALLS)]
    entities: Annotated[dict[str, EntityId], Meta(description="join key -> id, of all entities of the model but the ranked one")] = {}
    context: Context = {}
    exclude: Annotated[list[CandidateId], Meta(max_length=limits.CANDIDATES, description="ids that are not ranked")] = []
    k: Annotated[int, Meta(ge=1, le=limits.CANDIDATES, description="how many are answered")] = 10
    deadline_ms: DeadlineMs | None = None
    explain: bool = False


class Ranked(Struct):
    """One candidate. ``value`` = ``score`` x ``weight`` is what it is ranked by."""

    id: CandidateId
    value: float
    score: float
    weight: float  # the largest of the recalls that found it
    sources: list[str]  # those recalls
    prediction_id: str
    features: dict[str, FeatureValue] | UnsetType = UNSET  # with explain: "view:feature" -> value
    parts: dict[str, float | None] | UnsetType = UNSET  # with explain, of an ensemble: "member@version" or a rule -> its value


class RankAnswer(Struct):
    """The best candidates, best first, and what ranked them."""

    model: str
    version: str
    variant: str
    provider: str
    asked_at: str
    candidate: str  # the join key whose ids are ranked
    candidates: int  # that were scored
    recalled: dict[str, int]  # recall -> how many it found, those of others and excluded ones among them
    ranked: list[Ranked]
    degraded: list[str]  # as of a score, and "recall:SOURCE": that one could not be read, and found nothing
    request_id: str
    members: dict[str, str] | UnsetType = UNSET  # of an ensemble: member -> its version
    assignment: Assignment | UnsetType = UNSET  # where the model is released, and the caller named no version


RANK_BODY = msgspec.json.Decoder(RankBody)
