"""A release: which versions of a model answer, and whom each. Pure: what is decided here depends on its arguments alone.

A release never changes. Each step (``canary``, ``promote``, ``rollback`` ...) makes the next one, with the next number; the one with the
highest number is in force. Its first arm is the stable one, which whatever goes wrong falls back to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from featureflow.errors import ModelError, StateError
from featureflow.models.manifest import Manifest, check_name

WHOLE = 10_000                             # weights are shares of this
STABLE, CANARY, SHADOW = "stable", "canary", "shadow"
Step = Literal["release", "canary", "shadow", "promote", "rollback"]


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Arm(_Value, frozen=True):
    """A version and its share of the traffic, in 1/10,000.

    ``content`` is that of the version that was released (see ``content_of``): another one of the same name, on another machine or put in
    its place, does not answer for it.
    """

    name: str
    version: str
    weight: int
    content: str


class Bounds(_Value, frozen=True):
    """Where a candidate must stay; None: not looked at. What leaves them for sure, not by chance, ends it: see ``models.verdict``."""

    errors: float | None = 0.01            # largest share of rows that have no score
    latency_us: int | None = None          # that 99 of 100 inferences keep within
    score_drift: float | None = None       # largest distance of the distributions of scores (Kolmogorov-Smirnov), 0 to 1
    auc_loss: float | None = None          # largest loss of live AUC against the stable version
    calibration_loss: float | None = None  # largest growth of the live calibration error against the stable version
    least_rows: int = 100                  # before anything is said of errors, latency and scores
    least_labels: int = 200                # of each version, before anything is said of live accuracy
    window_us: int = 300_000_000           # how far back errors, latency and scores are looked at

    @property
    def told(self) -> str:
        """The bounds that there are, as the options of ``featureflow model canary`` that set them."""
        us = self.latency_us
        said = {
            "errors": self.errors,
            "latency": None if us is None else f"{us // 1000}ms" if us % 1000 == 0 else f"{us}us",
            "drift": self.score_drift,
            "auc-loss": self.auc_loss,
            "calibration-loss": self.calibration_loss,
        }
        return " ".join(f"--max-{name} {value}" for name, value in said.items() if value is not None) or "none"

    def __post_init__(self) -> None:
        for name, most in (("errors", 1.0), ("score_drift", 1.0), ("auc_loss", 1.0), ("calibration_loss", 1.0)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise ModelError(f"the bound {name} is {value}; it is a share between 0 and {most:g}")
        if self.latency_us is not None and self.latency_us <= 0:
            raise ModelError(f"the bound latency_us is {self.latency_us}; it is more than 0")
        if min(self.least_rows, self.least_labels) < 1 or self.window_us < 1_000_000:
            raise ModelError("least_rows and least_labels are at least 1, and window_us at least a second")


class Release(_Value, frozen=True):
    """``sticky``: the join key whose entity keeps its arm; None: each request by itself. ``shadow``: scores, and answers none."""

    model: str
    number: int
    step: Step
    made_at_us: int
    arms: tuple[Arm, ...]
    salt: str                              # of the hash that chooses; kept while the candidate is the same, so that nobody changes sides
    sticky: str | None = None
    shadow: Arm | None = None
    bounds: Bounds = Bounds()
    reason: str = ""                       # why, where it was not simply asked for

    def __post_init__(self) -> None:
        if not self.arms or sum(arm.weight for arm in self.arms) != WHOLE or min(arm.weight for arm in self.arms) < 0:
            weights = [arm.weight for arm in self.arms]
            raise ModelError(f"the weights of a release of {self.model} are {weights}; they make {WHOLE:,} in all")
        arms = (*self.arms, *([self.shadow] if self.shadow else ()))
        for what in ("name", "version"):
            values = [getattr(arm, what) for arm in arms]
            if len(set(values)) != len(values):
                raise ModelError(f"two arms of a release of {self.model} have the {what} {max(values, key=values.count)}; name each once")
        for name in (name for arm in arms for name in (arm.name, arm.version)):
            check_name(name, "an arm or version")

    @property
    def stable(self) -> Arm:
        """The arm that answers whom no candidate does, and everybody once a candidate has ended."""
        return self.arms[0]

    @property
    def candidates(self) -> tuple[Arm, ...]:
        """The arms that are on trial."""
        return self.arms[1:]

    def arm_of(self, unit: str) -> Arm:
        """The arm of an entity or of a request, always the same for one ``unit``.

        The first candidate has the points from 0 up to its weight, so one that is given more weight keeps whom it has.
        """
        if len(self.arms) == 1:
            return self.stable
        at = point(self.salt, unit)
        for arm in self.candidates:
            if at < arm.weight:
                return arm
            at -= arm.weight
        return self.stable


def point(salt: str, unit: str) -> int:
    """0 <= point < 10,000: the same for the same salt and unit everywhere, evenly spread (BLAKE2b, keyed by the salt)."""
    digest = hashlib.blake2b(unit.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "big") * WHOLE >> 64


def content_of(manifest: Manifest) -> str:
    """What a version computes, as one SHA-256: its ONNX file, what goes into it, what that is computed from, and which of its values is
    the score.

    ``quantize`` does not change it.
    """
    known = () if manifest.reads is None else (manifest.reads,)  # none of versions that were added before there was this
    takes = (manifest.inputs, manifest.transforms, manifest.tensor, manifest.tensors, *known)
    body = (manifest.variants["fp32"].sha256, takes, manifest.output, manifest.column)
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest()


def decoded(document: str | bytes, model: str) -> Release:
    """Raises StateError where another version of FeatureFlow wrote it."""
    try:
        return msgspec.json.decode(document, type=Release)
    except (msgspec.MsgspecError, ModelError) as error:
        raise StateError(f"the release of {model} was written by another version of FeatureFlow ({error}): use that version") from error


def check_released(manifest: Manifest, content: str, path: Path) -> None:
    """content: of the version that was released under this name. path: the folder that the manifest was read from.

    Raises ModelError where this is another version.
    """
    if content_of(manifest) != content:
        raise ModelError(
            f"model {manifest.name}@{manifest.version} in {path} is another one than was released under that name; "
            "put the released one there, or add this one as a version of its own"
        )


# -- the steps ---------------------------------------------------------------------------------------------------------

def release(before: Release | None, arm: Arm, *, model: str, now_us: int, salt: str, bounds: Bounds | None = None) -> Release:
    """One version for everybody; candidate and shadow end."""
    kept = bounds if bounds is not None else before.bounds if before is not None else Bounds()
    return Release(
        model=model, number=_next(before), step="release", made_at_us=now_us, salt=salt, arms=(_whole(arm),), bounds=kept,
    )  # fmt: skip


def canary(
    before: Release, arm: Arm, *, now_us: int, salt: str, sticky: str | None = None, bounds: Bounds | None = None
) -> Release:
    """``arm`` gets its weight, the stable version the rest. The same candidate again changes its weight and keeps whom it has.

    Raises ModelError where the candidate is the stable version, or has no weight.
    """
    if arm.version == before.stable.version:
        raise ModelError(f"{before.model}@{arm.version} is the stable version already; give another one as candidate")
    if not 0 < arm.weight < WHOLE:
        raise ModelError(f"a candidate gets more than nothing and less than all, not {arm.weight} of {WHOLE:,}: promote it to give it all")
    same = [known.version for known in before.candidates] == [arm.version]
    shadow = before.shadow if before.shadow is not None and before.shadow.version != arm.version else None
    return Release(
        model=before.model, number=_next(before), step="canary", made_at_us=now_us,
        arms=(msgspec.structs.replace(before.stable, weight=WHOLE - arm.weight), arm),
        salt=before.salt if same else salt,
        sticky=sticky if sticky is not None or not same else before.sticky,
        shadow=shadow,
        bounds=bounds if bounds is not None else before.bounds,
    )  # fmt: skip


def shadow(before: Release, arm: Arm | None, *, now_us: int) -> Release:
    """``arm`` scores what is asked beside those that answer; None: no longer."""
    if arm is not None and (same := next((known for known in before.arms if known.version == arm.version), None)):
        raise ModelError(f"{before.model}@{arm.version} answers already, as {same.name}; a shadow is a version that does not")
    return _after(before, "shadow", now_us, shadow=None if arm is None else msgspec.structs.replace(arm, name=SHADOW, weight=0))


def promote(before: Release, *, now_us: int) -> Release:
    """The candidate becomes the stable version, for everybody. Raises ModelError where there is none."""
    if not before.candidates:
        raise ModelError(f"{before.model} has no candidate to promote; begin with: featureflow model canary {before.model} VERSION")
    return _after(before, "promote", now_us, arms=(_whole(before.candidates[0]),), sticky=None)


def rollback(past: Sequence[Release], *, now_us: int, reason: str = "") -> Release:
    """The candidate ends; where there is none, the stable version before this one answers again.

    past: the model's releases, oldest first. Raises ModelError where nothing is to go back to.
    """
    if not past:
        raise ModelError("nothing was released, so there is nothing to go back to; see: featureflow model releases")
    before = past[-1]
    if before.candidates:
        return _after(before, "rollback", now_us, arms=(_whole(before.stable),), sticky=None, reason=reason)
    gone = {before.stable.version}
    for earlier in reversed(past[:-1]):
        if earlier.stable.version not in gone and not _left(past, earlier):
            return _after(before, "rollback", now_us, arms=(_whole(earlier.stable),), shadow=None, reason=reason)
    raise ModelError(
        f"{before.model} had no stable version before {before.stable.version}; name one: featureflow model release {before.model} VERSION"
    )


def _left(past: Sequence[Release], release: Release) -> bool:
    """Whether the version of this release was rolled back from later, and not released since: going back does not go there."""
    version = release.stable.version
    for earlier, later in zip(reversed(past[:-1]), reversed(past[1:]), strict=True):
        if later.step in ("release", "promote") and later.stable.version == version:
            return False
        if later.step == "rollback" and earlier.stable.version == version != later.stable.version:
            return True
    return False


def _after(before: Release, step: Step, now_us: int, **changes: object) -> Release:
    return msgspec.structs.replace(before, number=_next(before), step=step, made_at_us=now_us, **{"reason": "", **changes})


def _whole(arm: Arm) -> Arm:
    return msgspec.structs.replace(arm, name=STABLE, weight=WHOLE)


def _next(before: Release | None) -> int:
    return 1 if before is None else before.number + 1
