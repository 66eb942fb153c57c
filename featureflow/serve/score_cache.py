"""Scores of inputs that were scored before, for models that are declared to remember them.

A score is kept under the exact bytes of its inputs, as they go into the model: after derived features and what the request sent.
It is of one loaded model (a version, variant and provider, as it was loaded) and of one definition: another of either begins empty,
and when nobody holds on to either any more, its scores are gone with it.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.reading.plan import ModelPlan

Floats = NDArray[np.float64]
ENTRY_BYTES = 250  # of a score beside the bytes of its inputs
KEPT = 16  # models whose scores are kept at once


class Scores:
    """Of one loaded model and definition; what was not used for longest goes first."""

    def __init__(self, capacity: int, width: int) -> None:
        self._capacity = min(capacity, limits.CACHED_SCORES_BYTES // (ENTRY_BYTES + 8 * width))
        self._scores: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, key: bytes) -> float | None:
        found = self._scores.get(key)
        if found is not None:
            self._scores.move_to_end(key)
        return found

    def put(self, key: bytes, score: float) -> None:
        self._scores[key] = score
        if len(self._scores) > self._capacity:
            self._scores.popitem(last=False)


class Recalled:
    """What is known of some inputs: ``scores`` float64 (n,), and the rows that are ``unknown``."""

    __slots__ = ("_keys", "_known", "scores", "unknown")

    def __init__(self, known: Scores, keys: list[bytes], scores: Floats, unknown: list[int]) -> None:
        self._known, self._keys, self.scores, self.unknown = known, keys, scores, unknown

    def keep(self, scores: Floats) -> None:
        """Of rows that were unknown; one that was refused has none, and is not kept."""
        for row in self.unknown:
            if np.isfinite(scores[row]):
                self._known.put(self._keys[row], float(scores[row]))


class ScoreCache:
    """Of one scorer. ``hits`` and ``misses`` count rows."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[int, int], tuple[weakref.ref[object], weakref.ref[ModelPlan], Scores]] = OrderedDict()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return sum(len(scores) for _, _, scores in self._models.values())

    def look(self, plan: ModelPlan, loaded: object, inputs: Floats) -> Recalled:
        """What is known of float64 (n, width)."""
        known = self._of(plan, loaded, inputs.shape[1])
        data, size = np.ascontiguousarray(inputs).tobytes(), 8 * inputs.shape[1]
        keys = [data[at : at + size] for at in range(0, len(data), size)]
        found = [known.get(key) for key in keys]
        unknown = [row for row, score in enumerate(found) if score is None]
        self.hits += len(keys) - len(unknown)
        self.misses += len(unknown)
        return Recalled(known, keys, np.array(found, np.float64), unknown)  # None becomes NaN

    def _of(self, plan: ModelPlan, loaded: object, width: int) -> Scores:
        key = id(plan), id(loaded)
        found = self._models.get(key)
        if found is None or found[0]() is not loaded or found[1]() is not plan:  # an id may be another's by now

            def forget(_: object) -> None:
                self._models.pop(key, None)

            self._models[key] = found = weakref.ref(loaded, forget), weakref.ref(plan, forget), Scores(plan.model.cache_scores, width)
            if len(self._models) > KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return found[2]
