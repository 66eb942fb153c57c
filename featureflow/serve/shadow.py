"""A version in the shadow of those that answer: it scores what they were asked after the answers have gone, and delays none.

It has a session and a thread of its own. Where it does not keep up, turns are left out and counted, not queued. It scores the inputs of the
turn where it takes the same; else what was sent is read again for it, and its features are read then, a moment later, as its record says.

Each row that is offered is counted once: ``scored``, ``failed``, ``skipped``, ``lacking`` what it reads, or ``shutdown`` where the scorer
ends before its score is there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import ModelError, RequestError
from featureflow.models.loaded import LoadedModel
from featureflow.models.loader import ModelLoader
from featureflow.models.release import SHADOW, Arm, Release, check_released
from featureflow.pending import Pending
from featureflow.serve.prediction_log import Predictions
from featureflow.serve.request import Request
from featureflow.serve.version import Version, Versions
from featureflow.serve.wire.v1 import Assignment
from featureflow.serve.work import Wanted, Work

REFUSAL_S = 5.0                            # before a shadow that could not be loaded is tried again: each turn would load it anew
WAITING = 4                                # turns that may wait for the thread
SUFFIX = ".shadow"                         # of a shadow's prediction ids, after the id of the prediction that answered
Read = Callable[[Work, Wanted], Awaitable[None]]
Scored = tuple[Version, NDArray[np.float64], Predictions, list[int]]  # the scores, what is logged of them, and which rows they are of
log = structlog.get_logger("featureflow.serve")


class Offered:
    """What a turn answered, to be scored. ``rows``: of how many nothing is counted yet."""

    __slots__ = ("answered", "release", "rows", "shadow")

    def __init__(self, release: Release, shadow: Arm, answered: Predictions) -> None:
        self.release, self.shadow, self.answered, self.rows = release, shadow, answered, len(answered.rows)


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
        self._versions: Versions | None = None
        self._loaded: dict[str, tuple[Release, LoadedModel]] = {}  # by model
        self._ready: dict[str, Version] = {}  # of those, by the definitions of now
        self._refused: dict[str, tuple[Release, float, str]] = {}  # by model: which could not be loaded, when and why
        self._problems: dict[str, tuple[Arm, str]] = {}  # by model: which failed last at what was answered, and why
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._under_way: dict[asyncio.Future[Scored], Offered] = {}
        self._closed = False

    def declare(self, versions: Versions) -> None:
        """Follow these definitions from now on."""
        self._versions, self._ready = versions, {}

    def offer(self, work: Work, release: Release, inputs: NDArray[np.float64], answered: Predictions, read: Read) -> None:
        """The inputs float64 (n, width) of a turn and what was answered to them. ``read``: sees the features of other work, when that is
        of other inputs. Raises UnavailableError."""
        assert release.shadow is not None
        offered = Offered(release, release.shadow, answered)
        if self._closed:
            self._count(offered, "shutdown", offered.rows)
            return
        if len(self._under_way) >= WAITING or offered.rows < len(inputs):      # rows that were not answered are gone from ``answered``
            self._count(offered, "skipped", offered.rows)
            return
        version, loop = self._ready.get(release.model), asyncio.get_running_loop()
        done: asyncio.Future[Scored]
        if version is not None and version.plan is work.plan and self._loaded[release.model][0].shadow == release.shadow:
            done = loop.run_in_executor(self._thread, _scored, version, inputs, answered)
        else:
            done = loop.create_task(self._score(work, offered, inputs, read))
        self._under_way[done] = offered
        done.add_done_callback(self._tell)

    def problem(self, release: Release) -> str | None:
        """Why the release's shadow failed at what was answered last; None where it did not, or has none."""
        failed = self._problems.get(release.model)
        return failed[1] if failed is not None and failed[0] == release.shadow else None

    def keep(self, models: Collection[str]) -> None:
        """Let go of the sessions of all other models: their shadows have ended."""
        for gone in [name for name in self._loaded if name not in models]:
            self._loaded.pop(gone, None)
            self._ready.pop(gone, None)

    async def drain(self, within_s: float) -> None:
        """Let what is under way be scored, for at most ``within_s``; ``close`` counts what is left."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=within_s)

    def close(self) -> None:
        """Score nothing from now on. What is under way is counted as dropped, and said: there may be no other scrape of what is counted."""
        self._closed = True
        under_way, self._under_way = self._under_way, {}
        dropped = Counter[tuple[str, str]]()
        for done, offered in under_way.items():
            done.cancel()
            dropped[offered.release.model, offered.shadow.version] += offered.rows
            self._count(offered, "shutdown", offered.rows)
        for (model, version), rows in dropped.items():
            log.warning("shadow_dropped", model=model, version=version, rows=rows, reason="shutdown")
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _count(self, offered: Offered, outcome: str, rows: int) -> None:
        offered.rows -= rows
        self._counted(offered.release.model, offered.shadow.version, outcome, rows)

    async def _score(self, work: Work, offered: Offered, inputs: NDArray[np.float64], read: Read) -> Scored:
        """Raises ModelError, UnavailableError."""
        answered, release = offered.answered, offered.release
        version, loop = await self._version(release), asyncio.get_running_loop()
        if version.plan is work.plan:
            return await loop.run_in_executor(self._thread, _scored, version, inputs, answered)
        requests, kept = list[Request](), list[int]()
        at = 0
        for request in work.requests:
            first, at = at, at + len(request.rows)
            try:
                requests.append(_again(request, version))
                kept += range(first, at)
            except RequestError:
                self._count(offered, "lacking", at - first)
        if not requests:
            return version, np.empty(0), answered, kept
        wanted: Wanted = {}
        own = Work(version.plan, version.loaded, requests, wanted)
        await read(own, wanted)
        if any(request.future.done() for request in requests):
            raise ModelError(f"features that {release.model}@{offered.shadow.version} reads are missing, and it is declared to refuse then")
        scores = await loop.run_in_executor(self._thread, version.loaded.score, own.inputs())
        return version, scores, own.shadowed(scores, [answered.prediction_ids[i] for i in kept]), kept

    async def _version(self, release: Release) -> Version:
        assert release.shadow is not None
        assert self._versions is not None  # ``declare`` came before
        known = self._loaded.get(release.model)
        if known is None or known[0].shadow != release.shadow:
            self._ready.pop(release.model, None)
            loop, project = asyncio.get_running_loop(), self._versions.project
            known = release, await loop.run_in_executor(self._thread, self._load, project, release, release.shadow)
            self._loaded[release.model] = known
        version = self._ready.get(release.model)
        if version is None or version.loaded is not known[1]:
            version = self._ready[release.model] = self._versions.of(known[1])  # by the definitions of now: they may have changed meanwhile
        return version

    def _load(self, project: spec.Project, release: Release, shadow: Arm) -> LoadedModel:
        """In the thread."""
        known = self._loaded.get(release.model)
        if known is not None and known[0].shadow == shadow:
            return known[1]                # by the turn before
        refused = self._refused.get(release.model)
        if refused is not None and refused[0].shadow == shadow and monotonic() - refused[1] < REFUSAL_S:
            raise ModelError(refused[2])
        try:
            loaded = self._loader.load(release.model, shadow.version, project=project)
            check_released(loaded.manifest, shadow.content, self._loader.path)
        except ModelError as error:
            self._refused[release.model] = (release, monotonic(), str(error))
            raise
        return loaded

    def _tell(self, done: asyncio.Future[Scored]) -> None:
        offered = self._under_way.pop(done, None)
        if offered is None or done.cancelled():            # by ``close``, which has counted it
            return
        release, version, answered = offered.release, offered.shadow.version, offered.answered
        error = done.exception()
        if error is not None:
            if self._problems.get(release.model) != (failed := (offered.shadow, str(error))):
                self._problems[release.model] = failed
                log.warning("shadow_failed", model=release.model, version=version, rows=offered.rows, error=str(error))
            self._count(offered, "failed", offered.rows)
            return
        self._problems.pop(release.model, None)
        shadow, scores, record, kept = done.result()
        if not kept:
            return
        self._count(offered, "scored", len(scores))
        self._differs(release.model, version, np.abs(scores - np.asarray(answered.scores)[kept]))
        self._logged(
            replace(
                record, version=version, variant=shadow.loaded.variant, provider=shadow.loaded.provider, scores=scores.tolist(),
                prediction_ids=[name + SUFFIX for name in record.prediction_ids],
                assignment=msgspec.json.encode(Assignment(release.number, SHADOW)).decode(),
            )
        )


def _scored(version: Version, inputs: NDArray[np.float64], answered: Predictions) -> Scored:
    """In the thread. Raises ModelError."""
    return version, version.loaded.score(inputs), answered, list(range(len(inputs)))


def _again(request: Request, version: Version) -> Request:
    """What was asked, as this version takes it. Raises RequestError."""
    assert request.again is not None  # of every request beside which there is a shadow
    sent, places = request.again
    rows = sent.of(version).rows if places is None else sent.rows(version, places)
    return Request(request.id, version.plan, version.loaded, rows, request.deadline, Pending(), False, request.trace)
