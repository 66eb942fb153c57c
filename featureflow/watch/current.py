"""The version of a model that scores a stream now: loaded beside the stream, and changed between two batches."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

import structlog

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models.loaded import LoadedModel
from featureflow.models.store import ModelStore

LOOK_S = 5.0                               # how often it is looked whether the ref stands for another version, as the scorer does
log = structlog.get_logger("featureflow.watch")


class CurrentModel:
    """``ref``: a version, an alias, or empty for the latest. Used from one thread."""

    def __init__(self, store: ModelStore, model: spec.Model, ref: str) -> None:
        self._store, self._model, self._ref = store, model, ref
        self._loaded: LoadedModel | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._loading: Future[LoadedModel] | None = None
        self._due = 0.0
        self.problem = ""                  # why there is none, or not the one that there should be

    def get(self) -> LoadedModel | None:
        """What scores now; None before the first is loaded. Never waits."""
        if self._loading is not None and self._loading.done():
            loading, self._loading = self._loading, None
            try:
                loaded = loading.result()
            except ModelError as error:    # what answers goes on
                if str(error) != self.problem:
                    log.warning("model_refused", model=self._model.name, error=str(error))
                self.problem = str(error)
            else:
                if loaded is not self._loaded:
                    log.info("model_loaded", model=loaded.name, version=loaded.version, variant=loaded.variant, provider=loaded.provider)
                self._loaded, self.problem = loaded, ""
        if self._loading is None and monotonic() >= self._due:
            self._due = monotonic() + LOOK_S
            self._loading = self._thread.submit(self._successor, self._loaded)
        return self._loaded

    def wait(self, timeout_s: float) -> None:
        """Until what is being loaded is, if anything."""
        if self._loading is not None:
            try:
                self._loading.exception(timeout_s)
            except TimeoutError:
                return

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _successor(self, current: LoadedModel | None) -> LoadedModel:
        if current is not None and self._store.is_current(current, self._ref or None):
            return current
        return self._store.load(self._model.name, self._ref or None, model=self._model)
