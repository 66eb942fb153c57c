"""The features of events that have just arrived, from state that counts them.

The state is read until it is known to count each event: until what ``applied`` says of its partition is beyond its offset. That is waited
for until ``wait`` after the log took the event, and no longer: then it is scored as it stands, and the score says so. So a backlog, or
an ingest that is down, delays nothing twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import Clock
from featureflow.errors import UnavailableError
from featureflow.kernel.derive import features_to_inputs
from featureflow.reading.blocking import BlockingReader
from featureflow.reading.features import Features, finalize_or_missing
from featureflow.reading.fetch import Fetcher, Reading, Unread
from featureflow.reading.plan import ModelPlan, ViewPlan
from featureflow.reading.seen import feature_columns, rows_missing
from featureflow.store.online.protocol import OnlineStore
from featureflow.watch.watched import Id

FIRST_WAIT_S, LONGEST_WAIT_S = 0.002, 0.05  # until state is read again that does not count an event yet


@dataclass(frozen=True)
class Positions:
    """Of n events of one source: where they are in the log. ``newest_us``: when the log took the last of them."""

    source: str
    partitions: NDArray[np.int64]          # (n,)
    offsets: NDArray[np.int64]             # (n,)
    newest_us: int


@dataclass(frozen=True)
class ModelFeatures:
    """What a model reads of n events, at ``q_us``. ``found`` and ``places`` per view of the model: its features, each event's row there.

    ``behind`` (n,): the state of some view did not count the event when the wait was over.
    """

    plan: ModelPlan
    q_us: int
    found: list[Features]
    places: list[NDArray[np.intp]]
    behind: NDArray[np.bool_]

    def inputs(self, context: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """float64 (n, width), as the model's definition says. ``context``: ``request:field`` -> (n,)."""
        values = [found.values[place] for found, place in zip(self.found, self.places, strict=True)]
        columns = {**context, **feature_columns(self.plan, self.found, self.places, values)}
        return features_to_inputs(self.plan.model, columns)

    def degraded(self, row: int) -> list[str]:
        """What was degraded for this event: what its views say of the batch, and whether it was not counted."""
        said = dict.fromkeys(what for found in self.found for what in found.degraded)
        return [*said, *(["behind"] if self.behind[row] else [])]

    def missing(self) -> NDArray[np.bool_]:
        """(n,): a feature that the model reads is missing."""
        return rows_missing(self.plan, self.found, self.places, len(self.behind))

    def shown(self, row: int) -> dict[str, Any]:
        """Feature -> its value, as people read it, None where it is undefined."""
        return {u.reference: _defined(self.found[u.slot].shown(int(self.places[u.slot][row]), u.feature)) for u in self.plan.used}


class FeatureReader:
    """Belongs to one thread. ``clock`` says what now is for features, ``wall`` what it is for the store's and the log's times."""

    def __init__(self, online: OnlineStore, clock: Clock, wall: Clock, *, stale_after_us: int, wait_us: int) -> None:
        self._clock, self._wall, self._wait_us = clock, wall, wait_us
        self._fetcher = Fetcher(BlockingReader(online), wall, stale_after_us)
        self._loop = asyncio.new_event_loop()

    def read(self, plan: ModelPlan, ids: Mapping[str, Sequence[Id]], at: Positions, newest_event_us: int) -> ModelFeatures:
        """``ids``: by join key, one of each event. ``newest_event_us``: their newest event time, which is counted too.

        Raises UnavailableError where the store does not answer.
        """
        return self._loop.run_until_complete(self._read(plan, ids, at, newest_event_us))

    def close(self) -> None:
        self._loop.close()

    async def _read(self, plan: ModelPlan, ids: Mapping[str, Sequence[Id]], at: Positions, newest_event_us: int) -> ModelFeatures:
        wanted: dict[ViewPlan, dict[Id, int]] = {}
        places = []
        for view in plan.views:
            own = wanted.setdefault(view, {})
            places.append(np.array([own.setdefault(one, len(own)) for one in ids[view.view.join_key]], np.intp))
        pause_s = FIRST_WAIT_S
        while True:
            read = await self._fetcher.fetch({view: list(own) for view, own in wanted.items()}, None) if wanted else {}
            if isinstance(read, Unread):
                raise UnavailableError(read.detail)
            behind = np.zeros(len(at.offsets), np.bool_)
            for view, place in zip(plan.views, places, strict=True):
                if at.source in view.view.keys:
                    behind |= _uncounted(read[view], place, at)
            left_s = (at.newest_us + self._wait_us - self._wall.now_us()) * 1e-6
            if not behind.any() or left_s <= 0:
                break
            time.sleep(min(pause_s, left_s))  # nothing else runs in this loop
            pause_s = min(2 * pause_s, LONGEST_WAIT_S)
        q_us = max(self._clock.now_us(), newest_event_us)
        return ModelFeatures(plan, q_us, [finalize_or_missing(read[view], q_us) for view in plan.views], places, behind)


def _uncounted(reading: Reading, place: NDArray[np.intp], at: Positions) -> NDArray[np.bool_]:
    """(n,): whether the state is not known to count the event."""
    upto = [standing.applied.get(at.source, {}) for standing in reading.standings]
    of_rows = np.array(reading.places, np.intp)[place].tolist()
    known = zip(of_rows, at.partitions.tolist(), at.offsets.tolist(), strict=True)
    return np.array([upto[standing].get(partition, 0) <= offset for standing, partition, offset in known], np.bool_)


def _defined(value: float | str | list[float | str | None] | None) -> object:
    if isinstance(value, list):
        return [_defined(one) for one in value]
    return None if isinstance(value, float) and value != value else value
