"""One model's part of a turn: from the features of its views to an answer for each request, and the record of it.

    4. derive the model's inputs        5. infer        6. answer each request; give what is to be logged
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

import msgspec
import numpy as np
import structlog
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from featureflow import limits
from featureflow.errors import ModelError
from featureflow.kernel.derive import features_to_inputs
from featureflow.models.ensemble import Loaded, LoadedEnsemble, parts_of, split
from featureflow.reading.features import Features
from featureflow.reading.plan import ModelPlan, ViewPlan
from featureflow.reading.seen import feature_columns, rows_missing
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.explain import explain, rfc3339
from featureflow.serve.prediction_log import NUMBER_BYTES, ROW_BYTES, Applied, Predictions
from featureflow.serve.ranking import Ranking
from featureflow.serve.request import Request
from featureflow.serve.score_cache import Recalled
from featureflow.serve.turn import Batch
from featureflow.serve.wire.rank import RankAnswer, Ranked
from featureflow.serve.wire.v1 import FeatureValue, ScoreAnswer

Wanted = dict[ViewPlan, dict[str | int | None, int]]  # the ids that a turn reads of each view, and the place of each
log = structlog.get_logger("featureflow.serve")


class Work:
    """Requests of one model and version, their rows one after another, and each row's place in each view's features."""

    __slots__ = ("_degraded", "_found", "_parts", "_q_us", "_values", "loaded", "places", "plan", "recalled", "requests", "rows")

    def __init__(self, plan: ModelPlan, loaded: Loaded, requests: Batch, wanted: Wanted) -> None:
        """Adds the rows' ids to ``wanted``."""
        self.plan, self.loaded, self.requests = plan, loaded, requests
        self.recalled: Recalled | None = None  # what is known of its rows' scores, where the model is declared to remember any
        self.rows = requests[0].rows if len(requests) == 1 else [row for request in requests for row in request.rows]
        self.places: list[NDArray[np.intp]] = []
        for view, key in zip(plan.views, plan.slots, strict=True):
            ids = wanted.setdefault(view, {})
            self.places.append(np.array([ids.setdefault(row.ids[key], len(ids)) for row in self.rows], np.intp))

    def see(self, found: list[Features], q_us: int, said: tuple[str, ...]) -> None:
        """What the model's views are at ``q_us``. ``said``: what was degraded for the whole turn.

        Rows that lack a feature are refused where the model is declared to.
        """
        self._found, self._q_us = found, q_us
        self._values = [f.values[place] for f, place in zip(found, self.places, strict=True)]
        self._degraded = list(dict.fromkeys((*said, *(d for f in found for d in f.degraded))))
        name = self.plan.model.name
        if self.plan.model.when_missing == "refuse" and any(f.lost for f in found):
            where = said or dict.fromkeys(d for f in found if f.lost for d in f.degraded)
            why = f"{', '.join(where)}: features that {name} reads are missing, and it is declared to refuse then"
            lost = rows_missing(self.plan, found, self.places, len(self.rows))
            self._refuse_rows(set(np.flatnonzero(lost).tolist()), Shed("missing", why))

    def inputs(self) -> NDArray[np.float64]:
        """Step 4: float64 (n, width), as the model's definition says."""
        plan = self.plan
        columns = feature_columns(plan, self._found, self.places, self._values)
        for index, asked in enumerate(plan.context.values()):
            if asked.field.type == "vector":
                nothing = [np.nan] * asked.field.size
                vectors = [nothing if (value := row.inputs[index]) is None else value for row in self.rows]
                columns[asked.column] = np.array(vectors, np.float64) + 0.0
                continue
            kind = object if asked.field.type == "str" else np.float64
            column = np.array([row.inputs[index] for row in self.rows], kind)  # a null number becomes NaN
            columns[asked.column] = column if kind is object else column + 0.0  # -0.0 becomes 0.0
        return features_to_inputs(plan.model, columns)

    def compute(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same where the model takes every row, in whatever thread. Raises ModelError."""
        if self.recalled is None:
            self._parts = split(self.loaded, inputs)
            return self._parts[:, 0]
        scores, unknown = self.recalled.scores.copy(), self.recalled.unknown
        if unknown:
            scores[unknown] = self.loaded.score(inputs[unknown])
        self._parts = scores[:, np.newaxis]
        return scores

    def infer(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Step 5: scores (n,). A row that the model refuses is answered by itself, so that it does not take its neighbours along."""
        try:
            return self.compute(inputs)
        except ModelError:
            scores, refused = self.compute_each(inputs)
            self.refuse(refused)
            return scores

    def compute_each(self, inputs: NDArray[np.float64]) -> tuple[NDArray[np.float64], dict[int, str]]:
        """Row by row, in whatever thread: scores (n,), NaN for a row that the model refuses, and why it does."""
        scores = self._parts = np.full((len(inputs), 1 + len(parts_of(self.loaded))), np.nan)
        refused: dict[int, str] = {}
        for row in range(len(inputs)):
            try:
                scores[row] = split(self.loaded, inputs[row : row + 1])[0]
            except ModelError as error:
                refused[row] = str(error)
        return scores[:, 0], refused

    def refuse(self, refused: dict[int, str]) -> None:
        """Answer the requests of these rows with why the model refuses the first of them."""
        if refused:
            why = next(iter(refused.values()))
            self._refuse_rows(set(refused), Shed("model", why))
            log.warning("model_refused_rows", model=self.plan.model.name, rows=len(refused), first=why)

    def answer(self, scores: NDArray[np.float64], new_ids: Callable[[int], list[str]]) -> Predictions | None:
        """Step 6: answer every request that is still waited for; what was answered, or None where nothing was."""
        plan, loaded, now_s = self.plan, self.loaded, monotonic()
        asked_at, name = rfc3339(self._q_us), plan.model.name
        version, variant, provider = loaded.version, loaded.variant, loaded.provider
        listed, ids = scores.tolist(), new_ids(len(scores))
        versions = loaded.versions if isinstance(loaded, LoadedEnsemble) else None
        at = 0
        kept: list[tuple[Request, int, int]] = []
        for request in self.requests:
            first, at = at, at + len(request.rows)
            if request.future.done():
                continue
            if request.deadline.at_s <= now_s:
                request.future.set_result(Shed("late", "its deadline passed before its score was ready"))
                continue
            if request.ranking is not None:
                body: RankAnswer | ScoreAnswer = self._ranked(request, request.ranking, asked_at, listed[first:at], ids[first:at], first)
            else:
                body = ScoreAnswer(
                    name,
                    version,
                    variant,
                    provider,
                    asked_at,
                    listed[first:at],
                    ids[first:at],
                    self._degraded,
                    request.id,
                    explain(plan, self._found, self.places, range(first, at)) if request.explain else UNSET,
                    UNSET if versions is None else versions,
                    self._explained_parts(range(first, at)) if request.explain and versions is not None else UNSET,
                    UNSET if request.assigned is None else request.assigned.wire,
                )
            request.future.set_result(Answer(200, msgspec.json.encode(body)))
            kept.append((request, first, at))
        return self._predictions(kept, listed, ids) if kept else None

    def _ranked(
        self, request: Request, ranking: Ranking, asked_at: str, scores: list[float], ids: list[str], first: int
    ) -> RankAnswer:
        """The best of a rank request's candidates, whose rows begin at ``first``."""
        best, loaded = ranking.best(scores), self.loaded
        rows = [first + place for place, _ in best]
        is_ensemble, n = isinstance(loaded, LoadedEnsemble), len(rows)
        features: Sequence[dict[str, FeatureValue] | UnsetType] = [UNSET] * n
        parts: Sequence[dict[str, float | None] | UnsetType] = [UNSET] * n
        if request.explain:
            features = explain(self.plan, self._found, self.places, rows)
            parts = self._explained_parts(rows) if is_ensemble else parts
        weights = ranking.weights.tolist()
        return RankAnswer(
            self.plan.model.name,
            loaded.version,
            loaded.variant,
            loaded.provider,
            asked_at,
            ranking.candidate,
            len(scores),
            ranking.recalled,
            [
                Ranked(ranking.ids[i], value, scores[i], weights[i], ranking.sources[i], ids[i], shown, of_ensemble)
                for (i, value), shown, of_ensemble in zip(best, features, parts, strict=True)
            ],
            list(dict.fromkeys((*ranking.degraded, *self._degraded))),
            request.id,
            loaded.versions if isinstance(loaded, LoadedEnsemble) else UNSET,
            UNSET if request.assigned is None else request.assigned.wire,
        )

    def _explained_parts(self, rows: range | list[int] | NDArray[np.intp]) -> list[dict[str, float | None]]:
        """Per row what an ensemble's score was made of: ``member@version`` and the names of rules -> value."""
        return [dict(zip(parts_of(self.loaded), row, strict=True)) for row in self._parts[rows, 1:].tolist()]

    def fail(self, why: Shed) -> None:
        """Answer every request that has no answer yet."""
        for request in self.requests:
            if not request.future.done():
                request.future.set_result(why)

    def shadowed(self, scores: NDArray[np.float64], ids: list[str]) -> Predictions:
        """What is to be logged of rows that answer nobody. ``ids``: of the predictions that did."""
        kept, at = [], 0
        for request in self.requests:
            first, at = at, at + len(request.rows)
            kept.append((request, first, at))
        return self._predictions(kept, scores.tolist(), ids)

    def _predictions(
        self, kept: list[tuple[Request, int, int]], scores: list[float], ids: list[str]
    ) -> Predictions:
        found, n, rows = self._found, len(ids), self.rows
        features = np.concatenate(self._values, axis=1) if found else np.empty((n, 0))
        statuses = [f.statuses[place] for f, place in zip(found, self.places, strict=True)]
        letters = np.concatenate(statuses, axis=1) if found else np.empty((n, 0), np.int8)
        texts = [f.texts[i][place] for f, place in zip(found, self.places, strict=True) for i in f.texts]
        strings = np.concatenate(texts, axis=1).tolist() if texts else None
        chosen = None
        if sum(last - first for _, first, last in kept) < n:
            chosen = np.concatenate([np.arange(first, last) for _, first, last in kept])
            features, letters = features[chosen], letters[chosen]
            rows, scores, ids = [rows[i] for i in chosen], [scores[i] for i in chosen], [ids[i] for i in chosen]
            strings = strings and [strings[i] for i in chosen]
        parts = None
        if isinstance(self.loaded, LoadedEnsemble):
            parts = self._explained_parts(np.arange(n) if chosen is None else chosen)
        row_bytes = ROW_BYTES
        if numbers := sum(asked.field.size for asked in self.plan.context.values() if asked.field.type == "vector"):
            for row in rows:
                row.inputs = ()  # what is logged of them is in the context: an image must not wait for the log
            row_bytes += NUMBER_BYTES * numbers if numbers <= limits.LOGGED_NUMBERS else 0
        return Predictions(
            asked_at_us=self._q_us,
            model=self.plan.model.name,
            version=self.loaded.version,
            variant=self.loaded.variant,
            provider=self.loaded.provider,
            rows=rows,
            prediction_ids=ids,
            request_ids=[request.id for request, first, last in kept for _ in range(first, last)],
            traces=[request.trace for request, first, last in kept for _ in range(first, last)],
            scores=scores,
            views=self.plan.view_versions,
            applied=self._applied(chosen),
            features=features,
            statuses=letters,
            texts=strings,
            parts=parts,
            row_bytes=row_bytes,
            degraded=self._degraded,
            assignment=None if self.requests[0].assigned is None else self.requests[0].assigned.logged,
        )

    def _applied(self, chosen: NDArray[np.intp] | None) -> list[Applied]:
        """The offsets that the chosen rows count up to."""
        applied = []
        for found, place in zip(self._found, self.places, strict=True):
            of = [found.places[i] for i in (place if chosen is None else place[chosen]).tolist()]
            applied.append(Applied(found.plan.view.name, found.standings or [{}], of))
        return applied

    def _refuse_rows(self, refused: set[int], why: Shed) -> None:
        """Answer each request that has one of these rows with ``why``."""
        at = 0
        for request in self.requests:
            first, at = at, at + len(request.rows)
            if not request.future.done() and any(row in refused for row in range(first, at)):
                request.future.set_result(why)


def ages_s(works: Sequence[Work]) -> dict[ViewPlan, float]:
    """Views whose state is to be kept, and how old it may be, as far as all models of the turn that read it take it."""
    keeping = {view for work in works if work.plan.keeps_state for view in work.plan.views}
    if not keeping:
        return {}
    ages: dict[ViewPlan, float] = {}
    for work in works:
        for view in work.plan.views:
            ages[view] = min(work.plan.max_age_s, ages.get(view, work.plan.max_age_s))
    return {view: age_s for view, age_s in ages.items() if view in keeping}
