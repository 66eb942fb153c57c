"""What all processes of a project saw of the candidates on trial: each tells the others through the online store, and judges the sum.

Nothing of it is in a request's way: one call a second for each model with a candidate, in a thread. What a process says is gone
``LIFE_MS`` after it has last said it. Where the store is away each judges what it saw itself, as it does in any case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import structlog

from featureflow import limits
from featureflow.errors import FeatureFlowError
from featureflow.models.pooled import heard, pooled, said
from featureflow.models.release import Release
from featureflow.models.verdict import Seen, judge
from featureflow.store.mirror import Accuracy, trial_name

LIFE_MS = 10_000
Share = Callable[[str, str, bytes, int, int], list[bytes]]
log = structlog.get_logger("featureflow.serve")


class Pooling:
    """``share``: see ``OnlineStore.share``. ``judge`` is called in one thread at a time."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._member = os.urandom(8).hex()
        self._problem = ""
        self.processes: dict[str, int] = {}  # model -> whose counts were judged together last, this one among them

    def judge(self, release: Release, seen: Mapping[str, Seen], accuracy: Mapping[str, Accuracy]) -> str | None:
        """Why the release's candidates must end by what all have seen; None while nothing speaks against them, or nobody else was heard.

        seen: by this process, by arm's name.
        """
        own = said(seen, self.processes.get(release.model, 1))
        try:
            documents = self._share(
                trial_name(release.model, release.number), self._member, own, LIFE_MS, limits.RELEASE_PROCESSES
            )
        except FeatureFlowError as error:
            self.processes[release.model] = 1
            if self._problem != str(error):
                self._problem = str(error)
                log.warning("release_counts_not_shared", model=release.model, error=self._problem)
            return None
        self._problem = ""
        members = [one for one in map(heard, (own, *documents)) if one is not None]
        self.processes[release.model] = len(members)
        if len(members) == 1:
            return None
        reason = judge(release, pooled(members), accuracy)
        return None if reason is None else f"{reason}; seen in {len(members)} processes together"
