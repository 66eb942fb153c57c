"""A scorer follows releases: what the registry mirrors is carried out, watched, and ended where its bounds are left.

    1. read     the releases, live accuracy, and what other scorers have ended: one read, four times a second. Numbers of releases only
                grow: where the store has gone back, having lost its last second, it is told what was read before
    2. take     a release that is new: load its versions beside those that answer, then switch; until then all goes on as it was
    3. judge    the candidates, by what this process saw of them, and by what all processes did: see ``models.verdict``, ``serve.pooling``
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
from featureflow.models.release import Release, decoded
from featureflow.models.verdict import Seen, Verdict, judge, read_verdict
from featureflow.reading.fetch import Reader
from featureflow.reading.plan import ModelPlan, Plan
from featureflow.serve.assigned import Carried, Count
from featureflow.serve.loaded import LoadedModels
from featureflow.serve.pooling import Pooling, Share
from featureflow.store.keys import Keys
from featureflow.store.mirror import ACCURACY_DOCUMENT, RELEASES_DOCUMENT, Accuracy, verdict_document

RETRY_S = 5.0                              # before versions that could not be loaded are tried again
JUDGE_US = 1_000_000
_RELEASES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ACCURACY = msgspec.json.Decoder(dict[str, dict[str, Accuracy]])
Publish = Callable[[str, bytes], None]
Trial = tuple[Carried, dict[str, Seen]]
log = structlog.get_logger("featureflow.serve")


class ReleasesFollowed:
    """Belongs to one event loop. ``publish``: puts a meta document into the online store; ``share``: see there. Both are called in a
    thread."""

    def __init__(
        self, reader: Reader, keys: Keys, models: LoadedModels, clock: Clock, publish: Publish | None = None, share: Share | None = None
    ) -> None:
        self._reader, self._keys, self._models, self._clock, self._publish = reader, keys, models, clock, publish
        self.carried: dict[str, Carried] = {}         # model -> what is carried out; absent: ``latest`` answers
        self.problems: dict[str, str] = {}               # model -> why its newest release is not carried out here
        self.accuracy: dict[str, dict[str, Accuracy]] = {}
        self.counts: dict[tuple[str, str, str], Count] = {}        # (model, arm, version)
        self._document: bytes | None = None
        self._accuracy_document: bytes | None = None
        self._wanted: dict[str, Release] = {}
        self._lost: bytes | None = None                  # what the store has to be told of them again
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, tuple[Release, float]] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._publishing: asyncio.Task[None] | None = None
        self._pooling = None if share is None else Pooling(share)
        self._judging: asyncio.Task[None] | None = None
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
            going_on = self.judge(now_us)
            if going_on and self._pooling is not None and (self._judging is None or self._judging.done()):
                self._judging = asyncio.get_running_loop().create_task(
                    self._judge_together(going_on, self._pooling, now_us)
                )

    async def settled(self) -> None:
        """Wait until what is being taken is in force, or refused, and what is being judged has been."""
        await asyncio.gather(*self._tasks.values(), *([self._judging] if self._judging else ()))

    def judge(self, now_us: int) -> list[Trial]:
        """Steps 3 and 4, by what this process saw: of the candidates that go on."""
        going_on = []
        for name, carried in self.carried.items():
            if carried.on_trial:
                seen = carried.seen(now_us)
                reason = judge(carried.release, seen, self.accuracy.get(name, {}))
                if reason is None:
                    going_on.append((carried, seen))
                else:
                    self._leave(carried, reason, now_us)
        self._tell()
        return going_on

    def processes(self, name: str) -> int | None:
        """Whose counts of the model's candidates are judged together; None where there is no candidate."""
        carried = self.carried.get(name)
        if carried is None or not carried.on_trial:
            return None
        return 1 if self._pooling is None else self._pooling.processes.get(name, 1)

    def close(self) -> None:
        for task in (*self._tasks.values(), self._publishing, self._judging):
            if task is not None:
                task.cancel()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _see(self, document: bytes | None, accuracy: bytes | None) -> None:
        if document != self._document:
            self._document = document
            self._see_releases(document)
        if accuracy != self._accuracy_document:
            self._accuracy_document = accuracy
            try:
                self.accuracy = {} if accuracy is None else _ACCURACY.decode(accuracy)
            except msgspec.MsgspecError as error:
                log.error("accuracy_refused", error=str(error))

    def _see_releases(self, document: bytes | None) -> None:
        self._lost, found = None, {}
        try:
            found = {} if document is None else _RELEASES.decode(document)
        except msgspec.MsgspecError as error:
            log.error("releases_refused", error=str(error))
            return
        newer = {name: release for name, release in self._wanted.items() if name not in found}
        for name, raw in found.items():
            try:
                release = decoded(bytes(raw), name)
            except StateError as error:
                self.problems[name] = str(error)
                continue
            known = self._wanted.get(name)
            if known is not None and release.number < known.number:
                newer[name] = known
            else:
                self._wanted[name] = release
        if newer:
            log.warning("releases_lost", models={name: release.number for name, release in newer.items()})
            self._lost = msgspec.json.encode({**found, **newer})

    def _hear(self, name: str, document: bytes | None) -> None:
        """What another scorer has ended, or this one has and nobody keeps any more."""
        carried, own = self.carried[name], self._verdicts.get(name)
        heard, number = read_verdict(document), carried.release.number
        if heard is not None and heard.number == number:
            self._verdicts.pop(name, None)
            if carried.ended is None:
                self._end(carried, heard.reason)
            carried.ended = (
                heard.reason
            )  # several may have ended it, each for what it saw: what stands there is what is said of it
        elif own is None and carried.ended is not None:
            self._verdicts[name] = Verdict(name, number, carried.ended, self._clock.now_us())
        elif own is not None and own.number != number:
            del self._verdicts[name]

    async def _judge_together(self, trials: list[Trial], pooling: Pooling, now_us: int) -> None:
        """Steps 3 and 4, by what all processes saw."""
        for carried, seen in trials:
            release = carried.release
            reason = await asyncio.to_thread(pooling.judge, release, seen, self.accuracy.get(release.model, {}))
            if reason is not None and carried.on_trial and self.carried.get(release.model) is carried:
                self._leave(carried, reason, now_us)
        self._tell()

    def _leave(self, carried: Carried, reason: str, now_us: int) -> None:
        """Its bounds: step 4."""
        self._end(carried, reason)
        name = carried.release.model
        self._verdicts[name] = Verdict(name, carried.release.number, reason, now_us)

    def _end(self, carried: Carried, reason: str) -> None:
        carried.ended = reason
        log.warning("release_ended", model=carried.release.model, release=carried.release.number, reason=reason)

    def _tell(self) -> None:
        if self._publish is None or (self._publishing is not None and not self._publishing.done()):
            return
        told = {verdict_document(name): msgspec.json.encode(verdict) for name, verdict in self._verdicts.items()}
        if self._lost is not None:
            told[RELEASES_DOCUMENT] = self._lost
        if told:
            self._publishing = asyncio.get_running_loop().create_task(self._put(told, self._publish))

    async def _put(self, told: dict[str, bytes], publish: Publish) -> None:
        for name, document in told.items():
            try:
                await asyncio.to_thread(publish, name, document)
            except FeatureFlowError as error:      # tried again at the next look, which has not found it
                log.warning("release_not_published", document=name, error=str(error))

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
        except Exception as error:  # whatever it is, what answers goes on answering
            self._refused[name] = (release, monotonic())
            problem = f"release {release.number} is not carried out here: {error}"
            if self.problems.get(name) != problem:
                unforeseen = not isinstance(error, ModelError)
                log.error("release_refused", model=name, release=release.number, error=str(error), unforeseen=unforeseen)
            self.problems[name] = problem
            if name not in self.carried:     # of a process that just began: the stable version at least, never one that was not released
                with suppress(Exception):
                    await self._models.hold(plan.model, release.arms[:1])
        finally:
            del self._tasks[name]
