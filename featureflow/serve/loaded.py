"""The models that are ready to answer. Loaded off the event loop and swapped whole: a request never waits for a file or a session.

``ref`` is what stands after ``@`` in a request's path: a version, an alias, or nothing for the model's newest version.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from featureflow.errors import ModelError, RequestError
from featureflow.models.store import LoadedModel, ModelStore
from featureflow.serve.answer import Shed

KEPT = 16                                  # sessions held at once, beyond the models' own newest versions
REFUSALS_KEPT = 256
REFUSAL_S = 5.0                            # before a ref that could not be loaded is tried again
LOADS_AT_ONCE = 4
REF = re.compile(r"[A-Za-z0-9_.\-]{0,64}")
Key = tuple[str, str]                      # model, ref


class LoadedModels:
    """Belongs to one event loop."""

    def __init__(self, store: ModelStore, said: Callable[[str, LoadedModel], None]) -> None:
        self._store, self._said = store, said
        self._ready: OrderedDict[Key, LoadedModel] = OrderedDict()
        self._refused: OrderedDict[Key, tuple[float, str]] = OrderedDict()
        self._loading: dict[Key, asyncio.Task[None]] = {}
        self._names: frozenset[str] = frozenset()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")

    def get(self, name: str, ref: str) -> LoadedModel | Shed:
        """The model if it is ready. Otherwise it begins to load, and the caller is told to come back.

        Raises RequestError (404) for a ref that this model does not have.
        """
        key = (name, ref)
        found = self._ready.get(key)
        if found is not None:
            if ref:
                self._ready.move_to_end(key)
            return found
        if not REF.fullmatch(ref):
            raise RequestError("No such model version", "after @ stands a version or alias: letters, digits, _ . -", status=404)
        refused = self._refused.get(key)
        if refused is not None and monotonic() - refused[0] < REFUSAL_S:
            if ref:
                raise RequestError("No such model version", refused[1], status=404)
            return Shed("model", refused[1], retry_after_s=5)
        if key not in self._loading and len(self._loading) < LOADS_AT_ONCE:
            self._loading[key] = asyncio.get_running_loop().create_task(self._load(key))
        return Shed("loading", f"model {name}{'@' + ref if ref else ''} is being loaded", retry_after_s=1)

    def peek(self, name: str) -> LoadedModel | str:
        """The newest version as it is loaded now, or why it is not."""
        found = self._ready.get((name, ""))
        if found is not None:
            return found
        refused = self._refused.get((name, ""))
        return refused[1] if refused else "it is being loaded"

    def problem(self, name: str) -> str | None:
        """Why the newest version does not answer: empty when it does, None while that is not known yet."""
        if (name, "") in self._ready:
            return ""
        refused = self._refused.get((name, ""))
        return refused[1] if refused else None

    async def refresh(self, names: Iterable[str]) -> None:
        """Load what these models' refs stand for now, where that has changed. What answers now goes on until its successor is ready."""
        self._names = frozenset(names)
        for key in [key for key in self._ready if key[0] not in self._names]:
            del self._ready[key]
        for key in {(name, "") for name in self._names} | set(self._ready):
            if key not in self._loading:
                self._loading[key] = asyncio.get_running_loop().create_task(self._load(key))
        await asyncio.gather(*self._loading.values())

    def close(self) -> None:
        for task in self._loading.values():
            task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _load(self, key: Key) -> None:
        name, ref = key
        current = self._ready.get(key)
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(self._thread, self._changed, key, current)
            if loaded is not None:
                self._ready[key] = loaded
                self._said(name, loaded)
            self._refused.pop(key, None)
        except ModelError as error:
            self._refused[key] = (monotonic(), str(error))
            if len(self._refused) > REFUSALS_KEPT:
                self._refused.popitem(last=False)
        finally:
            self._loading.pop(key, None)
            named = [key for key in self._ready if key[1]]
            for old in named[: max(0, len(named) - KEPT)]:
                del self._ready[old]

    def _changed(self, key: Key, current: LoadedModel | None) -> LoadedModel | None:
        """Load what the ref stands for now; None where ``current`` is that already. In the loading thread."""
        name, ref = key
        if current is not None and self._store.resolve(name, ref or None) == current.version:
            return None
        return self._store.load(name, ref or None)
