"""What a batch means for the buckets that commit together, and the commits that it is cut into for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from featureflow.ingest.order import Index, in_order
from featureflow.store.online.protocol import Committed, Refused, Track
from featureflow.store.online.writes import Writes


@dataclass(frozen=True)
class Part:
    """What one commit of a batch holds: its events up to ``stop``, and what they change in its bucket."""

    stop: int
    writes: Writes
    rows: int                              # that they change


@dataclass
class Share:
    """What a batch means for some buckets that commit together: the commits that it is cut into, one after the other, how many were sent
    and how many applied."""

    tracks: tuple[Track, ...]              # all that stand where the batch begins, of one bucket or more
    start: int = 0                         # events of the batch that are committed past
    parts: list[Part] = field(default_factory=list)            # of the last ``fold``
    sent: int = 0
    times_ms: list[int] = field(default_factory=list)          # of those that were applied
    refused: Refused | None = None

    @property
    def part(self) -> Part | None:
        """The next one to send."""
        return self.parts[self.sent] if self.sent < len(self.parts) else None

    def folded(self, parts: Sequence[Part]) -> None:
        """It was cut into these, of which none is sent yet."""
        self.parts, self.sent, self.times_ms, self.refused = list(parts), 0, [], None

    def settle(self, answer: Committed | Refused) -> None:
        """What became of the next one that was sent. Behind one that was refused none is applied."""
        if isinstance(answer, Committed):
            self.start = self.parts[len(self.times_ms)].stop
            self.times_ms.append(answer.committed_ms)
        elif self.refused is None or answer.reason == "unknown":
            self.refused = answer


def commits_of(of: Index, ends: list[list[int]]) -> Index:
    """(n,) the number of each event's commit, counted over all shares: of those of no share, any.

    ``of`` (n,) is the number of each event's share, ``ends`` where the commits of each share end, as ``cuts.cuts`` has it.
    """
    places = np.arange(len(of))
    if len(ends) == 1:
        return np.asarray(ends[0]).searchsorted(places, side="right")
    span = len(of) + 1                     # above every place, so that a share and a place are one number
    every = np.concatenate([np.asarray(own) + i * span for i, own in enumerate(ends)])
    found: Index = every.searchsorted(of * span + places, side="right")
    return found


def by_share(found: Sequence[tuple[Index, Index, Index]], count: int) -> list[tuple[Index, Index]]:
    """Of each of ``count`` shares the places (p,) that are its own, in order, and the value of each.

    ``found``: several triples of (m,) the numbers of shares, those of none being ``count`` or above; places; values.
    """
    share, places, values = map(np.concatenate, zip(*found, strict=True))
    order = in_order(share, in_order(places))
    places, values = places[order], values[order]
    bounds = share[order].searchsorted(np.arange(count + 1)).tolist()
    return [(places[a:b], values[a:b]) for a, b in pairwise(bounds)]
