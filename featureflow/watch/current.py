"""The version of a model that scores a stream now: loaded beside the stream, and changed between two batches."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

import msgspec
import structlog

from featureflow.define import spec
from featureflow.errors import ModelError, StateError, UnavailableError
from featureflow.models.loaded import LoadedModel
from featureflow.models.release import Arm, content_of
from featureflow.models.releasing import decoded
from featureflow.models.store import ModelStore
from featureflow.store.mirror import RELEASES_DOCUMENT
from featureflow.store.online.protocol import OnlineStore

LOOK_S = 1.0                               # how often it is looked whether another version should score, as the scorer does
_RELEASES = msgspec.json.Decoder(dict[str, msgspec.Raw])
log = structlog.get_logger("featureflow.watch")


class CurrentModel:
    """``ref``: a version, an alias, or empty: the released stable version, or the latest of a model of which nothing is released.

    Used from one thread.
    """

    def __init__(self, store: ModelStore, online: OnlineStore, model: spec.Model, ref: str) -> None:
        self._store, self._online, self._model, self._ref = store, online, model, ref
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
            except (ModelError, StateError, UnavailableError) as error:    # what scores goes on
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
        arm = None if self._ref else self._released()
        ref = self._ref or (None if arm is None else arm.version)
        if current is not None and not current.session.dropped and self._store.is_current(current, ref):
            return current
        loaded = self._store.load(self._model.name, ref, model=self._model)
        if arm is not None and content_of(loaded.manifest) != arm.content:
            raise ModelError(
                f"model {loaded.name}@{loaded.version} in {self._store.path} is another one than was released under that name; "
                "put the released one there, or add this one as a version of its own"
            )
        return loaded

    def _released(self) -> Arm | None:
        """The stable arm: a stream is scored by one version, whomever a candidate answers."""
        document = self._online.get_meta(RELEASES_DOCUMENT)
        found = {} if document is None else _RELEASES.decode(document)
        return decoded(bytes(found[self._model.name]), self._model.name).stable if self._model.name in found else None
