"""Who gets which version while a release is under way, in this process: the release, its arms, and what each did lately."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.models.release import Arm, Release
from featureflow.models.verdict import Seen, Tally
from featureflow.reading.plan import ModelPlan
from featureflow.serve.request import Row
from featureflow.serve.wire.v1 import Assignment


class Count:
    """What a version did as an arm since this process began. Only grows. ``lacking``: rows that it was not asked with, since they lacked
    what it reads."""

    __slots__ = ("failed", "lacking", "rows", "runs", "seconds")

    def __init__(self) -> None:
        self.rows = self.failed = self.runs = self.lacking = 0
        self.seconds = 0.0

    @property
    def mean_ms(self) -> float | None:
        """Of one inference."""
        return 1e3 * self.seconds / self.runs if self.runs else None


class Assigned:
    """One arm of one release. Requests of the same arm carry the same object, so they travel together."""

    __slots__ = ("arm", "count", "logged", "release", "tally", "wire")

    def __init__(self, release: Release, arm: Arm, count: Count) -> None:
        self.release, self.arm, self.count = release, arm, count
        self.tally = Tally(release.bounds)
        self.wire = Assignment(release.number, arm.name)
        self.logged = msgspec.json.encode(self.wire).decode()

    def did(self, at_us: int, seconds: float, scores: NDArray[np.float64]) -> None:
        """One inference: how long it took, and its scores float64 (n,), NaN for a row that has none."""
        good = scores[np.isfinite(scores)]
        self._add(at_us, len(scores), len(scores) - len(good), seconds, good)

    def failed(self, at_us: int, rows: int) -> None:
        """An inference that broke: these rows have no score."""
        self._add(at_us, rows, rows, 0.0, np.empty(0))

    def _add(self, at_us: int, rows: int, failed: int, seconds: float, scores: NDArray[np.float64]) -> None:
        self.count.rows += rows
        self.count.failed += failed
        self.count.runs += 1
        self.count.seconds += seconds
        self.tally.add(at_us, rows=rows, failed=failed, seconds=seconds, scores=scores)


class Carried:
    """A model's release as this process carries it out. ``ended``: why its candidates answer nobody any more, else None."""

    __slots__ = ("_arms", "ended", "release")

    def __init__(self, release: Release, counts: dict[tuple[str, str, str], Count]) -> None:
        self.release = release
        self.ended: str | None = None
        self._arms = {
            arm.name: Assigned(release, arm, counts.setdefault((release.model, arm.name, arm.version), Count()))
            for arm in release.arms
        }

    @property
    def stable(self) -> Assigned:
        return self._arms[self.release.stable.name]

    @property
    def arms(self) -> list[Assigned]:
        """The stable one first."""
        return list(self._arms.values())

    @property
    def counts(self) -> list[tuple[Arm, Count]]:
        """Each arm, and what it did since this process began."""
        return [(one.arm, one.count) for one in self._arms.values()]

    @property
    def on_trial(self) -> bool:
        """Whether somebody may get a candidate."""
        return self.ended is None and len(self._arms) > 1

    def assign(self, plan: ModelPlan, request_id: str, rows: Sequence[Row]) -> Assigned | list[Assigned]:
        """The arm of a request; of each row, where these differ: rows of one request may be of several entities.

        A row without an entity, and a model that is not asked with one any more, go by the request's id.
        """
        if not self.on_trial:
            return self.stable
        sticky = self.release.sticky
        if sticky is None or sticky not in plan.join_keys:
            return self.assign_ids(request_id, [None])
        place = list(plan.join_keys).index(sticky)
        return self.assign_ids(request_id, [row.ids[place] for row in rows])

    def assign_ids(self, request_id: str, ids: Sequence[str | int | None]) -> Assigned | list[Assigned]:
        """The same by the ids of the entity that keeps its arm, one of each row."""
        alone = self._arms[self.release.arm_of(f"request:{request_id}").name]
        found = [alone if entity is None else self._arms[self.release.arm_of(unit_of(entity)).name] for entity in ids]
        return found[0] if all(one is found[0] for one in found) else found

    def seen(self, now_us: int) -> dict[str, Seen]:
        """By arm's name, what each did within the window."""
        return {name: arm.tally.seen(now_us) for name, arm in self._arms.items()}


def unit_of(entity: str | int) -> str:
    """What an entity is told apart by: 7 and "7" are two."""
    return f"{type(entity).__name__}:{entity}"
