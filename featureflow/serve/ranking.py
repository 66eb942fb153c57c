"""What a rank request asks for, candidate by candidate, and which of them are best once they are scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from featureflow.serve.wire.rank import Candidate, CandidateId, Recall
from featureflow.serve.wire.v1 import Value


class Ranking:
    """The candidates of one request, merged: each once, under all recalls that found it, with the largest of their weights."""

    def __init__(self, candidate: str, k: int, degraded: list[str]) -> None:
        """``candidate``: the join key whose ids are ranked. ``degraded``: what was while they were found."""
        self.candidate, self.k, self.degraded = candidate, k, degraded
        self.recalled: dict[str, int] = {}
        self.ids: list[CandidateId] = []
        self.contexts: list[Mapping[str, Value]] = []  # their own, beside the request's
        self.sources: list[list[str]] = []
        self._weights: list[float] = []
        self._places: dict[CandidateId, int] = {}

    def add(self, recall: Recall, found: Iterable[CandidateId | Candidate], excluded: frozenset[CandidateId]) -> None:
        """What a recall found. Of two contexts for one candidate the first that says anything stands."""
        seen: set[CandidateId] = set()
        for one in found:
            entity_id, context = (one.id, one.context) if isinstance(one, Candidate) else (one, {})
            if entity_id in seen:
                continue
            seen.add(entity_id)
            if entity_id in excluded:
                continue
            place = self._places.setdefault(entity_id, len(self.ids))
            if place == len(self.ids):
                self.ids.append(entity_id)
                self.contexts.append(context)
                self.sources.append([recall.source])
                self._weights.append(recall.weight)
                continue
            self.sources[place].append(recall.source)
            self._weights[place] = max(self._weights[place], recall.weight)
            self.contexts[place] = self.contexts[place] or context
        self.recalled[recall.source] = len(seen)

    @property
    def weights(self) -> NDArray[np.float64]:
        """float64 (candidates,)."""
        return np.array(self._weights, np.float64)

    def best(self, scores: Sequence[float]) -> list[tuple[int, float]]:
        """(Place, score x weight) of the best ``k``, best first; of equal ones that which was found first."""
        values = np.asarray(scores, np.float64) * self.weights
        order = np.argsort(-values, kind="stable")[: self.k]
        return list(zip(order.tolist(), values[order].tolist(), strict=True))
