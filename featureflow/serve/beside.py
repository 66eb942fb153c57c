"""Inference beside the event loop: ONNX Runtime computes without the interpreter's lock, so that the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from featureflow.pending import Pending

T = TypeVar("T")
A = TypeVar("A")


class Beside:
    """A thread of its own for each slow model, which goes from one turn to the next without being woken. Belongs to one event loop."""

    def __init__(self) -> None:
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._under_way: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()

    async def run(self, model: str, compute: Callable[[A], T], on: A) -> tuple[T, float]:
        """What it computes, and for how many seconds it waited until the thread came to it. Raises what it raises."""
        thread = self._threads.get(model)
        if thread is None:
            thread = self._threads[model] = ThreadPoolExecutor(1, thread_name_prefix=f"inference-{model}")
        asked_s, told = perf_counter(), Pending[tuple[T, float]]()

        def run() -> None:
            waited_s = perf_counter() - asked_s
            try:
                found = compute(on)
            except BaseException as error:
                self._loop.call_soon_threadsafe(told.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(told.set_result, (found, waited_s))

        self._under_way[model] += 1
        try:
            thread.submit(run)
            return await told
        finally:
            self._under_way[model] -= 1

    def computes(self, model: str) -> bool:
        """Whether the model is in use here: a session runs one batch at a time, and the event loop would stand still until it had it."""
        return self._under_way[model] > 0

    def close(self) -> None:
        """What is under way is not waited for."""
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)
