"""The version of a model that scores a stream now: loaded beside the stream, and changed between two batches."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

import msgspec
import structlog

from featureflow.define import spec
from featureflow.errors import ModelError, StateError, UnavailableError
from featureflow.models.ensemble import Loaded, LoadedEnsemble, definition_of, ensemble_of
from featureflow.models.loaded import LoadedModel
from featureflow.models.loader import ModelLoader
from featureflow.models.release import Arm, check_released, decoded
from featureflow.reading.plan import Plan
from featureflow.store.mirror import RELEASES_DOCUMENT
from featureflow.store.online.protocol import OnlineStore
from featureflow.watch.watched import check_said

LOOK_S = 1.0                               # how often it is looked whether another version should score
_RELEASES = msgspec.json.Decoder(dict[str, msgspec.Raw])
log = structlog.get_logger("featureflow.watch")


class CurrentModel:
    """``ref``: a version, an alias, or empty: the released stable version, or the latest of a model of which nothing is released.

    An ensemble has no versions: its members are those. Used from one thread.
    """

    def __init__(self, loader: ModelLoader, online: OnlineStore, plan: Plan, model: str, ref: str) -> None:
        self._loader, self._online, self._plan, self._ref = loader, online, plan, ref
        self._project = plan.project
        self._model = self._project.model(model)
        self._loaded: Loaded | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._loading: Future[Loaded] | None = None
        self._due = 0.0
        self.problem = ""                  # why there is none, or not the one that there should be

    def get(self) -> Loaded | None:
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

    def _successor(self, current: Loaded | None) -> Loaded:
        if self._model.ensemble is None:
            return self._watchable(self._of(self._model, self._ref, current if isinstance(current, LoadedModel) else None))
        if self._ref:
            raise ModelError(f"{self._model.name} is an ensemble, whose version follows from its members': watch it without @{self._ref}")
        before = current.members if isinstance(current, LoadedEnsemble) else ()
        known = {member.name: member for member in before}
        members = tuple(self._of(self._project.model(name), "", known.get(name)) for name in self._model.ensemble.members)
        same = current is not None and len(before) == len(members) and all(a is b for a, b in zip(before, members, strict=True))
        return current if same and current is not None else self._watchable(ensemble_of(self._model, self._project, members))

    def _watchable(self, loaded: Loaded) -> Loaded:
        """It must be said of events what the version reads, and no view that it reads may wait for its sources. Raises ModelError."""
        definition = definition_of(loaded, self._project)
        check_said(self._project, definition, f"{loaded.name}@{loaded.version}")
        self._plan.of(definition)
        return loaded

    def _of(self, model: spec.Model, wanted: str, current: LoadedModel | None) -> LoadedModel:
        arm = None if wanted else self._released(model.name)
        ref = wanted or (None if arm is None else arm.version)
        if current is not None and not current.session.dropped and self._loader.is_current(current, ref):
            return current
        loaded = self._loader.load(model.name, ref, project=self._project)
        if arm is not None:
            check_released(loaded.manifest, arm.content, self._loader.path)
        return loaded

    def _released(self, model: str) -> Arm | None:
        """The stable arm: a stream is scored by one version, whomever a candidate answers."""
        document = self._online.get_meta(RELEASES_DOCUMENT)
        found = {} if document is None else _RELEASES.decode(document)
        return decoded(bytes(found[model]), model).stable if model in found else None
