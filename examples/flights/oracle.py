"""What every feature must be, computed the slow and obvious way from the raw data.

Standard library only, nothing of featureflow: the views are restated here in plain Python, events are kept in lists in the order in
which the log took them, and a value is a loop over them. ``applied`` (from the server's answer) says which of them count.

The window rule: an event counts iff its offset < applied of its partition, it was not late (older than the partition's running maximum
less longest window and disorder), ``floor(t, T) >= floor(q - w, T)`` and ``floor(t, finest) <= q``; T is the window's tile.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
LADDER = [s * SECOND for s in (1, 10, 60, 300, 900, 3600, 21600, 86400)]
DISORDER = 600 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME_FIELD = {"departure": "left_at", "arrival": "landed_at"}

Raw = dict[str, object]


@dataclass(frozen=True, slots=True)
class Seen:
    """An event where the log put it."""

    time: int
    partition: int
    offset: int
    late_by: int  # how far behind its partition's running maximum it was
    raw: Raw


def delay(event: Raw) -> float | None:
    value = event["delay_min"]
    return None if value is None else float(value)  # type: ignore[arg-type]  # raw JSON


def is_late(event: Raw) -> bool:
    value = delay(event)
    return value is not None and value > 15


# feature -> (operation, source, window, which events count)
Definition = tuple[str, str, int, Callable[[Raw], bool]]


def _every(event: Raw) -> bool:
    return True


def _cancelled(event: Raw) -> bool:
    return event["cancelled"] is True


def _diverted(event: Raw) -> bool:
    return event["diverted"] is True


VIEWS: dict[str, tuple[str, dict[str, Definition]]] = {
    "carrier_now": (
        "carrier",
        {
            "flights_1h": ("count", "departure", HOUR, _every),
            "flights_6h": ("count", "departure", 6 * HOUR, _every),
            "cancelled_6h": ("count", "departure", 6 * HOUR, _cancelled),
            "dep_delay_1h": ("mean", "departure", HOUR, _every),
            "dep_delay_6h": ("mean", "departure", 6 * HOUR, _every),
            "arr_delay_1h": ("mean", "arrival", HOUR, _every),
            "arr_delay_6h": ("mean", "arrival", 6 * HOUR, _every),
            "landed_6h": ("count", "arrival", 6 * HOUR, _every),
            "late_6h": ("count", "arrival", 6 * HOUR, is_late),
        },
    ),
    "origin_now": (
        "origin",
        {
            "flights_1h": ("count", "departure", HOUR, _every),
            "flights_3h": ("count", "departure", 3 * HOUR, _every),
            "cancelled_3h": ("count", "departure", 3 * HOUR, _cancelled),
            "cancelled_12h": ("count", "departure", 12 * HOUR, _cancelled),
            "dep_delay_1h": ("mean", "departure", HOUR, _every),
            "dep_delay_3h": ("mean", "departure", 3 * HOUR, _every),
            "spread_3h": ("stddev", "departure", 3 * HOUR, _every),
            "worst_1h": ("max", "departure", HOUR, _every),
            "late_1h": ("count", "departure", HOUR, is_late),
            "late_3h": ("count", "departure", 3 * HOUR, is_late),
        },
    ),
    "dest_now": (
        "dest",
        {
            "arr_delay_3h": ("mean", "arrival", 3 * HOUR, _every),
            "arr_delay_12h": ("mean", "arrival", 12 * HOUR, _every),
            "landed_12h": ("count", "arrival", 12 * HOUR, _every),
            "late_12h": ("count", "arrival", 12 * HOUR, is_late),
            "diverted_12h": ("count", "arrival", 12 * HOUR, _diverted),
            "cancelled_12h": ("count", "departure", 12 * HOUR, _cancelled),
        },
    ),
    "route_now": (
        "route",
        {
            "dep_delay_6h": ("mean", "departure", 6 * HOUR, _every),
            "dep_delay_7d": ("mean", "departure", 7 * DAY, _every),
            "arr_delay_12h": ("mean", "arrival", 12 * HOUR, _every),
            "arr_delay_7d": ("mean", "arrival", 7 * DAY, _every),
        },
    ),
    "aircraft_now": (
        "aircraft",
        {
            "last_delays": ("last_8", "arrival", 0, _every),
            "last_departure_6h": ("last", "departure", 6 * HOUR, _every),
            "last_departure_1d": ("last", "departure", DAY, _every),
            "arr_delay_6h": ("mean", "arrival", 6 * HOUR, _every),
            "arr_delay_1d": ("mean", "arrival", DAY, _every),
        },
    ),
}
EXPIRES = 30 * DAY  # aircraft_now's ttl, for last_8
KEYS = ("carrier", "origin", "dest", "route", "aircraft")


def tile(window: int) -> int:
    fitting = [t for t in LADDER if window // t >= 12]
    return fitting[-1] if fitting else LADDER[0]


def floor(time: int, size: int) -> int:
    return time // size * size


def micros(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


class Oracle:
    def __init__(self) -> None:
        self._events: dict[tuple[str, str, str], list[Seen]] = defaultdict(
            list
        )  # (source, key field, id) -> as they came
        self._newest: dict[tuple[str, int], int] = {}
        self.ends: dict[tuple[str, int], int] = {}  # (source, partition) -> next offset
        self.newest = 0

    def take(self, source: str, event: Raw, partition: int, offset: int) -> None:
        """An event that the log has put at this place. Call in offset order."""
        time = micros(str(event[TIME_FIELD[source]]))
        place = (source, partition)
        self._newest[place] = max(self._newest.get(place, time), time)
        self.newest = max(self.newest, time)
        self.ends[place] = offset + 1
        seen = Seen(time, partition, offset, self._newest[place] - time, event)
        for key in KEYS:
            if event[key] is not None:
                self._events[source, key, str(event[key])].append(seen)

    def ids(self, view: str) -> list[str]:
        key = VIEWS[view][0]
        return sorted({entity for _, field, entity in self._events if field == key})

    def features(
        self,
        view: str,
        entity: str,
        q: int,
        applied: dict[str, dict[int, int]],
        without_flight: int | None = None,
        known_by: int | None = None,
    ) -> dict[str, object]:
        """Feature -> value at ``q``; None where no event counts; for last_8 a list of eight.

        ``known_by``: only events that had happened by then count, whatever was applied (a training row's view of the past).
        """
        key, definitions = VIEWS[view]
        answer: dict[str, object] = {}
        for name, (operation, source, window, counts) in definitions.items():
            finest, longest = self._windows(view, source)
            known = applied.get(source, {})
            oldest = None if longest is None else longest + DISORDER
            used = []
            for seen in self._candidates((source, key, entity), q, window):
                if seen.offset >= known.get(seen.partition, 0) or seen.raw["flight"] == without_flight:
                    continue
                if known_by is not None and seen.time > known_by:
                    continue
                if oldest is not None and seen.late_by > oldest:
                    continue
                if floor(seen.time, finest) > q or (
                    window and floor(seen.time, tile(window)) < floor(q - window, tile(window))
                ):
                    continue
                if counts(seen.raw):
                    used.append(seen)
            answer[name] = _value(operation, used, q)
        return answer

    def _candidates(self, place: tuple[str, str, str], q: int, window: int) -> list[Seen]:
        """Events that may count. Lists are nearly in time order, so the far past of a bounded window is skipped, generously."""
        events = self._events.get(place, [])
        if not window or len(events) < 64:
            return events
        return events[bisect_left(events, q - window - 3 * DAY, key=lambda seen: seen.time) :]

    @staticmethod
    def _windows(view: str, source: str) -> tuple[int, int | None]:
        windows = [w for _, s, w, _ in VIEWS[view][1].values() if s == source]
        finest = min((tile(w) for w in windows if w), default=0)
        return finest or 1, (EXPIRES if 0 in windows else max(windows))


def _value(operation: str, used: list[Seen], q: int) -> object:
    if operation == "count":
        return float(len(used))
    pairs = [(seen.time, seen.partition, seen.offset, value) for seen in used if (value := delay(seen.raw)) is not None]
    values = [pair[3] for pair in pairs]
    if operation == "last_8":
        newest = [pair[3] for pair in sorted(pairs, reverse=True)[:8] if pair[0] >= q - EXPIRES]
        return newest + [None] * (8 - len(newest))
    if not values:
        return None
    if operation == "mean":
        return float(sum(map(Fraction, values))) / len(values)
    if operation == "max":
        return max(values)
    if operation == "last":
        return max(pairs)[3]
    if operation == "stddev":
        n, total, squares = len(values), sum(map(Fraction, values)), sum(Fraction(v) ** 2 for v in values)
        return math.sqrt(float((n * squares - total * total) / (n * n)))
    raise ValueError(operation)
