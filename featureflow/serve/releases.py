"""A scorer follows releases: what the registry mirrors is carried out, watched, and ended where its bounds are left.

    1. read     the releases, live accuracy, and what other scorers have ended: one read, four times a second
    2. take     a release that is new: load its versions beside those that answer, then switch; until then all goes on as it was
    3. judge    the candidates, by what this process saw of them: see ``models.verdict``
    4. end      here at once, and for all others by a document in the online store, put there again until it stands

SQL is not asked. Where the online store is away, what was read last stays in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import msgspec
import structlog

from featureflow.clock import Clock
from featureflow.errors import FeatureFlowError, ModelError, StateError
from featureflow.models.release import Release
from featureflow.models.releasing import decoded
from featureflow.models.verdict import Verdict, judge
from featureflow.reading.fetch import Reader
from featureflow.reading.plan import ModelPlan, Plan
from featureflow.serve.assigned import Carried, Count
from featureflow.serve.loaded import LoadedModels
from featureflow.store.keys import Keys
from featureflow.store.mirror import ACCURACY_DOCUMENT, RELEASES_DOCUMENT, Accuracy, verdict_document

RETRY_S = 5.0                              # before versions that could not be loaded are tried again
JUDGE_US = 1_000_000
_RELEASES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ACCURACY = msgspec.json.Decoder(dict[str, dict[str, Accuracy]])
_VERDICT = msgspec.json.Decoder(Verdict)
Publish = Callable[[str, bytes], None]
log = structlog.get_logger("featureflow.serve")


class ReleasesFollowed:
    """Belongs to one event loop. ``publish``: puts a meta document into the online store; is called in a thread."""

    def __init__(self, reader: Reader, keys: Keys, models: LoadedModels, clock: Clock, publish: Publish | None = None) -> None:
        self._reader, self._keys, self._models, self._clock, self._publish = reader, keys, models, clock, publish
        self.carried: dict[str, Carried] = {}         # model -> what is carried out; absent: ``latest`` answers
        self.problems: dict[str, str] = {}               # model -> why its newest release is not carried out here
        self.accuracy: dict[str, dict[str, Accuracy]] = {}
        self.counts: dict[tuple[str, str, str], Count] = {}        # (model, arm, version)
        self._document: bytes | None = None
        self._accuracy_document: bytes | None = None
        self._wanted: dict[str, Release] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, tuple[Release, float]] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._publishing: asyncio.Task[None] | None = None
        self._judged_us = 0

    async def follow(self, plan: Plan) -> None:
        """Steps 1 to 4, once. Raises UnavailableError where the online store is away."""
        # 1
        on_trial = [name for name, carried in self.carried.items() if carried.release.candidates]
        names = (RELEASES_DOCUMENT, ACCURACY_DOCUMENT, *map(verdict_document, on_trial))
        document, accuracy, *verdicts = await self._reader.read([self._keys.meta(name) for name in names])
        self._see(document, accuracy)
        for name, verdict in zip(on_trial, verdicts, strict=True):
            self._hear(name, verdict)
        # 2
        for gone in [name for name in self.carried if name not in plan.models]:
            del self.carried[gone]
        for name, release in self._wanted.items():
            if name in plan.models and self._is_new(name, release):
                self._tasks[name] = asyncio.get_running_loop().create_task(self._take(plan.models[name], release))
        # 3 and 4
        now_us = self._clock.now_us()
        if not 0 <= now_us - self._judged_us < JUDGE_US:
            self._judged_us = now_us
            self.judge(now_us)

    async def settled(self) -> None:
        """Wait until what is being taken is in force, or refused."""
        await asyncio.gather(*self._tasks.values())

    def judge(self, now_us: int) -> None:
        """Steps 3 and 4."""
        for name, carried in self.carried.items():
            if carried.on_trial:
                reason = judge(carried.release, carried.seen(now_us), self.accuracy.get(name, {}))
                if reason is not None:
                    self._end(carried, reason)
                    self._verdicts[name] = Verdict(name, carried.release.number, reason, now_us)
        self._tell()

    def close(self) -> None:
        for task in (*self._tasks.values(), *([self._publishing] if self._publishing else ())):
            task.cancel()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _see(self, document: bytes | None, accuracy: bytes | None) -> None:
        if document != self._document and document is not None:        # one that is gone was lost with the store: stay
            self._document = document
            try:
                found = _RELEASES.decode(document)
            except msgspec.MsgspecError as error:
                log.error("releases_refused", error=str(error))
                found = {}
            for name, raw in found.items():
                try:
                    self._wanted[name] = decoded(bytes(raw), name)
                except StateError as error:
                    self.problems[name] = str(error)
        if accuracy != self._accuracy_document:
            self._accuracy_document = accuracy
            try:
                self.accuracy = {} if accuracy is None else _ACCURACY.decode(accuracy)
            except msgspec.MsgspecError as error:
                log.error("accuracy_refused", error=str(error))

    def _hear(self, name: str, document: bytes | None) -> None:
        """What another scorer has ended, or this one has and nobody keeps any more."""
        carried, own = self.carried[name], self._verdicts.get(name)
        heard, number = _verdict(document), carried.release.number
        if heard is not None and heard.number == number:
            self._verdicts.pop(name, None)
            if carried.ended is None:
                self._end(carried, heard.reason)
        elif own is None and carried.ended is not None:
            self._verdicts[name] = Verdict(name, number, carried.ended, self._clock.now_us())
        elif own is not None and own.number != number:
            del self._verdicts[name]

    def _end(self, carried: Carried, reason: str) -> None:
        carried.ended = reason
        log.warning("release_ended", model=carried.release.model, release=carried.release.number, reason=reason)

    def _tell(self) -> None:
        if self._verdicts and self._publish is not None and (self._publishing is None or self._publishing.done()):
            self._publishing = asyncio.get_running_loop().create_task(self._put(list(self._verdicts.values()), self._publish))

    async def _put(self, verdicts: list[Verdict], publish: Publish) -> None:
        for verdict in verdicts:
            try:
                await asyncio.to_thread(publish, verdict_document(verdict.model), msgspec.json.encode(verdict))
            except FeatureFlowError as error:      # tried again at the next look: ``_hear`` has not found it
                log.warning("verdict_not_published", model=verdict.model, error=str(error))

    def _is_new(self, name: str, release: Release) -> bool:
        carried, refused = self.carried.get(name), self._refused.get(name)
        if name in self._tasks or (carried is not None and carried.release == release):
            return False
        return refused is None or refused[0] != release or monotonic() - refused[1] >= RETRY_S

    async def _take(self, plan: ModelPlan, release: Release) -> None:
        name = release.model
        try:
            await self._models.hold(plan.model, release.arms)
            self.carried[name] = Carried(release, self.counts)
            self._refused.pop(name, None)
            self.problems.pop(name, None)
            log.info("release_taken", model=name, release=release.number, step=release.step, arms={a.name: a.version for a in release.arms})
        except ModelError as error:
            self._refused[name] = (release, monotonic())
            problem = f"release {release.number} is not carried out here: {error}"
            if self.problems.get(name) != problem:
                log.error("release_refused", model=name, release=release.number, error=str(error))
            self.problems[name] = problem
            if name not in self.carried:     # of a process that just began: the stable version at least, never one that was not released
                with suppress(ModelError):
                    await self._models.hold(plan.model, release.arms[:1])
        finally:
            del self._tasks[name]


def _verdict(document: bytes | None) -> Verdict | None:
    try:
        return None if document is None else _VERDICT.decode(document)
    except msgspec.MsgspecError:               # of another version of FeatureFlow: this one says so itself where it sees the same
        return None
