"""Where candidates come from: ids that the request gives, ids that a feature holds, and ids whose vectors are near one."""

from __future__ import annotations

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from featureflow import limits
from featureflow.errors import RequestError
from featureflow.reading import features as feature_values
from featureflow.reading.features import Features
from featureflow.reading.fetch import Ids, Reading, Unread
from featureflow.reading.plan import ModelPlan, ViewPlan
from featureflow.serve.deadline import Deadline, fetch_budget_s
from featureflow.serve.request import check_id
from featureflow.serve.scorer import Scorer
from featureflow.serve.wire.rank import Candidate, CandidateId, RankBody, Recall
from featureflow.store.vectors.folder import VectorIndex

Found = dict[str, list[CandidateId] | None]  # a recall's source -> what it found; None: what it is found by could not be read
Column = tuple[ViewPlan, int]  # a feature, by its place in its view


class Recalls:
    """Those of one request. Raises RequestError (422) for what cannot be found as it stands, or may be too much."""

    def __init__(self, scorer: Scorer, plan: ModelPlan, candidate: str, body: RankBody) -> None:
        self._scorer, self._plan, self._body = scorer, plan, body
        self._kind = plan.join_keys[candidate]  # of the ids
        self._listed: list[tuple[str, Column]] = []  # source, and the feature that holds its ids
        self._near: list[tuple[Recall, VectorIndex, Column | NDArray[np.float32]]] = []
        keys = set(plan.join_keys) - {candidate}
        sources = [recall.source for recall in body.recalls]
        if len(set(sources)) < len(sources):
            twice = next(source for source in sources if sources.count(source) > 1)
            raise RequestError("Two recalls of one name", f"two recalls are called {twice!r}; give each its own source", status=422)
        given: set[CandidateId] = set()
        others = 0
        for index, recall in enumerate(body.recalls):
            place = f"recalls[{index}]"
            if [recall.ids, recall.feature, recall.index].count(UNSET) != 2 or (recall.index is UNSET) != (recall.near is UNSET):
                raise RequestError(
                    "Which candidates?", f"{place} ({recall.source}) must have either ids or feature, or index and near", status=422
                )
            if recall.ids is not UNSET:
                for number, one in enumerate(recall.ids):
                    entity_id = one.id if isinstance(one, Candidate) else one
                    check_id(entity_id, self._kind, f"{place}.ids[{number}]")
                    given.add(entity_id)
            elif recall.feature is not UNSET:
                column = self._column(recall.feature, f"{place}.feature", keys)
                others += self._listing(column, f"{place}.feature")
                self._listed.append((recall.source, column))
            else:
                self._near.append(self._nearest(recall, place, keys))
                others += recall.n
        if unknown := sorted(body.entities.keys() - keys):
            raise RequestError("Wrong entities", f"entities: not known: {', '.join(name[:64] for name in unknown[:8])}", status=422)
        if len(given) + others > limits.CANDIDATES:
            raise RequestError(
                "Too many candidates",
                f"{len(given)} ids and up to {others} of features and indexes are more than {limits.CANDIDATES}; send fewer",
                status=422,
            )

    @property
    def waits(self) -> bool:
        """Whether something has to be read or searched."""
        return bool(self._listed or self._near)

    async def find(self, deadline: Deadline) -> tuple[Found, list[str]]:
        """What they find beside what is given, from one read of all features that they name; and what of that was degraded."""
        columns = [column for _, column in self._listed] + [by for _, _, by in self._near if isinstance(by, tuple)]
        wanted: dict[ViewPlan, Ids] = {view: [self._body.entities[view.view.join_key]] for view, _ in columns}
        values: dict[ViewPlan, Features] = {}
        if wanted:
            read = await self._read(wanted, deadline)
            q_us, finalized = self._scorer.clock.now_us(), self._scorer.way.finalized
            values = {view: feature_values.finalize(reading, q_us, finalized) for view, reading in read.items()}
        found: Found = {}
        for source, (view, feature) in self._listed:
            of_view = values.get(view)
            found[source] = None if of_view is None or of_view.lost else ids_in(of_view, feature, self._kind)
        for recall, index, by in self._near:
            vector: NDArray[np.float32] | None
            if isinstance(by, tuple):
                of_view = values.get(by[0])
                vector = None if of_view is None or of_view.lost else of_view.values[0, by[0].columns[by[1]]].astype(np.float32)
            else:
                vector = by
            if vector is None:
                found[recall.source] = None
            else:                              # an entity that has no vector yet is near nothing
                found[recall.source] = await self._scorer.vectors.near(index, vector, recall.n) if np.isfinite(vector).all() else []
        said = [what for one in values.values() for what in one.degraded]
        return found, [*dict.fromkeys(said), *(f"recall:{source}" for source, ids in found.items() if ids is None)]

    async def _read(self, wanted: dict[ViewPlan, Ids], deadline: Deadline) -> dict[ViewPlan, Reading]:
        """The state that they go by, of before where the model is declared to take it; nothing where it cannot be read."""
        plan, fetcher = self._plan, self._scorer.fetcher
        ages_s = dict.fromkeys(wanted, plan.max_age_s) if plan.keeps_state else None
        read = await fetcher.fetch(wanted, fetch_budget_s(deadline.left_s()), ages_s)
        if not isinstance(read, Unread):
            return read
        if not plan.keeps_state:
            return {}
        return {view: fetcher.last_known(view, ids, plan.max_age_s, plan.stale_for_s) for view, ids in wanted.items()}

    def _column(self, reference: str, place: str, keys: set[str]) -> Column:
        """The feature, of an entity that the request names, whose join key is noted."""
        views = self._scorer.served.current().views
        view = views.get(reference.partition(":")[0])
        if view is None or reference not in view.references:
            known = "views: " + ", ".join(views) if view is None else ", ".join(view.references)
            raise RequestError("No such feature", f"{place} is {reference[:128]!r}; there are {known}", status=422)
        key = view.view.join_key
        if key not in self._body.entities:
            raise RequestError("Wrong entities", f"{place} is of {key!r}, which entities does not name", status=422)
        check_id(self._body.entities[key], view.entity_type, f"entities.{key}")
        keys.add(key)
        return view, view.references.index(reference)

    def _listing(self, column: Column, place: str) -> int:
        """How many ids the feature may hold."""
        feature = column[0].view.features[column[1]]
        if feature.aggregation.vector or feature.is_text != (self._kind == "str"):
            holds = "a vector" if feature.aggregation.vector else "strings" if feature.is_text else "numbers"
            raise RequestError(
                "Not a feature of ids", f"{place} {feature.reference} holds {holds}; the ranked ids are of type {self._kind}", status=422
            )
        return feature.size

    def _nearest(self, recall: Recall, place: str, keys: set[str]) -> tuple[Recall, VectorIndex, Column | NDArray[np.float32]]:
        index = self._scorer.vectors.get(str(recall.index))
        if index is None:
            known = ", ".join(self._scorer.vectors.names) or "none"
            raise RequestError("No such index", f"{place}.index is {str(recall.index)[:64]!r}; there are: {known}", status=422)
        held, wanted = index.manifest.ids, index.manifest.size
        if held != self._kind:
            raise RequestError(
                "Not an index of these ids", f"{place}: ids of the index are of type {held}, the ranked ones {self._kind}", status=422
            )
        by: Column | NDArray[np.float32]
        if isinstance(recall.near, str):
            by = self._column(recall.near, f"{place}.near", keys)
            size = by[0].view.features[by[1]].aggregation.vector
        else:
            by = np.array(recall.near or [], np.float32)
            size = len(by)
        if size != wanted or (not isinstance(by, tuple) and not np.isfinite(by).all()):
            raise RequestError("Wrong vector", f"{place}.near must be {wanted} numbers, or a feature that is such a vector", status=422)
        return recall, index, by


def ids_in(values: Features, feature: int, kind: str) -> list[CandidateId]:
    """The ids that a feature of one entity holds, in its order; of a numeric one those that are whole numbers."""
    shown = values.shown(0, feature)
    listed = shown if isinstance(shown, list) else [shown]
    if kind == "str":
        return [value for value in listed if isinstance(value, str) and value]
    return [int(value) for value in listed if isinstance(value, float) and value.is_integer() and abs(value) <= limits.INTEGER_ABS]
