"""The models that are ready to answer. Loaded off the event loop and swapped whole: a request never waits for a file or a session.

``ref`` is what stands after ``@`` in a request's path: a version, an alias, or nothing: the released stable version, or ``latest`` of a
model of which nothing is released.

A version answers with the inputs that it was added with (``serve.version``). When the definitions change, what is ready is asked by the
new ones from one request to the next, or refused where they have not what it reads.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic

from featureflow.define import spec
from featureflow.errors import ModelError, RequestError
from featureflow.models.loaded import LoadedModel
from featureflow.models.loader import ModelLoader
from featureflow.models.release import Arm, check_released, content_of
from featureflow.serve.answer import Shed
from featureflow.serve.ensemble import Ensembles
from featureflow.serve.version import Version, Versions

NAMED_KEPT = 16  # versions and aliases held at once, beyond the models' latest
REFUSALS_KEPT = 256
REFUSAL_S = 5.0  # before a ref that could not be loaded is tried again
LOADS_AT_ONCE = 4
LOOKUPS_AT_ONCE = 64
REF = re.compile(r"[A-Za-z0-9_.\-]{0,64}")
Key = tuple[str, str]  # model, ref


class LoadedModels:
    """Belongs to one event loop. ``said`` hears of each model that begins to answer."""

    def __init__(self, loader: ModelLoader, said: Callable[[LoadedModel], None]) -> None:
        self._loader, self._said = loader, said
        self._ensembles = Ensembles(self._member)
        self._versions: Versions | None = None
        self._ready: OrderedDict[Key, Version] = OrderedDict()
        self._prepared: dict[Key, LoadedModel] = {}  # what takes over from what cannot go on when the definitions change
        self._refused: OrderedDict[Key, tuple[float, str]] = OrderedDict()
        self._cold: set[Key] = set()  # were ready, and nobody asked for them: loaded again for the next who does
        self._loading: dict[Key, asyncio.Task[None]] = {}
        self._held: dict[Key, str] = {}  # released versions, which stay in memory -> what they must be: see ``content_of``
        self._stable: dict[str, str] = {}  # model -> the version that answers where none is named
        self._lookups = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._names = ThreadPoolExecutor(1, thread_name_prefix="model-names")  # not behind a model that takes seconds to load

    async def prepare(self, versions: Versions) -> None:
        """Before ``declare``: load the latest of a model where what answers cannot go on by these definitions, and the latest can."""
        for key, version in list(self._ready.items()):
            if not key[1] and isinstance(version.loaded, LoadedModel) and not versions.take(version.loaded):
                with suppress(ModelError):     # ``declare`` finds nothing then, and says why
                    self._prepared[key] = await asyncio.get_running_loop().run_in_executor(
                        self._thread, self._successor, key[1], key[0], versions.project, None, True
                    )

    def declare(self, versions: Versions) -> None:
        """Follow these definitions from now on."""
        self._versions = versions
        self._ensembles.declare(versions)
        prepared, self._prepared = self._prepared, {}
        for key, version in list(self._ready.items()):
            assert isinstance(version.loaded, LoadedModel)  # ensembles are not kept here
            try:
                self._ready[key] = versions.of(prepared.get(key, version.loaded))
                self._refused.pop(key, None)
                if key in prepared:
                    self._said(prepared[key])
            except ModelError as error:
                del self._ready[key]
                self._refused[key] = (monotonic(), str(error))

    def get(self, model: spec.Model, ref: str) -> Version | Shed | None:
        """The version if it is ready, why it is not, or None where that is to be looked up: see ``find``. ``model``: its definition.

        Raises RequestError (404) for a ref that can name nothing.
        """
        if model.ensemble is not None:
            return self._ensembles.get(model, ref)
        key = (model.name, ref) if ref else self._unnamed(model.name)
        own = not ref or key in self._held
        found = self._ready.get(key)
        if found is not None and not found.loaded.session.dropped:  # type: ignore[union-attr]  # no ensemble
            if ref:
                self._ready.move_to_end(key)
            return found
        if not REF.fullmatch(ref):
            raise RequestError(
                "No such model version", "after @ stands a version or alias: letters, digits, _ . -", status=404
            )
        refused = self._refused.get(key)
        if refused is not None and (own or monotonic() - refused[0] < REFUSAL_S):
            return Shed("model", refused[1], retry_after_s=5)  # ``refresh`` tries those again that answer unasked for
        if key in self._loading or own:
            self._begin(key, model)
            return _being_loaded(key)
        return None

    async def find(self, model: spec.Model, ref: str) -> Shed:
        """Look up a ref that is not ready: begin to load what it stands for, and tell the caller to come back.

        Raises RequestError (404) for a ref that this model does not have.
        """
        key = (model.name, ref)
        if self._lookups >= LOOKUPS_AT_ONCE:
            return _being_loaded(key)
        self._lookups += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._names, self._loader.resolve, model.name, ref)
        except ModelError as error:
            raise RequestError("No such model version", str(error), status=404) from None
        finally:
            self._lookups -= 1
        if len(self._loading) < LOADS_AT_ONCE:
            self._begin(key, model)
        return _being_loaded(key)

    def _member(self, model: spec.Model) -> Version | Shed:
        return self.get(model, "") or _being_loaded((model.name, ""))

    def latest(self, name: str) -> Version | None:
        """What answers for this model when no version is named."""
        return self._ensembles.latest(name) if name in self._ensembles else self._ready.get(self._unnamed(name))

    def is_cold(self, name: str) -> bool:
        """Whether that one answered, and will again once it is asked for: other sessions have its place now."""
        return self._unnamed(name) in self._cold

    def problem(self, name: str, version: str = "") -> str | None:
        """Why that one, or this version, does not answer, or is not the one that answers; None where nothing is known to be wrong."""
        if name in self._ensembles:
            return self._ensembles.problem(name)
        refused = self._refused.get((name, version) if version else self._unnamed(name))
        return None if refused is None else refused[1]

    async def hold(self, model: spec.Model, arms: Sequence[Arm]) -> None:
        """Have these versions in memory and keep them there; from then on the first answers where no version is named.

        Raises ModelError where one cannot be loaded or is not what was released; then all is as before, but that a model of which nothing
        answers yet waits for its stable version: no other one may answer.
        """
        keys = {(model.name, arm.version): arm.content for arm in arms}
        before = {key: content for key, content in self._held.items() if key[0] == model.name}
        self._held.update(keys)
        for key in keys:
            self._begin(key, model)
        await asyncio.gather(*(self._loading[key] for key in keys if key in self._loading))
        problem = next((why for key in keys if (why := self._lack(key)) is not None), None)
        mine, answers = keys, True
        if problem is not None:
            first = (model.name, arms[0].version)
            answers = model.name in self._stable or (model.name, "") in self._ready
            mine = before if answers else {first: keys[first]}
        self._held = {**{key: content for key, content in self._held.items() if key[0] != model.name}, **mine}
        if problem is None or not answers:
            self._stable[model.name] = arms[0].version
            self._ready.pop((model.name, ""), None)
            self._refused.pop((model.name, ""), None)
        if problem is not None:
            raise ModelError(problem)

    def _lack(self, key: Key) -> str | None:
        """Why the version that is held under this key is not there as it must be."""
        found = self._ready.get(key)
        if found is not None and content_of(found.loaded.manifest) == self._held[key]:  # type: ignore[union-attr]  # no ensemble
            return None
        return self._refused[key][1] if key in self._refused else f"model {'@'.join(key)} is not loaded"

    def _unnamed(self, name: str) -> Key:
        return name, self._stable.get(name, "")

    async def refresh(self) -> None:
        """Load what the models' refs stand for now, where that has changed. What answers now goes on until its successor is ready."""
        if self._versions is None:
            return
        plans = self._versions.plan.models
        named = {name: plan.model for name, plan in plans.items() if plan.model.ensemble is None}
        sessions = {key: version.loaded.session for key, version in self._ready.items() if isinstance(version.loaded, LoadedModel)}
        self._loader.pool.sweep([session for key, session in sessions.items() if not key[1] or key in self._held])
        for key in [key for key, session in sessions.items() if session.dropped]:
            del self._ready[key]
            self._cold.add(key)
        for known in (self._ready, self._refused):
            for key in [key for key in known if key[0] not in named]:
                del known[key]
        self._held = {key: content for key, content in self._held.items() if key[0] in named}
        self._stable = {name: version for name, version in self._stable.items() if name in named}
        stay = {self._unnamed(name) for name in named} | set(self._held)
        self._cold &= stay
        for key in (stay - self._cold) | set(self._ready):
            self._begin(key, named[key[0]], asked=False)
        await asyncio.gather(*self._loading.values())

    def close(self) -> None:
        for task in self._loading.values():
            task.cancel()
        for thread in (self._thread, self._names):
            thread.shutdown(wait=False, cancel_futures=True)

    def _begin(self, key: Key, model: spec.Model, *, asked: bool = True) -> None:
        """asked: somebody waits for it; else one that gave way to others since is left alone, or they would take turns for ever."""
        if key not in self._loading:
            self._loading[key] = asyncio.get_running_loop().create_task(self._load(key, model, asked))

    async def _load(self, key: Key, model: spec.Model, asked: bool) -> None:
        assert self._versions is not None  # ``declare`` came before
        current = self._ready.get(key)
        known = current.loaded if current is not None and isinstance(current.loaded, LoadedModel) else None
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._successor, key[1], model.name, self._versions.project, known, asked
            )
            if key not in self._ready or self._ready[key].loaded is not loaded:
                self._ready[key] = self._versions.of(loaded)  # by the definitions of now: they may have changed meanwhile
                self._said(loaded)
            self._refused.pop(key, None)
            self._cold.discard(key)
        except ModelError as error:
            self._refused[key] = (monotonic(), str(error))
            named = [key for key in self._refused if key[1]]
            if len(named) > REFUSALS_KEPT:
                del self._refused[named[0]]
        finally:
            del self._loading[key]
            named = [key for key in self._ready if key[1] and key not in self._held]
            for old in named[: max(0, len(named) - NAMED_KEPT)]:
                del self._ready[old]

    def _successor(self, ref: str, name: str, project: spec.Project, current: LoadedModel | None, asked: bool) -> LoadedModel:
        """What the ref stands for now: ``current`` where that is it already. In the loading thread. Raises ModelError."""
        gone = asked and current is not None and current.session.dropped
        if current is not None and not gone and self._loader.is_current(current, ref or None):
            found = current
        else:
            found = self._loader.load(name, ref or None, project=project)
        wanted = self._held.get((name, ref))
        if wanted is not None:
            check_released(found.manifest, wanted, self._loader.path)
        return found


def _being_loaded(key: Key) -> Shed:
    return Shed("loading", f"model {'@'.join(filter(None, key))} is being loaded")
