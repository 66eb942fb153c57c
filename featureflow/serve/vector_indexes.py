"""The vector indexes that are ready: loaded off the event loop, swapped whole, and searched in a thread of their own, which no load holds
up.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow.errors import VectorIndexError
from featureflow.store.vectors.folder import VectorIndex, VectorStore

REFUSAL_S = 10.0                           # before a version that was refused is read again: it may have gigabytes
log = structlog.get_logger("featureflow.serve")


class VectorIndexes:
    """Belongs to one event loop. Without a store there are none."""

    def __init__(self, store: VectorStore | None = None) -> None:
        self._store = store
        self._ready: dict[str, VectorIndex] = {}
        self.problems: dict[str, str] = {}     # index -> why it, or its newest version, does not answer
        self._refused: dict[str, tuple[str, float]] = {}       # index -> its version that was refused, and when
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vectors")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="vectors-loading")

    def get(self, name: str) -> VectorIndex | None:
        """What answers by that name."""
        return self._ready.get(name)

    @property
    def names(self) -> list[str]:
        """Of those that answer."""
        return list(self._ready)

    async def refresh(self) -> None:
        """Load what is new. What answers now goes on until its successor is ready, or where that one is refused."""
        if self._store is not None:
            self._ready = await asyncio.get_running_loop().run_in_executor(self._loading, self._current, self._store, dict(self._ready))

    async def near(self, index: VectorIndex, vector: NDArray[np.float32], n: int) -> list[str | int]:
        """See ``VectorIndex.near``."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, index.near, vector, n)

    def close(self) -> None:
        for thread in (self._thread, self._loading):
            thread.shutdown(wait=False, cancel_futures=True)

    def _current(self, store: VectorStore, ready: dict[str, VectorIndex]) -> dict[str, VectorIndex]:
        found: dict[str, VectorIndex] = {}
        names = store.names()
        for name in names:
            known, version = ready.get(name), ""
            try:
                version = store.latest(name)
                if known is None or known.manifest.version != version:
                    refused = self._refused.get(name, ("", 0.0))
                    if refused[0] == version and monotonic() - refused[1] < REFUSAL_S:
                        if known is not None:
                            found[name] = known
                        continue
                    known = store.load(name, version)
                    log.info("vector_index_loaded", index=name, version=version, vectors=known.manifest.count)
                self.problems.pop(name, None)
            except VectorIndexError as error:
                if self.problems.get(name) != str(error):
                    log.error("vector_index_refused", index=name, error=str(error))
                self.problems[name] = str(error)
                self._refused[name] = version, monotonic()
            if known is not None:
                found[name] = known
        self.problems = {name: problem for name, problem in self.problems.items() if name in names}
        return found
