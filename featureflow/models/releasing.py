"""Steps of a model's releases, taken: a version is loaded and checked here, the release recorded, and scorers told.

What a step makes of the one before is decided in ``models.release``; where it is kept, in ``store.releases``.
"""

from __future__ import annotations

import secrets

import msgspec

from featureflow.clock import Clock
from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models import release as steps
from featureflow.models.release import CANARY, SHADOW, STABLE, WHOLE, Arm, Bounds, Release, content_of, decoded
from featureflow.models.store import ModelStore
from featureflow.models.verdict import Verdict, read_verdict
from featureflow.store.mirror import verdict_document
from featureflow.store.online.protocol import OnlineStore
from featureflow.store.releases import ReleaseRow, Releases


class Releasing:
    """For one project, by hand. Every step raises ModelError for what is wrong with it or with a version, HistoryError where another
    step was taken meanwhile, and UnavailableError."""

    def __init__(self, releases: Releases, online: OnlineStore, store: ModelStore, clock: Clock, project: spec.Project) -> None:
        """project: the definitions that are applied, by which a version's inputs must be there to compute."""
        self._releases, self._online, self._store, self._clock, self._project = releases, online, store, clock, project

    def past(self, model: str) -> list[Release]:
        """The model's releases, oldest first. One that a scorer has ended by itself is written down here first."""
        past = [decoded(row.document, model) for row in self._releases.of(model)]
        if past and past[-1].candidates and (verdict := self._verdict(model)) is not None and verdict.number == past[-1].number:
            reason = f"by itself: {verdict.reason}"
            past.append(self._record(steps.rollback(past, now_us=verdict.at_us, reason=reason)))
        return past

    def release(self, model: spec.Model, ref: str | None, *, bounds: Bounds | None = None) -> Release:
        """This version for everybody."""
        arm = self._arm(model, ref, STABLE, WHOLE)
        past = self.past(model.name)
        return self._record(
            steps.release(
                past[-1] if past else None, arm, model=model.name, now_us=self._clock.now_us(), salt=_salt(), bounds=bounds
            )
        )

    def canary(
        self,
        model: spec.Model,
        ref: str,
        weight: int,
        *,
        stable: str | None = None,
        sticky: str | None = None,
        bounds: Bounds | None = None,
    ) -> Release:
        """This version for ``weight`` of 10,000. stable: the version for the others, where none is released yet."""
        arm = self._arm(model, ref, CANARY, weight)
        past = self.past(model.name)
        if past and stable is not None and self._store.resolve(model.name, stable) != past[-1].stable.version:
            raise ModelError(
                f"{past[-1].stable.version} is the stable version of {model.name}; release another one first: "
                f"featureflow model release {model.name} {stable}"
            )
        before = past[-1] if past else self._first(model, stable, arm)
        made = steps.canary(before, arm, now_us=self._clock.now_us(), salt=_salt(), sticky=sticky, bounds=bounds)
        if not past:
            self._record(before)
        return self._record(made)

    def shadow(self, model: spec.Model, ref: str | None) -> Release:
        """This version beside those that answer; None: no longer."""
        arm = None if ref is None else self._arm(model, ref, SHADOW, 0)
        past = self.past(model.name)
        if past:
            return self._record(steps.shadow(past[-1], arm, now_us=self._clock.now_us()))
        if arm is None:
            raise ModelError(f"{model.name} has no shadow: nothing of it was released")
        first = self._first(model, None, arm)
        shadowed = steps.shadow(first, arm, now_us=self._clock.now_us())
        self._record(first)
        return self._record(shadowed)

    def promote(self, model: str) -> Release:
        """The candidate for everybody."""
        past = self.past(model)
        if not past:
            raise ModelError(f"nothing of {model} was released; begin with: featureflow model release {model} VERSION")
        if past[-1].step == "rollback" and past[-1].reason:
            raise ModelError(
                f"the candidate of {model} was rolled back, {past[-1].reason}. Begin again: featureflow model canary {model} VERSION"
            )
        return self._record(steps.promote(past[-1], now_us=self._clock.now_us()))

    def rollback(self, model: str, reason: str = "") -> Release:
        """The candidate for nobody; where there is none, the stable version before this one."""
        known = len(self._releases.of(model))
        past = self.past(model)
        if len(past) > known:
            return past[-1]                # a scorer was first, and nobody meant to go back twice
        return self._record(steps.rollback(past, now_us=self._clock.now_us(), reason=reason))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _first(self, model: spec.Model, stable: str | None, arm: Arm) -> Release:
        """Of a model that was never released, for which ``latest`` answers."""
        version = self._store.resolve(model.name, stable)
        if version == arm.version:
            raise ModelError(
                f"{model.name}@{version} is the latest version, which answers everybody as long as nothing is released. Say which version "
                f"the others get: --stable VERSION"
            )
        first = self._arm(model, version, STABLE, WHOLE)
        return steps.release(None, first, model=model.name, now_us=self._clock.now_us(), salt=_salt())

    def _arm(self, model: spec.Model, ref: str | None, name: str, weight: int) -> Arm:
        """A version that was loaded here: its file is the one that was added, its inputs are there to compute, and it answers."""
        loaded = self._store.load(model.name, ref, project=self._project)
        return Arm(name=name, version=loaded.version, weight=weight, content=content_of(loaded.manifest))

    def _record(self, release: Release) -> Release:
        document = msgspec.json.encode(release).decode()
        self._releases.add(ReleaseRow(release.model, release.number, release.made_at_us, document))
        return release

    def _verdict(self, model: str) -> Verdict | None:
        return read_verdict(self._online.get_meta(verdict_document(model)))


def _salt() -> str:
    return secrets.token_hex(16)
