"""A version in the shadow of those that answer: it scores the same inputs after the answers have gone, and delays none.

It has a session and a thread of its own. Where it does not keep up, turns are left out and counted, not queued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models.loaded import LoadedModel
from featureflow.models.loader import ModelLoader
from featureflow.models.release import SHADOW, Arm, Release, check_released
from featureflow.serve.prediction_log import Predictions
from featureflow.serve.wire.v1 import Assignment

REFUSAL_S = 5.0                            # before a shadow that could not be loaded is tried again: each turn would load it anew
WAITING = 4                                # turns that may wait for the thread
SUFFIX = ".shadow"                         # of a shadow's prediction ids, after the id of the prediction that answered
log = structlog.get_logger("featureflow.serve")


class Shadows:
    """Belongs to one event loop. ``logged``: takes what is to stand in the prediction log. ``counted``: (model, version, outcome, rows),
    ``differs``: (model, version, |score - answered score| float64 (n,))."""

    def __init__(
        self,
        loader: ModelLoader,
        *,
        logged: Callable[[Predictions], object],
        counted: Callable[[str, str, str, int], None],
        differs: Callable[[str, str, NDArray[np.float64]], None],
    ) -> None:
        self._loader, self._logged, self._counted, self._differs = loader, logged, counted, differs
        self._loaded: dict[str, tuple[Release, LoadedModel]] = {}  # by model
        self._refused: dict[str, tuple[Release, float, str]] = {}  # by model: which could not be loaded, when and why
        self._problems: dict[str, str] = {}  # by model: what was said last of why it fails
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._waiting = 0

    def offer(self, model: spec.Model, release: Release, inputs: NDArray[np.float64], answered: Predictions) -> None:
        """The inputs float64 (n, width) of a turn and what was answered to them."""
        assert release.shadow is not None
        n = len(answered.rows)
        if self._waiting >= WAITING or n < len(inputs):    # rows that were not answered are gone from ``answered``
            self._counted(release.model, release.shadow.version, "skipped", n)
            return
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._score, model, release, inputs)
        future.add_done_callback(lambda done: self._scored(release, answered, done))

    def keep(self, models: Collection[str]) -> None:
        """Let go of the sessions of all other models: their shadows have ended."""
        for gone in [name for name in self._loaded if name not in models]:
            self._loaded.pop(gone, None)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _score(self, model: spec.Model, release: Release, inputs: NDArray[np.float64]) -> tuple[LoadedModel, NDArray[np.float64]]:
        """In the thread. Raises ModelError."""
        assert release.shadow is not None
        known = self._loaded.get(release.model)
        if known is None or known[0].shadow != release.shadow:
            known = self._loaded[release.model] = (release, self._load(model, release, release.shadow))
        return known[1], known[1].score(inputs)

    def _load(self, model: spec.Model, release: Release, shadow: Arm) -> LoadedModel:
        refused = self._refused.get(release.model)
        if refused is not None and refused[0].shadow == shadow and monotonic() - refused[1] < REFUSAL_S:
            raise ModelError(refused[2])
        try:
            loaded = self._loader.load(release.model, shadow.version, model=model)
            check_released(loaded.manifest, shadow.content, self._loader.path)
        except ModelError as error:
            self._refused[release.model] = (release, monotonic(), str(error))
            raise
        return loaded

    def _scored(
        self, release: Release, answered: Predictions, done: asyncio.Future[tuple[LoadedModel, NDArray[np.float64]]]
    ) -> None:
        assert release.shadow is not None
        self._waiting -= 1
        if done.cancelled():
            return
        n, version = len(answered.rows), release.shadow.version
        error = done.exception()
        if error is not None:
            if self._problems.get(release.model) != str(error):
                self._problems[release.model] = str(error)
                log.warning("shadow_failed", model=release.model, version=version, rows=n, error=str(error))
            self._counted(release.model, version, "failed", n)
            return
        self._problems.pop(release.model, None)
        loaded, scores = done.result()
        self._counted(release.model, version, "scored", n)
        self._differs(release.model, version, np.abs(scores - np.asarray(answered.scores)))
        self._logged(
            replace(
                answered, version=version, variant=loaded.variant, provider=loaded.provider, scores=scores.tolist(),
                prediction_ids=[name + SUFFIX for name in answered.prediction_ids],
                assignment=msgspec.json.encode(Assignment(release.number, SHADOW)).decode(),
            )
        )
