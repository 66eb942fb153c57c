"""``POST /v1/rank``: candidates of several recalls, scored in one turn with everything else that is asked.

    1. read the features that recalls name, once, where there are any
    2. merge the candidates: each once, weighted
    3. ask for a score of each, as one request: one read, one inference, admission and prediction log as of any score
    4. answer the best (``Work.answer``)
"""

from __future__ import annotations

from msgspec import UNSET

from featureflow import limits
from featureflow.define import spec
from featureflow.errors import RequestError
from featureflow.reading import features as feature_values
from featureflow.reading.features import Features
from featureflow.reading.fetch import Unread
from featureflow.reading.plan import ModelPlan, ViewPlan
from featureflow.serve import problem
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.asked import Asked, row_of
from featureflow.serve.deadline import Deadline, fetch_budget_s
from featureflow.serve.priority import NOBODY, Caller
from featureflow.serve.ranking import Ranking
from featureflow.serve.request import Row, check_id
from featureflow.serve.scorer import Scorer
from featureflow.serve.wire.rank import RANK_BODY, Candidate, CandidateId, RankBody, Recall
from featureflow.serve.wire.v1 import EntityId

READING_AT_ONCE = 64  # rank requests that wait for the features of their recalls: they are not in the scorer's queue yet
Found = dict[str, list[CandidateId] | None]  # a recall's source -> what its feature holds; None: it could not be read


class Ranker:
    """Belongs to one event loop."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._reading = 0

    async def rank(
        self, name: str, ref: str, raw: bytes, *, request_id: str, since_s: float, trace: str, caller: Caller = NOBODY
    ) -> tuple[Deadline, Answer | Shed]:
        """The answer, and by when it is due. Raises RequestError: 404 for an unknown model or version, 400 and 422 for the body."""
        plan = self._scorer.model(name)
        try:
            body = RANK_BODY.decode(raw)
        except (ValueError, RecursionError) as error:
            raise problem.undecodable(error) from None
        deadline_ms = caller.deadline_ms if body.deadline_ms is None else body.deadline_ms
        budget_s = plan.model.deadline_us * 1e-6 if deadline_ms is None else deadline_ms * 1e-3
        deadline = Deadline(since_s + budget_s, budget_s)
        candidate = ranked_entity(plan, body)
        self._check(plan, candidate, body)
        found, said = Found(), list[str]()
        if any(recall.feature is not UNSET for recall in body.recalls):  # 1
            if self._reading >= READING_AT_ONCE:
                return deadline, Shed("queue_full", f"{self._reading} rank requests wait for their recalls; try again")
            self._reading += 1
            try:
                found, said = await self._read(plan, candidate, body, deadline)
            finally:
                self._reading -= 1
        ranking = merge(body, candidate, found, said)  # 2
        if not ranking.ids:
            if lost := [source for source, ids in found.items() if ids is None]:
                return deadline, Shed("missing", f"no candidate: what {', '.join(lost)} would recall could not be read")
            raise RequestError("No candidates", "the recalls found none that is not excluded", status=422)
        asked = Asked(rows_of(plan, body, ranking), body.deadline_ms, body.explain, ranking)  # 3
        due, future = self._scorer.ask(plan, ref, asked, request_id=request_id, since_s=since_s, trace=trace, caller=caller)
        return due, await future

    def _check(self, plan: ModelPlan, candidate: str, body: RankBody) -> None:
        """Raises RequestError (422) for recalls that cannot be read as they stand, or that may find too many."""
        sources = [recall.source for recall in body.recalls]
        if len(set(sources)) < len(sources):
            twice = next(source for source in sources if sources.count(source) > 1)
            raise RequestError("Two recalls of one name", f"two recalls are called {twice!r}; give each its own source", status=422)
        given: set[CandidateId] = set()
        others, keys = 0, set(plan.join_keys) - {candidate}
        for index, recall in enumerate(body.recalls):
            place = f"recalls[{index}]"
            if (recall.ids is UNSET) == (recall.feature is UNSET):
                raise RequestError("Which candidates?", f"{place} ({recall.source}) must have either ids or feature", status=422)
            if recall.ids is not UNSET:
                for number, one in enumerate(recall.ids):
                    entity_id = one.id if isinstance(one, Candidate) else one
                    check_id(entity_id, plan.join_keys[candidate], f"{place}.ids[{number}]")
                    given.add(entity_id)
                continue
            view, feature = self._feature(recall, place)
            others += _listing(view, feature, plan.join_keys[candidate], place).size
            keys.add(view.view.join_key)
            if view.view.join_key not in body.entities:
                raise RequestError(
                    "Wrong entities", f"{place}.feature is of {view.view.join_key!r}, which entities does not name", status=422
                )
            check_id(body.entities[view.view.join_key], view.entity_type, f"entities.{view.view.join_key}")
        if unknown := sorted(body.entities.keys() - keys):
            raise RequestError("Wrong entities", f"entities: not known: {', '.join(name[:64] for name in unknown[:8])}", status=422)
        if len(given) + others > limits.CANDIDATES:
            raise RequestError(
                "Too many candidates",
                f"{len(given)} ids and up to {others} of features are more than {limits.CANDIDATES}; send fewer",
                status=422,
            )

    def _feature(self, recall: Recall, place: str) -> tuple[ViewPlan, int]:
        reference = str(recall.feature)
        view = self._scorer.current().views.get(reference.partition(":")[0])
        if view is None or reference not in view.references:
            known = "views: " + ", ".join(self._scorer.current().views) if view is None else ", ".join(view.references)
            raise RequestError("No such feature", f"{place}.feature is {reference[:128]!r}; there are {known}", status=422)
        return view, view.references.index(reference)

    async def _read(self, plan: ModelPlan, candidate: str, body: RankBody, deadline: Deadline) -> tuple[Found, list[str]]:
        """What the recalls' features hold, and what of that was degraded."""
        named: list[tuple[str, ViewPlan, int]] = []
        for index, recall in enumerate(body.recalls):
            if recall.feature is not UNSET:
                named.append((recall.source, *self._feature(recall, f"recalls[{index}]")))
        wanted = {view: [body.entities[view.view.join_key]] for _, view, _ in named}
        read = await self._scorer.fetcher.fetch(wanted, fetch_budget_s(deadline.left_s()))
        if isinstance(read, Unread):
            return {source: None for source, _, _ in named}, [f"recall:{source}" for source, _, _ in named]
        q_us, kind = self._scorer.clock.now_us(), plan.join_keys[candidate]
        values = {view: feature_values.finalize(reading, q_us) for view, reading in read.items()}
        found = {source: None if values[view].lost else ids_in(values[view], feature, kind) for source, view, feature in named}
        said = [what for one in values.values() for what in one.degraded]
        return found, [*dict.fromkeys(said), *(f"recall:{source}" for source, ids in found.items() if ids is None)]


def ranked_entity(plan: ModelPlan, body: RankBody) -> str:
    """The join key whose ids are ranked: the one of the model's that the request does not name. Raises RequestError (422)."""
    left = [name for name in plan.join_keys if name not in body.entities]
    if len(left) == 1:
        return left[0]
    keys = ", ".join(plan.join_keys) or "no entity"
    raise RequestError(
        "Wrong entities",
        f"{plan.model.name} reads {keys}; entities must name all but the one whose ids are ranked"
        + (f", and leaves out {', '.join(left)}" if left else ", and leaves out none"),
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


def ids_in(values: Features, feature: int, kind: str) -> list[CandidateId]:
    """The ids that a feature of one entity holds, in its order; of a numeric one those that are whole numbers."""
    shown = values.shown(0, feature)
    listed = shown if isinstance(shown, list) else [shown]
    if kind == "str":
        return [value for value in listed if isinstance(value, str) and value]
    return [int(value) for value in listed if isinstance(value, float) and value.is_integer() and abs(value) <= limits.INTEGER_ABS]


def _listing(view: ViewPlan, number: int, kind: str, place: str) -> spec.Feature:
    """The feature, if it holds ids of that type. Raises RequestError (422)."""
    feature = view.view.features[number]
    if feature.aggregation.vector or feature.is_text != (kind == "str"):
        holds = "a vector" if feature.aggregation.vector else "strings" if feature.is_text else "numbers"
        raise RequestError(
            "Not a feature of ids", f"{place}.feature {feature.reference} holds {holds}; the ranked ids are of type {kind}", status=422
        )
    return feature
