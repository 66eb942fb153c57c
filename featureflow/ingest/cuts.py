"""Where events are cut into commits: one Lua call may hold readers up only so long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from featureflow import limits
from featureflow.ingest.order import Index


class Changes(NamedTuple):
    """Events that change something: rows, or keys."""

    places: Index                          # (m,) among the batch's events
    before: Index                          # (m,) the place of the event before that changes the same; -1 where there is none

    def times(self, weight: int) -> Changes:
        """Each of them so many times: it counts as several."""
        return self if weight == 1 else Changes(self.places.repeat(weight), self.before.repeat(weight))


class Whole(NamedTuple):
    """Events with which entities are written whole."""

    places: Index                          # (w,) among the batch's events
    rows: Index                            # (w,) of those entities; one counts as several where it is wide


def weight(data_bytes: int) -> int:
    """As how many rows so many bytes count."""
    return max(1, -(-data_bytes // limits.ROW_BYTES))


def cuts(changes: Sequence[tuple[Changes, int]], whole: Whole, start: int, stop: int, *, rewritten: int) -> list[int]:
    """Where each commit of the events ``start`` to ``stop`` ends: at least one, the last at ``stop``.

    A commit has as many events as change at most so much of each kind, and write at most ``rewritten`` rows whole; and at least one event.
    All are in order of their places, of which none is before ``start``.
    """
    heavy = whole.rows.cumsum()
    ends: list[int] = []
    at = start
    while at < stop:
        first = int(whole.places.searchsorted(at))
        over = int(heavy.searchsorted((heavy[first - 1] if first else 0) + rewritten, side="right"))
        end = int(whole.places[over]) if over < len(heavy) else stop
        for (places, before), most in changes:
            first, last = places.searchsorted((at, end)).tolist()
            if last - first > most:
                over = first + int((before[first:last] < at).cumsum().searchsorted(most, side="right"))
                end = int(places[over]) if over < last else end
        at = max(end, at + 1)
        ends.append(at)
    return ends or [stop]
