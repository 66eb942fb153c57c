"""``POST /v1/rank``: candidates of several recalls, scored in one turn with everything else that is asked.

    1. read the features that recalls name, once, and look for near vectors (``recall``), where there are any
    2. merge the candidates: each once, weighted
    3. ask for a score of each, as one request: one read, one inference, admission and prediction log as of any score
    4. answer the best (``Work.answer``)
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from featureflow.errors import RequestError
from featureflow.reading.plan import ModelPlan
from featureflow.serve import problem
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.asked import Asked, row_of
from featureflow.serve.deadline import Deadline, budget_of
from featureflow.serve.priority import NOBODY, Caller
from featureflow.serve.ranking import Ranking
from featureflow.serve.recall import Found, Recalls
from featureflow.serve.request import Row
from featureflow.serve.scorer import Scorer
from featureflow.serve.version import Version
from featureflow.serve.wire.rank import RANK_BODY, RankBody
from featureflow.serve.wire.v1 import EntityId

READING_AT_ONCE = 64  # rank requests that wait for the features of their recalls: they are not in the scorer's queue yet


class Ranker:
    """Belongs to one event loop."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._reading = 0

    async def rank(
        self, name: str, ref: str, raw: bytes, *, request_id: str, since_s: float, trace: str, caller: Caller = NOBODY
    ) -> tuple[Deadline, Answer | Shed]:
        """The answer, and by when it is due. Raises RequestError: 404 for an unknown model or version, 400 and 422 for the body."""
        model = self._scorer.served.model(name)
        plan = self._scorer.plan_of(model, ref)
        try:
            body = RANK_BODY.decode(raw)
        except (ValueError, RecursionError) as error:
            raise problem.undecodable(error, raw) from None
        deadline_ms = caller.deadline_ms if body.deadline_ms is None else body.deadline_ms
        budget_s = budget_of(deadline_ms, plan.deadline_s)
        deadline = Deadline(since_s + budget_s, budget_s)
        candidate = ranked_entity(plan, body)
        recalls = Recalls(self._scorer, plan, candidate, body)
        found, said = Found(), list[str]()
        if recalls.waits:  # 1
            if self._reading >= READING_AT_ONCE:
                return deadline, Shed("queue_full", f"{self._reading} rank requests wait for their recalls; try again")
            self._reading += 1
            try:
                found, said = await recalls.find(deadline)
            finally:
                self._reading -= 1
        ranking = merge(body, candidate, found, said)  # 2
        if not ranking.ids:
            if lost := [source for source, ids in found.items() if ids is None]:
                return deadline, Shed("missing", f"no candidate: what {', '.join(lost)} would recall could not be read")
            raise RequestError("No candidates", "the recalls found none that is not excluded", status=422)
        sent = SentRank(body, ranking)  # 3
        due, future = self._scorer.ask(model, ref, sent, request_id=request_id, since_s=since_s, trace=trace, caller=caller)
        return due, await future


class SentRank:
    """The candidates of a rank request: see ``serve.sent.Sent``. One version ranks all of them."""

    __slots__ = ("_body", "_ranking")

    def __init__(self, body: RankBody, ranking: Ranking) -> None:
        self._body, self._ranking = body, ranking

    def of(self, version: Version) -> Asked:
        return Asked(rows_of(version.plan, self._body, self._ranking), self._body.deadline_ms, self._body.explain, self._ranking)

    def rows(self, version: Version, places: Sequence[int]) -> list[Row]:
        rows = rows_of(version.plan, self._body, self._ranking)
        return [rows[at] for at in places]

    def said(self) -> Asked:
        return Asked([], self._body.deadline_ms, self._body.explain, self._ranking)

    def ids(self, key: str) -> list[EntityId]:
        return [self._ranking.ids[0] if key == self._ranking.candidate else self._body.entities.get(key)]

    def check(self) -> None:
        """It was read."""


def ranked_entity(plan: ModelPlan, body: RankBody) -> str:
    """The join key whose ids are ranked: the one of the model's that the request does not name. Raises RequestError (422)."""
    left = [name for name in plan.join_keys if name not in body.entities]
    if len(left) == 1:
        return left[0]
    keys = ", ".join(plan.join_keys) or "no entity"
    raise RequestError(
        "Wrong entities",
        f"{plan.model.name} reads {keys}; entities must name all but the one whose ids are ranked: "
        + (f"it leaves out {', '.join(left)}" if left else "leave one of them out, whose ids are ranked"),
        status=422,
    )


def merge(body: RankBody, candidate: str, found: Found, said: list[str]) -> Ranking:
    """Step 2. ``said``: what was degraded while recalls were read."""
    ranking = Ranking(candidate, body.k, said)
    excluded = frozenset(body.exclude)
    for recall in body.recalls:
        ranking.add(recall, recall.ids if recall.ids is not UNSET else found[recall.source] or (), excluded)
    return ranking


def rows_of(plan: ModelPlan, body: RankBody, ranking: Ranking) -> list[Row]:
    """One row for each candidate. Raises RequestError (422) naming the candidate and the field."""
    if ranking.candidate not in plan.join_keys:
        raise RequestError("Wrong entities", f"{plan.model.name} does not read the ranked {ranking.candidate}", status=422)
    slot = list(plan.join_keys).index(ranking.candidate)
    entities = {name: entity_id for name, entity_id in body.entities.items() if name in plan.join_keys}
    alike = None if any(ranking.contexts) else row_of({**entities, ranking.candidate: ranking.ids[0]}, body.context, plan, "")
    rows = []
    for entity_id, context in zip(ranking.ids, ranking.contexts, strict=True):
        own = {**entities, ranking.candidate: entity_id}
        if alike is None:
            rows.append(row_of(own, {**body.context, **context}, plan, f"candidate {entity_id!r}: "))
            continue
        ids: tuple[EntityId, ...] = (*alike.ids[:slot], entity_id, *alike.ids[slot + 1 :])
        rows.append(Row(own, alike.context, ids, alike.inputs))
    return rows
